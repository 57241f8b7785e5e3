"""How PyTorch's threads wait for each other."""

from __future__ import annotations

import os

import pytest

from mead.openmp import LOWEST_SPIN_COUNT, SPIN_COUNT, wait_briefly, wait_least


@pytest.mark.parametrize(("given", "then"), [(None, SPIN_COUNT), ("300000", "300000")])
def test_the_environment_may_say_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, then: str
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == then


def test_the_face_finder_always_waits_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have inherited what `mead serve` has set."""
    monkeypatch.setenv("GOMP_SPINCOUNT", SPIN_COUNT)
    wait_least()
    assert os.environ["GOMP_SPINCOUNT"] == LOWEST_SPIN_COUNT
