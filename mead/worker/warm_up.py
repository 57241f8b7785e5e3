"""How many jobs are best advanced in one pass on a GPU: found out before the first one comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from mead.revision import Pipeline, R

STEPS = 4  # of a measurement
TIE = 0.05  # by which the cost of a job may exceed the least


def jobs_in_a_pass(
    pipeline: Pipeline[R],
    revisions: Sequence[R],
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The fewest jobs in a pass that take hardly more time each than in the best one, and fit in memory.

    Where a job alone keeps a GPU busy, passes of several take more memory and no less time.

    Args:
        revisions: the most that a pass may have, all alike; they take some steps.
        wait: waits until what was computed so far is done.
        clock: the time in seconds.
    """
    seconds_each: dict[int, float] = {}
    for number in _numbers(len(revisions)):
        together = revisions[:number]
        try:
            pipeline.step(together)  # unmeasured, while kernels are chosen
            wait()
            began = clock()
            for _ in range(STEPS):
                pipeline.step(together)
            wait()
        except torch.OutOfMemoryError:
            break
        seconds_each[number] = (clock() - began) / number
    enough = (1 + TIE) * min(seconds_each.values(), default=0)
    return min((number for number, seconds in seconds_each.items() if seconds <= enough), default=1)


def _numbers(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`."""
    powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
    return [*powers, most]
