"""Loading networks once per process, safely with threads; a forked process is told what to do."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

T = TypeVar("T")


class OncePerProcess(Generic[T]):
    """Caches a function that loads a weights set onto a device: each pair is loaded once and shared.

    Threads that ask for the same pair at the same time wait for the first one to load it. A failed load is
    tried again at the next call.

    Raises:
        RuntimeError: in a process forked from one that has loaded something, where PyTorch would hang.
    """

    _process: ClassVar[int | None] = None  # the process that loaded first, with any of the functions

    def __init__(self, load: Callable[[str, str], T]) -> None:
        functools.update_wrapper(self, load)
        self._load = load
        self._loaded: dict[tuple[str, str], T] = {}
        self._locks: dict[int, threading.Lock] = {}  # by process: a lock inherited from a parent may be held

    def __call__(self, weights: str = "demo", device: str = "cpu") -> T:
        _check_not_forked(OncePerProcess._process, device)
        if (weights, device) not in self._loaded:
            with self._locks.setdefault(os.getpid(), threading.Lock()):
                if (weights, device) not in self._loaded:
                    OncePerProcess._process = OncePerProcess._process or os.getpid()
                    self._loaded[weights, device] = self._load(weights, device)
        return self._loaded[weights, device]


def _check_not_forked(loaded_by: int | None, device: str) -> None:
    """Refuse a fork: it has none of PyTorch's threads, which the next parallel loop would wait for for ever,
    and no GPU context. With one thread on the CPU there is nothing to wait for.
    """
    if loaded_by in (None, os.getpid()):
        return
    import torch

    if torch.device(device).type == "cpu" and torch.get_num_threads() == 1:
        return
    raise RuntimeError(
        f"process {os.getpid()} was forked after process {loaded_by} had loaded the networks, and PyTorch's "
        "threads do not survive a fork: start processes with the method "
        '"spawn" (multiprocessing.get_context("spawn")), or load and run the models only in the forked ones; '
        "on the CPU, torch.set_num_threads(1) in the forked process will do as well"
    )
