"""Admission control: which engine of a process may claim a job, so that some jobs run alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mead.queue.errors import NotAloneError
from mead.queue.job import Job


class AdmissionControl:
    """Decides which of a process's engines may claim a job. All engines of the process share one.

    A job whose worker died may have caused that, and would take down every job that runs beside it. It is
    claimed only while no other job runs in the process, and no other job is claimed until it has ended.

    While such a job waits for the running ones to end, the process is reserved for its queue. The job may
    meanwhile be cancelled, or claimed by another process; so the engine of that queue keeps trying to claim,
    and the reservation ends when the next job in the queue is another one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._alone: str | None = None  # id of the job that runs alone
        self._reserved_for: str | None = None

    @property
    def reserved_for(self) -> str | None:
        """The queue whose next job is waiting to run alone, if any."""
        return self._reserved_for

    def admit(self, queue: str, claim: Callable[[bool], Job | None]) -> Job | None:
        """Claim a job of `queue`, if its engine may do so now.

        Args:
            claim: claims a job; its argument says whether no other job is running. May raise NotAloneError.
        """
        with self._changed:  # so that engines claim one after the other
            if self._alone is not None or self._reserved_for not in (None, queue):
                return None
            self._reserved_for = None  # `claim` raises NotAloneError again if the job is still there
            try:
                job = claim(not self._running)
            except NotAloneError:
                self._reserved_for = queue
                return None
            finally:
                self._changed.notify_all()
            if job is not None:
                self._running.add(job.id)
                if job.runs_alone:
                    self._alone = job.id
            return job

    def release(self, job_id: str) -> None:
        """Note that a job no longer runs."""
        with self._changed:
            self._running.discard(job_id)
            if self._alone == job_id:
                self._alone = None
            self._changed.notify_all()

    def cancel_reservation(self, queue: str) -> None:
        """End the reservation for `queue`, whose engine has no room for a job anyway."""
        with self._changed:
            if self._reserved_for == queue:
                self._reserved_for = None
                self._changed.notify_all()

    def wait(self, queue: str, timeout: float) -> bool:
        """Wait until the engine of `queue` may claim a job; False if it may not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_open(queue), timeout)

    def _is_open(self, queue: str) -> bool:
        if self._alone is not None:
            return False
        return self._reserved_for is None or (self._reserved_for == queue and not self._running)
