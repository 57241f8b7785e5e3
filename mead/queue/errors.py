"""The exceptions that `mead.queue.jobs.Jobs` raises."""

from __future__ import annotations


class UnknownJobError(KeyError):
    """There is no such job, or its record has expired."""


class DamagedRecordError(UnknownJobError):
    """The key of a job's record holds something that cannot be read as one."""


class QueueFullError(Exception):
    """The queue is as long as it may be."""

    def __init__(self, queue: str, longest: int) -> None:
        super().__init__(f"the queue is full: {longest} jobs are waiting; try again later")
        self.queue = queue


class TooManyJobsError(Exception):
    """A client has as many unfinished jobs as it may have."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} of your jobs are unfinished, and no more are allowed; wait for one of them")


class KeptLimitError(Exception):
    """The records of jobs, or their files, have reached a limit.

    Args:
        reached: the field of `KeptLimits` that is reached.
        limit: its value.
    """

    def __init__(self, reached: str, limit: int) -> None:
        whose = "your jobs" if reached.startswith("client_") else "all jobs"
        what = f"{limit:,} records" if reached.endswith("jobs") else f"{limit:,} bytes of files"
        super().__init__(
            f"{what} of {whose} are kept, and there is no room for more (MAX_{reached.upper()}); "
            "they are removed JOB_TTL seconds after their jobs have ended"
        )


class IdempotencyError(ValueError):
    """An idempotency key was used again, for a different request."""

    field = "Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(f"{self.field}: was used for another request; a new request needs a new key")


class NotAloneError(Exception):
    """The next job in the queue must run alone, because a worker died while running it."""
