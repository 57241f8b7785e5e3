"""A worker: the threads of one inference server.

One per engine, one that keeps the heartbeat, one that looks for jobs of dead workers, and one that removes
files nobody needs any more.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import redis

from mead.data_folder import FolderClaimedError, claim_folder, hold_folder
from mead.queue.jobs import Jobs
from mead.queue.redis_check import check_rights, warnings
from mead.queue.redis_errors import explain
from mead.storage import Storage
from mead.worker.engine import Engine

log = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # how long a step may take to end before its jobs are handed back all the same
FAREWELL_SECONDS = 1.0  # how long handing back may take; Redis may be away
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between two tries to begin
SWEEP_SECONDS = 60.0  # between two looks for files that nobody needs
UNCLAIMED_SECONDS = 600.0  # how long uploads may lie before their job is queued


def new_name() -> str:
    """A name no other worker has or had: its machine, its process and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class OtherWeightsError(Exception):
    """Another worker serves the same queue with other weights: who asks could not tell which it gets."""


class Worker:
    """Runs engines side by side, says that it lives, and looks after dead workers' jobs and old files.

    Args:
        name: the name under which the engines claim.
        ttl: seconds after its last heartbeat that a worker counts as dead.
        attempts: times that workers may die with a job before it fails.
        unclaimed: seconds that uploads without a job are kept.
        weights: the name of the weights set that the engines run.
    """

    def __init__(
        self,
        name: str,
        engines: Sequence[Engine[Any]],
        jobs: Jobs,
        storage: Storage,
        ttl: int,
        attempts: int = 3,
        unclaimed: float = UNCLAIMED_SECONDS,
        weights: str | None = None,
    ) -> None:
        self.name = name
        self.engines = engines
        self.jobs = jobs
        self.storage = storage
        self.ttl = ttl
        self.attempts = attempts
        self.unclaimed = unclaimed
        self.weights = weights
        self.queues = [engine.queue for engine in engines]
        self.started_at = datetime.now(timezone.utc)
        self._broken: list[BaseException] = []
        self._beating_since: float | None = (
            None  # no heartbeat has failed or been late since then (monotonic)
        )

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then put every job back, within STOP_SECONDS and FAREWELL_SECONDS.

        A step that takes longer goes on in its thread, but its jobs are handed back and nobody will hear of
        it: the caller should end the process.

        Raises:
            OtherWeightsError: before any job is taken.
            BaseException: whatever broke one of the threads; the others have stopped too, so that a worker
                with a dead engine never looks alive.
        """
        self._arrive(stop)
        self._beating_since = time.monotonic()
        duties = [self._beat, self._recover, self._sweep, *(engine.run for engine in self.engines)]
        threads = [self._thread(duty, stop) for duty in duties]
        stop.wait()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        farewell = threading.Thread(target=self._leave, daemon=True)
        farewell.start()
        farewell.join(FAREWELL_SECONDS)
        if self._broken:
            raise self._broken[0]

    def _thread(self, duty: Callable[[threading.Event], None], stop: threading.Event) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=[duty, stop], daemon=True)
        thread.start()
        return thread

    def _guard(self, duty: Callable[[threading.Event], None], stop: threading.Event) -> None:
        try:
            duty(stop)
        except BaseException as error:
            self._broken.append(error)
            stop.set()

    def _arrive(self, stop: threading.Event) -> None:
        """The first heartbeat: before any job is taken, so that none is taken away from a newcomer."""
        pause = FIRST_PAUSE
        while not stop.is_set():
            try:
                check_rights(self.jobs.redis, self.queues)
                claim_folder(self.jobs.redis, self.storage, self.queues)
                self._check_weights()
                self._beat_once()
                for warning in warnings(self.jobs.redis):
                    log.warning(warning, extra={"worker": self.name})
                return
            except (redis.RedisError, FolderClaimedError, OSError) as error:
                why = explain(error) if isinstance(error, redis.RedisError) else str(error)
                log.error("cannot begin yet: %s", why, extra={"worker": self.name})
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _check_weights(self) -> None:
        for name, beat in self.jobs.workers().items():
            shared = [queue for queue in self.queues if queue in beat.queues]
            if shared and beat.weights is not None and self.weights not in (None, beat.weights):
                raise OtherWeightsError(
                    f"inference server {name} serves {shared[0]} with the weights {beat.weights!r}, not "
                    f"{self.weights!r}: stop it first, or set other queues"
                )

    def _leave(self) -> None:
        try:
            if not self._broken:  # else others recover its jobs, with the attempt counted
                for queue in self.queues:
                    self.jobs.put_back(queue, self.name)  # those whose step would not end
            self.jobs.leave(self.name, self.queues)
        except redis.RedisError as error:
            log.warning("cannot take the heartbeat back: %s", error, extra={"worker": self.name})

    def _beat(self, stop: threading.Event) -> None:
        pause = self.ttl / 3
        while not stop.wait(pause):
            pause = self.ttl / 3
            began = time.monotonic()
            try:
                self._beat_once()
            except redis.RedisError as error:
                log.warning("no heartbeat: %s", explain(error), extra={"worker": self.name})
                pause = min(1.0, pause)
                self._beating_since = None
            else:
                if time.monotonic() - began > self.ttl / 3:  # late: the others' may still be on their way
                    self._beating_since = None
                elif self._beating_since is None:
                    self._beating_since = time.monotonic()

    def _beat_once(self) -> None:
        loads = {engine.queue: engine.load() for engine in self.engines}
        self.jobs.beat(
            self.name,
            loads,
            self.ttl,
            started_at=self.started_at,
            memory_bytes=resident_bytes(),
            weights=self.weights,
        )

    def _silence_is_death(self) -> bool:
        """Whether a worker without a heartbeat must be dead.

        Redis may have been away, or refused to write heartbeats, or hung: then all workers need time to be
        heard of again. It is over when our own heartbeats have arrived for as long as one lasts.
        """
        since = self._beating_since
        return since is not None and time.monotonic() - since >= self.ttl

    def _recover(self, stop: threading.Event) -> None:
        """Look for jobs of dead workers."""
        while not stop.wait(self.ttl / 3):
            if not self._silence_is_death():
                continue
            try:
                for job_id in self.jobs.recover(self.queues, self.attempts):
                    log.warning("job recovered", extra={"job": job_id, "by": self.name})
            except redis.RedisError as error:
                log.warning("cannot look for dead workers: %s", explain(error), extra={"worker": self.name})

    def _sweep(self, stop: threading.Event) -> None:
        """Hold the data folder, and now and then sweep it; never a folder that is another Redis's."""
        pause = min(SWEEP_SECONDS, self.jobs.ttl / 2)
        due = 0.0
        while not stop.is_set():
            try:
                hold_folder(self.jobs.redis, self.storage, self.queues)
                if time.monotonic() >= due:
                    started = time.monotonic()
                    self._sweep_once()
                    took = time.monotonic() - started
                    due = time.monotonic() + max(pause, 20 * took)  # a large store is swept less often
            except (redis.RedisError, OSError, FolderClaimedError) as error:
                log.warning("cannot sweep: %s", error, extra={"worker": self.name})
                due = time.monotonic() + pause
            stop.wait(min(pause, self.ttl / 3))

    def _sweep_once(self) -> None:
        self.jobs.find_workers(self.queues)
        if self._silence_is_death():
            for job_id in self.jobs.restore(self.queues, self.attempts):
                log.warning("job put back into its list", extra={"job": job_id, "by": self.name})
        if removed := self.storage.sweep(self.jobs.ends, self.unclaimed, self.jobs.ttl):
            log.info("files removed", extra={"files": removed, "worker": self.name})


def resident_bytes() -> int:
    """How much memory this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
