"""Parts of a batch side by side on the CPU, each in a thread with its share of the processor's cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(work: Callable[[Sequence[T]], None], jobs: Sequence[T]) -> None:
    """Do `work` on as many parts of the jobs as PyTorch has threads, each part with its share of them.

    A pass seldom keeps all cores busy, since much of it is too small to be divided: with the demo set, parts
    side by side take a fifth to two fifths more steps a second than one pass.

    Only for work whose results do not depend on the number of PyTorch's threads, see
    `mead.nn.precision.Precision.ignores_threads`.

    Raises:
        Exception: what `work` has raised on the first part it failed on; by then it has ended on all.
    """
    cores = torch.get_num_threads()
    parts = min(cores, len(jobs))
    if parts <= 1:
        work(jobs)
        return

    ready = threading.Barrier(parts + 1)

    def work_on(part: Sequence[T]) -> None:
        torch.set_num_threads(cores // parts)  # of this thread, and of all threads to come
        torch.get_num_threads()  # or this thread's first operation would take the number for threads to come
        ready.wait()  # all parts have their number,
        ready.wait()  # and threads to come have all cores again: an engine may make its first step meanwhile
        work(part)

    with ThreadPoolExecutor(parts, "side-by-side") as pool:
        futures = [pool.submit(work_on, jobs[first::parts]) for first in range(parts)]
        ready.wait()
        torch.set_num_threads(cores)
        ready.wait()
    for future in futures:
        future.result()
