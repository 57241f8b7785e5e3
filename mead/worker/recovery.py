"""Recovering the jobs of dead workers."""

from __future__ import annotations

import logging
import threading

import redis

from mead.queue.recovery import Recovery
from mead.queue.redis_errors import explain
from mead.worker.heartbeat import HeartbeatLoop

log = logging.getLogger(__name__)


class RecoveryLoop:
    """Recovers jobs several times within a heartbeat's time to live.

    Args:
        heartbeat: the worker's own; it knows whether a missing heartbeat means that a worker is dead.
    """

    def __init__(self, recovery: Recovery, heartbeat: HeartbeatLoop) -> None:
        self.recovery = recovery
        self.heartbeat = heartbeat
        self.worker = heartbeat.worker

    def run(self, stop: threading.Event) -> None:
        """Recover the jobs of dead workers until `stop` is set."""
        while not stop.wait(self.heartbeat.ttl / 3):
            if not self.heartbeat.missing_means_dead():
                continue
            try:
                recovered = self.recovery.recover(alive=self.worker)
            except redis.RedisError as error:
                why = explain(error)
                log.warning("cannot look for dead workers: %s", why, extra={"worker": self.worker})
                continue
            for job_id in recovered:
                log.warning("job recovered", extra={"job": job_id, "by": self.worker})

    def restore(self) -> None:
        """Repair what was deleted or left half done.

        Registers missing workers, restores jobs to their lists, forgets those whose records are gone.

        Raises:
            redis.RedisError: Redis is away, or refuses a command.
        """
        self.recovery.register_holders()
        if dropped := self.recovery.forget_deleted():
            log.info("jobs without records forgotten", extra={"entries": dropped, "worker": self.worker})
        if self.heartbeat.missing_means_dead():
            self.recovery.forget_idle()
            for job_id in self.recovery.restore():
                log.warning("job put back into its list", extra={"job": job_id, "by": self.worker})
