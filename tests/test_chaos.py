"""Nothing is lost whatever is killed: a short run of benchmarks/chaos.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import run

pytestmark = pytest.mark.service


def test_nothing_is_lost(tmp_path: Path) -> None:
    found = run(tmp_path, jobs=20, seconds=20, seed=1)
    assert not found.wrong, "\n".join(found.wrong)  # pytest would shorten a list
    assert found.clean, (found.books, found.died)
    assert found.books.accepted == 20 and found.books.webhooks >= sum(found.books.ended.values())
    assert (
        sum(found.books.ended.values()) + found.books.forgotten >= 20 and found.books.ended["succeeded"] > 0
    )
    assert sum(found.hits.values()) > 0
