"""Parts of a batch side by side."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from mead.nn.side_by_side import side_by_side


@pytest.mark.parametrize(
    ("cores", "jobs", "sizes", "threads"),
    [(2, 1, [1], 2), (2, 2, [1, 1], 1), (2, 5, [2, 3], 1), (4, 2, [1, 1], 2), (1, 3, [3], 1)],
)
@pytest.mark.usefixtures("two_cores")
def test_each_part_has_its_share_of_the_cores(cores: int, jobs: int, sizes: list[int], threads: int) -> None:
    torch.set_num_threads(cores)
    parts: list[tuple[int, int]] = []
    done: list[int] = []
    together = threading.Barrier(len(sizes))  # a part waits until all have begun

    def work(part: Sequence[int]) -> None:
        together.wait(30)
        parts.append((len(part), torch.get_num_threads()))
        done.extend(part)

    side_by_side(work, range(jobs))
    assert sorted(parts) == [(size, threads) for size in sizes]
    assert sorted(done) == list(range(jobs))
    assert torch.get_num_threads() == cores


@pytest.mark.usefixtures("two_cores")
def test_a_part_that_fails_does_not_stop_the_other() -> None:
    done: list[int] = []

    def work(part: Sequence[int]) -> None:
        if 0 in part:
            raise ArithmeticError("part 0")
        done.extend(part)

    with pytest.raises(ArithmeticError, match="part 0"):
        side_by_side(work, [0, 1, 2, 3])
    assert done == [1, 3]


@pytest.mark.usefixtures("two_cores")
def test_a_thread_that_begins_meanwhile_has_all_cores() -> None:
    """As an engine's that makes its first step while another model's jobs are side by side."""
    seen: list[int] = []

    def work(part: Sequence[int]) -> None:
        if 0 in part:
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()

    for _ in range(20):
        side_by_side(work, [0, 1])
    assert seen == [2] * 20
