"""A step on the CPU: in parts side by side, each with its share of the cores, or on as many as is fastest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from mead.nn.paces import Paces
from mead.nn.threads import own_threads

T = TypeVar("T")


def side_by_side(
    work: Callable[[Sequence[T]], None], jobs: Sequence[T], paces: Paces, size_of: Callable[[T], Hashable]
) -> None:
    """Do `work` on as many parts of the jobs as PyTorch has threads, each part with its share of them.

    A pass seldom keeps all cores busy, since much of it is too small to be divided: with the demo set, parts
    side by side take a fifth to two fifths more steps a second than one pass. One job alone has all threads,
    or one if that has been faster.

    Only for work whose results do not depend on the number of PyTorch's threads, see `ignores_threads` of
    `mead.nn.precision.Precision` and `mead.nn.perceptor.Perceptor`.

    Args:
        paces: what passes of one job have taken.
        size_of: what the time of a pass of one job depends on.

    Raises:
        Exception: what `work` has raised on the first part it failed on; by then it has ended on all.
    """
    cores = torch.get_num_threads()
    parts = min(cores, len(jobs))

    def work_on(part: Sequence[T], threads: int) -> None:
        with own_threads(threads):
            work(part)

    if parts > 1:
        with ThreadPoolExecutor(parts, "side-by-side") as pool:
            futures = [pool.submit(work_on, jobs[first::parts], cores // parts) for first in range(parts)]
        for future in futures:
            future.result()
    elif cores == 1 or not jobs:
        work(jobs)
    else:
        paces.take(lambda one: work_on(jobs, 1 if one else cores), size_of(jobs[0]))
