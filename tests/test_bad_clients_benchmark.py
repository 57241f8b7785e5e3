"""Ordinary requests are answered whatever others do: a short run of benchmarks/bad_clients.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bad_clients import KINDS, run

pytestmark = pytest.mark.service


def test_bad_clients_stop_nobody(tmp_path: Path) -> None:
    found = list(run(tmp_path, seconds=0.5, size=200))
    assert [one.kind for one in found] == list(KINDS)
    for one in found:
        assert not one.alone.wrong and not one.beside.wrong
        assert all(one.beside.times.values())
    assert "crashed" not in (tmp_path / "caching_server.log").read_text()
