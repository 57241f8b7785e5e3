"""PyTorch's threads, as one thread of ours sees them: how many there are, and when they end."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

SOFT = 1  # of OpenMP's two ways to pause, the one that keeps all settings


@lru_cache
def openmp(name: str) -> Any:
    """A function of the OpenMP library that PyTorch is linked to; None if it has none of this name."""
    try:
        return getattr(ctypes.CDLL(torch._C.__file__), name)
    except (OSError, AttributeError):
        return None


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Let PyTorch divide what the calling thread computes between so many threads.

    `torch.set_num_threads` would also set the number for all threads that begin meanwhile, such as another
    engine's.
    """
    before = torch.get_num_threads()  # first: it sets the number of a thread that has not used PyTorch yet
    set_number = openmp("omp_set_num_threads")
    if set_number is None:
        yield
        return
    set_number(number)
    try:
        yield
    finally:
        set_number(before)


def end_threads() -> None:
    """End the threads that PyTorch has started for the calling thread; it starts others when it needs them.

    Each thread of ours that computes has its own. Their OpenMP library counts them, even while they sleep:
    once there are more than cores, they sleep at once when they wait for each other, see `mead.openmp`.
    """
    pause = openmp("omp_pause_resource_all")
    if pause is not None:
        pause(SOFT)
