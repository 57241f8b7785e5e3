"""The exceptions that `mead.queue.jobs.Jobs` raises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mead.queue.job import KeptLimits


class UnknownJobError(KeyError):
    """There is no such job, or its record has expired."""


class DamagedRecordError(UnknownJobError):
    """The key of a job's record holds something that cannot be read as one."""


class QueueFullError(Exception):
    """The queue has no room for a request's jobs."""

    def __init__(self, n: int, longest: int) -> None:
        why = f"{longest} jobs are waiting"
        if n > 1:
            why = f"with these {n}, more than {longest} jobs would wait"
        super().__init__(f"the queue is full: {why}; try again later")


class TooManyJobsError(Exception):
    """A client would have more unfinished jobs than it may have."""

    def __init__(self, n: int, most: int) -> None:
        why = f"{most} of your jobs are unfinished, and no more are allowed"
        if n > 1:
            why = f"with these {n}, more than {most} of your jobs would be unfinished"
        super().__init__(f"{why}; wait for one of them")


class TooFastError(Exception):
    """An owner has made too many jobs in the last minute.

    Attributes:
        seconds: until it may make these.
    """

    def __init__(self, a_minute: int, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"at most {a_minute} jobs a minute are allowed; try again in {self.seconds} s")


class KeptLimitError(Exception):
    """The records of jobs, or their files, have reached a limit.

    Args:
        reached: the field of `KeptLimits` that is reached.
        limit: its value.
        seconds: until enough of what is kept will have expired; None if that depends on jobs that have not
            ended, or are kept until they are released.
    """

    def __init__(self, reached: str, limit: int, seconds: float | None) -> None:
        self.seconds = None if seconds is None else max(1, math.ceil(seconds))
        whose = "your jobs" if reached.startswith("client_") else "all jobs"
        what = f"{limit:,} records" if reached.endswith("jobs") else f"{limit:,} bytes of files"
        remedy = (
            "jobs that have not ended, or are kept (DELETE /jobs/ID/keep releases them), must go first"
            if self.seconds is None
            else f"try again in {self.seconds} s, when the oldest will have expired"
        )
        super().__init__(
            f"{what} of {whose} are kept, and there is no room for more (MAX_{reached.upper()}); {remedy}"
        )


class TooManyKeepsError(Exception):
    """An owner keeps as many jobs as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} of your jobs are kept, and no more are allowed (MAX_KEEPS): release one first, with "
            "DELETE /jobs/ID/keep"
        )


class IdempotencyError(ValueError):
    """An idempotency key was used again, for a different request."""

    field = "Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(f"{self.field}: was used for another request; a new request needs a new key")


class NotAloneError(Exception):
    """The next job in the queue must run alone, because a worker died while running it."""


def refusal(
    result: str, ms: int, n: int, longest: int, most: int, a_minute: int, kept: KeptLimits
) -> Exception:
    """Why the script `enqueue` has made no job.

    Args:
        result: what it has answered.
        ms: after how many it would make them, of some answers; -1: that is not known.
        n: how many jobs were to be made.
        longest, most, a_minute, kept: the limits, see `mead.queue.jobs.Jobs.enqueue_group`.
    """
    if result == "fast":
        return TooFastError(a_minute, ms / 1000)
    if result == "full":
        return QueueFullError(n, longest)
    if result == "many":
        return TooManyJobsError(n, most)
    if result == "repeated":
        return IdempotencyError()
    return KeptLimitError(result, getattr(kept, result), None if ms < 0 else ms / 1000)
