"""A worker's heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import redis

from mead.queue.jobs import Jobs
from mead.queue.redis_errors import explain
from mead.worker.engine import Engine
from mead.worker.memory import resident_bytes

log = logging.getLogger(__name__)

RETRY_PAUSE = 1.0  # seconds to the next heartbeat after one that failed


class HeartbeatLoop:
    """Sends a worker's heartbeat several times within its time to live.

    Args:
        worker: the worker's name.
        engines: whose load each heartbeat contains.
        ttl: seconds that a heartbeat lasts.
        weights: the weights set that the engines run.
        weights_digest: of its files.
    """

    def __init__(
        self,
        worker: str,
        engines: Sequence[Engine[Any]],
        jobs: Jobs,
        ttl: int,
        weights: str | None,
        weights_digest: str | None,
    ) -> None:
        self.worker = worker
        self.engines = engines
        self.jobs = jobs
        self.ttl = ttl
        self.weights = weights
        self.weights_digest = weights_digest
        self.started_at = datetime.now(timezone.utc)
        self._regular_since: float | None = None  # time.monotonic; None after a late or failed heartbeat

    def run(self, stop: threading.Event) -> None:
        """Send heartbeats until `stop` is set. The first one must have been sent (`send`)."""
        self._regular_since = time.monotonic()
        pause = self.ttl / 3
        while not stop.wait(pause):
            pause = self.ttl / 3
            began = time.monotonic()
            try:
                self.send()
            except redis.RedisError as error:
                log.warning("no heartbeat: %s", explain(error), extra={"worker": self.worker})
                pause = min(RETRY_PAUSE, pause)
                self._regular_since = None
                continue
            if time.monotonic() - began > self.ttl / 3:  # those of other workers may be late, too
                self._regular_since = None
            elif self._regular_since is None:
                self._regular_since = time.monotonic()

    def send(self) -> None:
        """Send one heartbeat.

        Raises:
            redis.RedisError: Redis is away, or refuses it.
        """
        self.jobs.heartbeat(
            self.worker,
            {engine.queue: engine.load() for engine in self.engines},
            self.ttl,
            started_at=self.started_at,
            memory_bytes=resident_bytes(),
            weights=self.weights,
            weights_digest=self.weights_digest,
        )

    def missing_means_dead(self) -> bool:
        """Whether a worker without a heartbeat must be dead.

        While Redis is away, hangs or refuses writes, no heartbeat arrives, and afterwards every worker needs
        time to send one. That time is over once our own heartbeats have arrived regularly for `ttl` seconds.
        """
        since = self._regular_since
        return since is not None and time.monotonic() - since >= self.ttl
