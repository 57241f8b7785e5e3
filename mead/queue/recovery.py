"""Requeueing the jobs of dead workers, and jobs that are missing from their lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from mead.queue import heartbeats, records
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key, processing_key, worker_key
from mead.queue.scripts import load_script


class Recovery:
    """Recovers the jobs of some queues.

    When a worker dies, its jobs are requeued and the attempt counts. From then on such a job runs alone, so
    that a job that kills its workers takes no other job with it.

    Every method raises redis.RedisError when Redis is not reachable or refuses a command.

    Args:
        attempts: a job fails after so many attempts that ended with its worker's death.
    """

    def __init__(self, jobs: Jobs, queues: Sequence[str], attempts: int) -> None:
        self.jobs = jobs
        self.redis = jobs.redis
        self.queues = queues
        self.attempts = attempts
        self._recover = load_script(self.redis, "recover")
        self._restore = load_script(self.redis, "restore")

    def recover(self) -> list[str]:
        """Requeue or fail the jobs of dead workers: SMEMBERS, MGET, LPUSH to the queue, HSET the record.

        Any number of workers may call this at once: the script checks the heartbeat itself, so each job is
        recovered once.

        Returns:
            The ids of the jobs requeued or failed.
        """
        recovered: list[str] = []
        for worker in heartbeats.dead_workers(self.redis):
            lists = [processing_key(queue, worker) for queue in self.queues]
            keys = [worker_key(worker), *self.queues, *lists]
            limits = [self.jobs.ttl, self.attempts]
            answer = self._recover(worker, *records.now(), *limits, *self.queues, keys=keys)
            recovered += cast("list[str]", answer)
        return recovered

    def restore(self) -> list[str]:
        """Put unfinished jobs back into the lists that their records name, where they are missing.

        A script that lacks a right is aborted half way, and lists can be deleted by hand. This reads all
        records (SCAN, HMGET, LRANGE), so it takes longer the more there are.

        Returns:
            The ids of the jobs put back, or failed because their worker is dead.
        """
        lists: dict[str, set[str]] = {}
        restored = []
        for job_id, status, queue, worker in records.unfinished_jobs(self.redis):
            if queue not in self.queues:
                continue
            key = queue if status == "queued" else processing_key(queue, worker)
            if key not in lists:
                lists[key] = set(cast("list[str]", self.redis.lrange(key, 0, -1)))
            if job_id in lists[key]:
                continue
            limits = [self.jobs.ttl, self.attempts]
            if self._restore(job_id, *records.now(), *limits, keys=[job_key(job_id), key]):
                restored.append(job_id)
        return restored

    def register_holders(self) -> None:
        """Register every worker that holds jobs of the queues (SCAN, SADD), so that `recover` finds it.

        A name is missing only after keys were deleted by hand. Takes longer the more keys Redis has.
        """
        heartbeats.register_holders(self.redis, self.queues)
