"""How many inference servers a fleet should have: pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UTILISATION = 0.8
"""Share of a server's time that arriving jobs may take; the rest absorbs bursts."""


@dataclass(frozen=True)
class QueueLoad:
    """The jobs of one queue. Every server runs jobs of all queues.

    Attributes:
        waiting: jobs in the queue.
        running: jobs that servers hold.
        arrivals: new jobs per second.
        capacity: jobs in the batch of one server.
        steps_per_job: steps of an average job; None as long as none has run.
        steps_per_second: of one busy server, all its jobs together; None as long as none was measured.
    """

    waiting: int = 0
    running: int = 0
    arrivals: float = 0.0
    capacity: int = 1
    steps_per_job: float | None = None
    steps_per_second: float | None = None

    @property
    def seconds_per_job(self) -> float | None:
        """Time that one job takes of one server; None if unknown."""
        if not self.steps_per_job or not self.steps_per_second:
            return None
        return self.steps_per_job / self.steps_per_second


@dataclass(frozen=True)
class ScalingPolicy:
    """Limits on the number of servers, and how it follows the load.

    Attributes:
        minimum, maximum: number of servers, at least 1.
        drain_seconds: the time in which the jobs that wait should all have run.
        quiet_seconds: servers are stopped only once fewer were enough for this long.

    Raises:
        ValueError: a value is out of range.
    """

    minimum: int = 1
    maximum: int = 8
    drain_seconds: float = 60.0
    quiet_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"min={self.minimum} must be at least 1 and at most max={self.maximum}")
        if self.drain_seconds <= 0 or self.quiet_seconds < 0:
            raise ValueError("drain-seconds must be positive, and quiet-seconds not negative")


def servers_needed(loads: Iterable[QueueLoad], policy: ScalingPolicy) -> int:
    """The number of servers that the present load needs.

    A queue needs servers for the jobs that arrive, at UTILISATION, and for those that wait, within
    `drain_seconds`. Until its speed is known, each batch of its jobs needs a server.
    """
    needed, jobs, held = 0.0, 0, 1
    for load in loads:
        seconds = load.seconds_per_job
        if seconds is None:
            needed += (load.waiting + load.running) / load.capacity
        else:
            needed += seconds * (load.arrivals / UTILISATION + load.waiting / policy.drain_seconds)
        jobs += load.waiting + load.running
        held = max(held, math.ceil(load.running / load.capacity))
    wanted = max(held, min(math.ceil(round(needed, 6)), jobs))  # a server more than jobs would be idle
    return min(max(wanted, policy.minimum), policy.maximum)


def servers_wanted(history: Sequence[tuple[float, int]], current: int, policy: ScalingPolicy) -> int:
    """The number of servers to have now: more at once, fewer only after a quiet time.

    Args:
        history: times in seconds, and `servers_needed` then; oldest first, not empty, the last one is now.
        current: the number of servers, those that are still starting among them.
    """
    now, needed = history[-1]
    since = now - policy.quiet_seconds
    if needed < current and history[0][0] > since:  # not watched for long enough
        needed = current
    elif needed < current:
        needed = min(current, max(number for when, number in history if when >= since))
    return min(max(needed, policy.minimum), policy.maximum)
