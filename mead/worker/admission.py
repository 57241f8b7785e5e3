"""Which engine of a process may take a job, so that a job that must run alone does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mead.queue.job import Job
from mead.queue.jobs import NotAloneError


class Company:
    """The jobs that run in one process, whichever engine runs them.

    A job whose worker died may have killed it, and would take down with it whatever runs beside it. So it is
    taken only when nothing else runs in the process, and nothing else is taken until it has ended.

    While such a job waits for the others to end, its queue is asked again each time its engine comes by: the
    job may be gone (cancelled, or taken by another server), and then jobs are taken as before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._alone: str | None = None  # the job that runs alone
        self._waiting: str | None = None  # the queue whose next job must run alone

    def take(self, queue: str, claim: Callable[[bool], Job | None]) -> Job | None:
        """The job that `claim` gives, if `queue` may take one now. `claim` is told whether it is alone."""
        with self._changed:  # so that no two engines take jobs at once
            if self._alone is not None or self._waiting not in (None, queue):
                return None
            self._waiting = None  # what was waited for may be taken or gone
            try:
                job = claim(not self._running)
            except NotAloneError:
                self._waiting = queue
                return None
            finally:
                self._changed.notify_all()
            if job is not None:
                self._running.add(job.id)
                if job.runs_alone:
                    self._alone = job.id
            return job

    def pass_by(self, queue: str) -> None:
        """The engine of `queue` is full: whatever comes next in it is not to be waited for yet."""
        with self._changed:
            if self._waiting == queue:
                self._waiting = None
                self._changed.notify_all()

    def leave(self, job_id: str) -> None:
        """A job does not run any more."""
        with self._changed:
            self._running.discard(job_id)
            if self._alone == job_id:
                self._alone = None
            self._changed.notify_all()

    def wait(self, queue: str, timeout: float) -> bool:
        """Wait until `queue` may take a job; False if it may not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open(queue), timeout)

    def _open(self, queue: str) -> bool:
        """Whether a job of `queue` can be taken, as far as is known."""
        if self._alone is not None:
            return False
        return self._waiting is None or (self._waiting == queue and not self._running)
