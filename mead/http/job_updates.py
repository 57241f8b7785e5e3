"""The updates of a followed job, and who receives them. See `mead.http.events`."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mead.http.errors import ShuttingDownError
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job


@dataclass(eq=False)
class JobState:
    """A job after a change; one object for all subscribers.

    Attributes:
        formatted: the job as text, by whatever the text depends on, so that it is formatted once.
    """

    job: Job
    formatted: dict[Any, str] = field(default_factory=dict)


Update: TypeAlias = JobState | type[ShuttingDownError] | type[UnknownJobError]
"""The job after a change, or why no more changes follow."""
Subscriber: TypeAlias = Callable[[Update], object]
UpdateQueue: TypeAlias = "queue.SimpleQueue[Update]"


class Topic:
    """A followed job.

    Attributes:
        state: the latest one; None until the record was first read.
        subscribers: each with whether it has received its first state.
        due: when the record is read next (time.monotonic).
    """

    def __init__(self, due: float) -> None:
        self.state: JobState | None = None
        self.subscribers: dict[Subscriber, bool] = {}
        self.due = due

    def publish(self, update: Update) -> None:
        """Pass an update to all subscribers. The caller holds the lock of `Events`, which keeps the order."""
        if isinstance(update, JobState):
            self.state = update
        for subscriber, started in self.subscribers.items():
            if started:
                subscriber(update)
