"""A worker: the threads of one inference server.

One thread per engine, and one each for the heartbeat, the recovery of dead workers' jobs, maintenance, and
webhooks.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from mead.data_folder import FolderClaimedError, claim_folder
from mead.queue.jobs import Jobs
from mead.queue.recovery import Recovery
from mead.queue.redis_check import check_rights, warnings
from mead.queue.redis_errors import explain
from mead.storage import Storage
from mead.worker.engine import Engine
from mead.worker.heartbeat import HeartbeatLoop
from mead.worker.maintenance import MaintenanceLoop
from mead.worker.recovery import RecoveryLoop

log = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # how long to wait for the current steps before handing back their jobs
FAREWELL_SECONDS = 1.0  # how long handing back may take, as Redis may be away
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between two attempts to start
UNCLAIMED_SECONDS = 600.0  # how long uploads are kept without a job's record

Loop = Callable[[threading.Event], None]


def new_name() -> str:
    """A unique worker name: host, process id and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class OtherWeightsError(Exception):
    """Another worker serves the same queue with other weights, so a job's result would depend on chance."""


class Worker:
    """Runs engines side by side, with a heartbeat, recovery, maintenance and other loops.

    Args:
        name: the name under which the engines claim jobs.
        ttl: seconds after its last heartbeat that a worker counts as dead.
        attempts: a job fails after so many attempts that ended with its worker's death.
        unclaimed: seconds that uploads are kept without a job's record.
        latents: seconds after a job's success that its latents are kept.
        weights: the name of the weights set that the engines run.
        weights_digest: of its files.
        loops: what else runs, each in a thread of its own.
    """

    def __init__(
        self,
        name: str,
        engines: Sequence[Engine[Any]],
        jobs: Jobs,
        storage: Storage,
        *,
        ttl: int,
        attempts: int = 3,
        unclaimed: float = UNCLAIMED_SECONDS,
        latents: float = 0.0,
        weights: str | None = None,
        weights_digest: str | None = None,
        loops: Sequence[Loop] = (),
    ) -> None:
        self.name = name
        self.engines = engines
        self.jobs = jobs
        self.storage = storage
        self.weights = weights
        self.weights_digest = weights_digest
        self.queues = [engine.queue for engine in engines]
        self.heartbeat = HeartbeatLoop(name, engines, jobs, ttl, weights, weights_digest)
        self.recovery = RecoveryLoop(Recovery(jobs, self.queues, attempts), self.heartbeat)
        self.maintenance = MaintenanceLoop(
            name,
            self.queues,
            jobs,
            storage,
            self.recovery,
            unclaimed=unclaimed,
            latents=latents,
            pause=ttl / 3,
        )
        self.loops = [self.heartbeat.run, self.recovery.run, self.maintenance.run, *loops]
        self._errors: list[BaseException] = []  # that have ended threads

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then hand all jobs back, within STOP_SECONDS and FAREWELL_SECONDS.

        A step that takes longer goes on in its thread, but its job is handed back and its result ignored; the
        caller should end the process.

        Raises:
            OtherWeightsError: before any job is claimed.
            BaseException: whatever ended one of the threads. The others have stopped too, so a worker with a
                dead engine never appears alive.
        """
        self._register(stop)
        threads = [self._spawn(loop, stop) for loop in (*self.loops, *(one.run for one in self.engines))]
        stop.wait()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        farewell = threading.Thread(target=self._deregister, daemon=True)
        farewell.start()
        farewell.join(FAREWELL_SECONDS)
        if self._errors:
            raise self._errors[0]

    def _spawn(self, loop: Loop, stop: threading.Event) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=[loop, stop], daemon=True)
        thread.start()
        return thread

    def _guard(self, loop: Loop, stop: threading.Event) -> None:
        try:
            loop(stop)
        except BaseException as error:
            self._errors.append(error)
            stop.set()

    def _register(self, stop: threading.Event) -> None:
        """Check Redis, data folder and weights, and send the first heartbeat; retry until that succeeds.

        The heartbeat comes before the first claim, so that no other worker recovers the jobs of this one.
        """
        pause = FIRST_PAUSE
        while not stop.is_set():
            try:
                check_rights(self.jobs.redis, self.queues, self.jobs.replicas)
                claim_folder(self.jobs.redis, self.storage, self.queues)
                self._check_weights()
                self.heartbeat.send()
                self._check_again()
                for warning in warnings(self.jobs.redis):
                    log.warning(warning, extra={"worker": self.name})
                return
            except (redis.RedisError, FolderClaimedError, OSError) as error:
                why = explain(error) if isinstance(error, redis.RedisError) else str(error)
                log.error("cannot start: %s; trying again", why, extra={"worker": self.name})
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _check_weights(self) -> None:
        """Raises OtherWeightsError if another worker serves the same queue with another weights set."""
        for name, heartbeat in self.jobs.workers().items():
            shared = [queue for queue in self.queues if queue in heartbeat.queues and name != self.name]
            if not shared or None in (heartbeat.weights, self.weights):
                continue
            if heartbeat.weights != self.weights:
                raise OtherWeightsError(
                    f"inference server {name} serves {shared[0]} with the weights {heartbeat.weights!r}, not "
                    f"{self.weights!r}: stop it first, or set DEFAULT_WEIGHTS={heartbeat.weights} here"
                )

    def _check_again(self) -> None:
        """Check the weights once the heartbeat can be seen, in case two workers have started at once."""
        try:
            self._check_weights()
        except OtherWeightsError:
            self.jobs.deregister(self.name, self.queues)
            raise

    def _deregister(self) -> None:
        try:
            if not self._errors:  # otherwise another worker recovers the jobs and counts the attempt
                for queue in self.queues:
                    self.jobs.requeue(queue, self.name)  # jobs whose step is still running
            self.jobs.deregister(self.name, self.queues)
        except redis.RedisError as error:
            log.warning("cannot delete the heartbeat: %s", error, extra={"worker": self.name})
