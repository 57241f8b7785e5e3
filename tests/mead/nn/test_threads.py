"""The number of PyTorch's threads in one thread alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from mead.nn.threads import end_threads, own_threads


def in_a_new_thread() -> int:
    """The number there."""
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    return seen[0]


@pytest.mark.usefixtures("two_cores")
def test_only_the_calling_thread_has_another_number() -> None:
    with own_threads(1):
        assert (torch.get_num_threads(), in_a_new_thread()) == (1, 2)
    assert (torch.get_num_threads(), in_a_new_thread()) == (2, 2)


@pytest.mark.usefixtures("two_cores")
def test_the_number_is_restored_after_an_error() -> None:
    with pytest.raises(ArithmeticError), own_threads(1):
        raise ArithmeticError
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_cores")
def test_threads_end_and_others_are_started() -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    for _ in range(2):
        assert torch.ones(1_000_000).mul(2).sum() == 2_000_000
        before = running()
        end_threads()
        deadline = time.monotonic() + 10
        while running() >= before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running() == before - 1
    end_threads()
    assert torch.get_num_threads() == 2
