"""Whether the service can accept and run jobs: Redis, the data folder, the disk, live workers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping

import redis

from mead.data_folder import FolderClaimedError, claim_folder
from mead.data_url import open_storage
from mead.http.errors import DISK_FULL, NO_WORKER, ApiError
from mead.log import reason
from mead.provenance import recorded_weights
from mead.queue.client import connect
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.key_types import wrong_keys
from mead.queue.redis_check import check_rights, warnings
from mead.queue.redis_errors import explain
from mead.setting_checks import doubts
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)

WRONG_FOLDER = (
    "the data folder is used with another Redis, or the queues with another folder; see the server's log"
)
PROBE_TIMEOUT = 1.0  # seconds that /readyz waits for Redis, twice: monitors do not wait as long as clients
ALIVE_CACHE_SECONDS = 1.0  # that a live worker is assumed to live on, so that few requests ask Redis


class Readiness:
    """Checks what the service needs."""

    def __init__(self, settings: Settings, jobs: Jobs, storage: Storage) -> None:
        self.settings = settings
        self.jobs = jobs
        self.storage = storage
        self._probe = connect(settings.redis_url, PROBE_TIMEOUT, settings.redis_prefix)
        self._prerequisites_met = False
        self._read_weights = dict.fromkeys(settings.queues, False)  # by queue
        self._alive_until = dict.fromkeys(settings.queues, 0.0)  # by queue, time.monotonic

    def check_submission(self, queue: str) -> None:
        """Check that a job can be accepted into a queue, before its pictures are decoded.

        Raises:
            ApiError: 503.
            redis.RedisError: Redis is unavailable, or refuses commands that the service needs.
            OSError: the data folder cannot be written, or the object store does not answer.
        """
        try:
            if not self._prerequisites_met:
                self.check_prerequisites()
        except FolderClaimedError as error:
            log.error(str(error))
            raise ApiError(503, WRONG_FOLDER, retry_seconds=math.inf) from error
        if not self.has_worker(queue):
            raise ApiError(503, NO_WORKER)
        free = self.storage.free_bytes()
        if free is not None and free < self.settings.min_free_disk_bytes:
            raise ApiError(503, DISK_FULL)

    def check_prerequisites(self) -> None:
        """Check that Redis grants the rights that the service needs, and that Redis and the data folder
        belong together.

        Raises:
            MissingRightsError: (a redis.RedisError) naming the missing rights.
            FolderClaimedError: they do not belong together.
            redis.RedisError: Redis is unavailable.
            OSError: the folder cannot be written.
        """
        check_rights(self.jobs.redis, self.settings.queues, self.jobs.replicas)
        claim_folder(self.jobs.redis, self.storage, self.settings.queues)
        self._prerequisites_met = True

    def has_worker(self, queue: str) -> bool:
        """Whether a live worker serves a queue with the weights of the settings.

        Raises:
            redis.RedisError: Redis is unavailable.
        """
        now = time.monotonic()
        if now < self._alive_until[queue]:
            return True
        workers = [worker for worker in self.jobs.workers().values() if queue in worker.queues]
        self._read_weights[queue] = all(worker.weights_digest is not None for worker in workers)
        alive = worker_problem(queue, self.settings, workers) is None
        if alive:
            self._alive_until[queue] = now + ALIVE_CACHE_SECONDS
        return alive

    def recorded_weights(self, queue: str) -> Mapping[str, str] | None:
        """The weights set as the records of a queue's jobs have it; None beside workers of older versions.

        Raises:
            WeightsError: there is no such set.
        """
        return recorded_weights(self.settings.weights) if self._read_weights[queue] else None

    def workers_lost(self, queue: str) -> Iterator[bool]:
        """Yields whether a queue has lost all its workers; checks twice per WORKER_TTL.

        They are lost if two checks in a row find none: after an outage of Redis, workers need a moment to
        send their heartbeats.
        """
        interval = self.settings.worker_ttl / 2
        missed = 0
        next_check = time.monotonic() + interval
        while True:
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + interval
                try:
                    missed = 0 if self.has_worker(queue) else missed + 1
                except redis.RedisError:
                    missed = 0
            yield missed > 1

    def wrong_keys(self, client: str = "", owner: str = "") -> list[str]:
        """Keys in Redis of a wrong type, those of all clients and of this one; a sentence for each.

        Raises:
            redis.RedisError: Redis is unavailable.
        """
        return wrong_keys(self.jobs.redis, self.settings.queues, client, owner)

    def problems(self) -> list[str]:
        """Everything that keeps the service from working, each in a few words."""
        return [*self._redis_problems(), *self._disk_problems()]

    def warnings(self) -> list[str]:
        """How the configuration of Redis may lose jobs, and whether inference servers have different weights.

        Each in a sentence; empty if Redis is unavailable.
        """
        try:
            return [*warnings(self.jobs.redis), *self._different_weights()]
        except redis.RedisError:
            return []

    def _different_weights(self) -> Iterator[str]:
        workers = self.jobs.workers().values()
        for queue in self.settings.queues:
            digests = {worker.weights_digest for worker in workers if queue in worker.queues} - {None, ""}
            if len(digests) > 1:
                yield f"the inference servers of {queue} have different files of {self.settings.weights!r}"

    def _redis_problems(self) -> Iterator[str]:
        try:
            self._probe.ping()
            if wrong := self.wrong_keys():
                yield from wrong
                return  # the other checks may fail for them, and not say why
            workers = self.jobs.workers().values()
            for queue in self.settings.queues:
                if problem := worker_problem(queue, self.settings, workers):
                    yield problem
            self.check_prerequisites()
        except redis.RedisError as error:
            yield explain(error)
        except FolderClaimedError as error:
            log.error(str(error))
            yield WRONG_FOLDER
        except OSError as error:  # the checks of the disk report it
            log.error("the data folder cannot be used: %s", error)

    def _disk_problems(self) -> Iterator[str]:
        try:
            self.storage.check()
            free, needed = self.storage.free_bytes(), self.settings.min_free_disk_bytes
            if free is not None and free < needed:
                yield f"the disk has {free // 2**20} MB free, less than the minimum of {needed // 2**20} MB"
        except OSError as error:
            yield f"results cannot be stored ({reason(error)})"


def worker_problem(queue: str, settings: Settings, workers: Iterable[Heartbeat]) -> str | None:
    """Why no live worker can run the jobs of a queue; None if one can."""
    serving = [worker.weights for worker in workers if queue in worker.queues]
    if not serving:
        return f"no live worker serves {queue}"
    if not {None, settings.weights}.intersection(serving):
        return f"the live worker of {queue} has the weights {serving[0]!r}, not {settings.weights!r}"
    return None


def log_problems(settings: Settings) -> None:
    """Log what is wrong with Redis or the data folder, or may be with the settings. Called when a server
    starts.
    """
    client = connect(settings.redis_url, prefix=settings.redis_prefix)
    jobs = Jobs(client, settings.job_ttl, settings.redis_wait_replicas)
    try:
        storage = open_storage(settings.data_url, settings.data_dir)
        Readiness(settings, jobs, storage).check_prerequisites()
        problems = warnings(jobs.redis)
    except redis.RedisError as error:
        problems = [explain(error)]
    except (FolderClaimedError, OSError) as error:
        problems = [str(error)]
    for problem in [*problems, *doubts(settings)]:
        log.warning(problem)
    jobs.redis.close()
