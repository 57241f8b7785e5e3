"""PyTorch's threads, as one thread of ours sees them: how many there are, and when they end."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

SOFT = 1  # of OpenMP's two ways to pause, the one that keeps all settings


def _openmp(name: str) -> Callable[[int], object]:
    """OpenMP's function of this name, of a number; one that does nothing if PyTorch is not linked to it."""
    try:
        function = getattr(ctypes.CDLL(torch._C.__file__), name)
    except (OSError, AttributeError):
        return lambda number: None
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
    return function


_set_own_number = _openmp("omp_set_num_threads")
_pause = _openmp("omp_pause_resource_all")


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Let PyTorch divide what the calling thread computes between so many threads.

    `torch.set_num_threads` would also set the number for all threads that begin meanwhile, such as another
    engine's.
    """
    before = torch.get_num_threads()  # first: it sets the number of a thread that has not used PyTorch yet
    _set_own_number(number)
    try:
        yield
    finally:
        _set_own_number(before)


def end_threads() -> None:
    """End the threads that PyTorch has started for the calling thread; it starts others when it needs them.

    Each thread of ours that computes has its own. Their OpenMP library counts them, even while they sleep:
    once there are more than cores, they sleep at once when they wait for each other, see `mead.openmp`.
    """
    _pause(SOFT)
