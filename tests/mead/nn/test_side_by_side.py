"""Parts of a batch side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
import torch

from mead.nn.paces import Paces
from mead.nn.side_by_side import side_by_side


def take(work: Callable[[Sequence[int]], None], jobs: Sequence[int], paces: Paces | None = None) -> None:
    side_by_side(work, jobs, paces or Paces(), lambda job: job)


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

    take(work, range(jobs))
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
        take(work, [0, 1, 2, 3])
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
        take(work, [0, 1])
    assert seen == [2] * 20


@pytest.mark.usefixtures("two_cores")
def test_one_job_has_the_threads_that_are_fastest() -> None:
    now = 0.0
    threads: list[int] = []

    def work(jobs: Sequence[int]) -> None:
        nonlocal now
        threads.append(torch.get_num_threads())
        now += {1: 0.07, 2: 0.24}[threads[-1]]

    paces = Paces(lambda: now)
    for _ in range(20):
        take(work, [5], paces)
        assert torch.get_num_threads() == 2
    assert threads == [2, 1, 2] + [1] * 17


@pytest.mark.usefixtures("two_cores")
def test_one_job_that_fails_leaves_all_threads() -> None:
    def work(jobs: Sequence[int]) -> None:
        raise ArithmeticError

    paces = Paces(iter(range(100)).__next__)
    take(lambda jobs: None, [5], paces)  # on all threads; the next is on one
    with pytest.raises(ArithmeticError):
        take(work, [5], paces)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("cores", "jobs"), [(1, [5]), (2, [])])
@pytest.mark.usefixtures("two_cores")
def test_nothing_is_measured_where_there_is_no_choice(cores: int, jobs: list[int]) -> None:
    def clock() -> float:
        raise AssertionError

    torch.set_num_threads(cores)
    take(lambda jobs: None, jobs, Paces(clock))


@pytest.mark.usefixtures("two_cores")
def test_two_pipelines_leave_all_threads_to_each_other() -> None:
    """Each steps in a thread of its own."""
    seen: list[int] = []

    def engine() -> None:
        paces = Paces()
        for _ in range(50):
            take(lambda jobs: None, [0], paces)
            seen.append(torch.get_num_threads())

    engines = [threading.Thread(target=engine) for _ in range(2)]
    for each in engines:
        each.start()
    for each in engines:
        each.join(60)
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join(60)
    assert seen == [2] * 101
    assert torch.get_num_threads() == 2
