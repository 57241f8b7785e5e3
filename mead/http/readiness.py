"""Whether the service can work, not just answer: Redis, a live inference server for each model, the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import cast

import redis

from mead.data_folder import FolderClaimedError, claim_folder
from mead.log import reason
from mead.queue.client import connect
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.redis_check import check_rights, warnings
from mead.queue.redis_errors import explain
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)

WRONG_FOLDER = (
    "the data folder is used with another Redis, or the queues with another folder: the log says more"
)


def queue_problem(queue: str, settings: Settings, workers: Iterable[Heartbeat]) -> str | None:
    """Why no live worker can do the jobs of a queue; None if one can."""
    serving = [worker.weights for worker in workers if queue in worker.queues]
    if not serving:
        return f"no live worker serves {queue}"
    if not {None, settings.weights}.intersection(serving):
        return f"the live worker of {queue} has the weights {serving[0]!r}, not {settings.weights!r}"
    return None


class Prerequisites:
    """Whether Redis and the data folder may be used. Once they could, they are not looked at again."""

    def __init__(self, settings: Settings, jobs: Jobs, storage: Storage) -> None:
        self.queues = settings.queues
        self.jobs = jobs
        self.storage = storage
        self._met = False

    def check(self) -> None:
        """Return if they may.

        Raises:
            MissingRightsError: (a redis.RedisError) naming the rights that are missing.
            FolderClaimedError: folder and Redis do not belong together.
            redis.RedisError: Redis is away.
            OSError: the folder cannot be written to.
        """
        if not self._met:
            check_rights(self.jobs.redis, self.queues)
            claim_folder(self.jobs.redis, self.storage, self.queues)
            self._met = True


def why_not_ready(settings: Settings, jobs: Jobs, storage: Storage) -> list[str]:
    """Everything that keeps the service from working, each in a few words; nothing when it can work."""
    wrong = []
    try:
        workers = jobs.workers().values()
        problems = [queue_problem(queue, settings, workers) for queue in settings.queues]
        wrong += [problem for problem in problems if problem]
        for queue in settings.queues:
            kind = cast("str", jobs.redis.type(queue))
            if kind not in ("none", "list"):  # an empty list is not there
                wrong.append(f"the key {queue} in Redis is no list, but a {kind}")
        Prerequisites(settings, jobs, storage).check()
    except redis.RedisError as error:
        wrong.append(explain(error))
    except FolderClaimedError as error:
        log.error(str(error))
        wrong.append(WRONG_FOLDER)
    except OSError as error:
        log.error("the data folder cannot be used: %s", error)
    try:
        storage.check()
        free = storage.free_bytes()
        if free < settings.min_free_disk_bytes:
            megabytes = (amount // 2**20 for amount in (free, settings.min_free_disk_bytes))
            wrong.append("the disk has {} MB left, less than the {} MB to keep free".format(*megabytes))
    except OSError as error:
        wrong.append(f"results cannot be stored ({reason(error)})")
    return wrong


def what_may_go_wrong(jobs: Jobs) -> list[str]:
    """How Redis is set up to lose jobs, each in a sentence; nothing when it keeps them, or is away."""
    try:
        return warnings(jobs.redis)
    except redis.RedisError:
        return []


def log_problems(settings: Settings) -> None:
    """Say in the log what is wrong with Redis or the data folder, as a server starts."""
    jobs = Jobs(connect(settings.redis_url), settings.job_ttl)
    try:
        Prerequisites(settings, jobs, Storage(settings.data_dir)).check()
        found = warnings(jobs.redis)
    except redis.RedisError as error:
        found = [explain(error)]
    except (FolderClaimedError, OSError) as error:
        found = [str(error)]
    for problem in found:
        log.warning(problem)
    jobs.redis.close()
