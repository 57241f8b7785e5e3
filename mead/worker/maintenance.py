"""Keeping the data folder claimed and swept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import redis

from mead.data_folder import FolderClaimedError, hold_folder
from mead.queue.jobs import Jobs
from mead.storage import Storage
from mead.worker.recovery import RecoveryLoop

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0  # between two sweeps
LONGEST_SHARE = 1 / 20  # of the time that sweeping may take: a large store is swept less often


class MaintenanceLoop:
    """Marks the data folder as in use, and sweeps it and the queues' lists from time to time.

    Args:
        worker: the worker's name.
        queues: the queues whose files are in the folder.
        recovery: restores the queues' lists.
        unclaimed: seconds that uploads are kept without a job's record.
        latents: seconds after a job's success that its latents are kept.
        pause: the longest time between two marks, in seconds.
    """

    def __init__(
        self,
        worker: str,
        queues: Sequence[str],
        jobs: Jobs,
        storage: Storage,
        recovery: RecoveryLoop,
        *,
        unclaimed: float,
        latents: float,
        pause: float,
    ) -> None:
        self.worker = worker
        self.queues = queues
        self.jobs = jobs
        self.storage = storage
        self.recovery = recovery
        self.unclaimed = unclaimed
        self.latents = latents
        self.pause = pause

    @property
    def sweep_pause(self) -> float:
        """The shortest time between two sweeps, in seconds."""
        return min(SWEEP_SECONDS, self.jobs.ttl / 2)

    def run(self, stop: threading.Event) -> None:
        """Maintain the folder until `stop` is set. A folder that belongs to another Redis is never swept."""
        due = 0.0
        while not stop.is_set():
            try:
                hold_folder(self.jobs.redis, self.storage, self.queues)
                if time.monotonic() >= due:
                    due = self._sweep()
            except (redis.RedisError, OSError, FolderClaimedError) as error:
                log.warning("cannot sweep: %s", error, extra={"worker": self.worker})
                due = time.monotonic() + self.sweep_pause
            stop.wait(min(self.pause, self.sweep_pause))

    def _sweep(self) -> float:
        """Sweep once; returns when the next sweep is due (time.monotonic)."""
        began = time.monotonic()
        self.recovery.restore()
        if removed := self.storage.sweep(self.jobs.outcomes, self.unclaimed, self.jobs.ttl, self.latents):
            log.info("files removed", extra={"files": removed, "worker": self.worker})
        now = time.monotonic()
        return now + max(self.sweep_pause, (now - began) / LONGEST_SHARE)
