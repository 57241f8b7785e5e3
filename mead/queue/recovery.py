"""Requeueing the jobs of dead workers and jobs that are missing from their lists; forgetting deleted jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

from mead.queue import heartbeats, records
from mead.queue.jobs import Jobs
from mead.queue.keys import (
    KEPT_KEY,
    idempotency_key,
    job_key,
    keeps_key,
    order_key,
    processing_key,
    unfinished_key,
    worker_key,
)
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
        self._forget = load_script(self.redis, "forget")
        self._looked_everywhere = False

    def recover(self, alive: str | None = None) -> list[str]:
        """Requeue or fail the jobs of dead workers: SMEMBERS, MGET, LPUSH to the queue, HSET the record.

        Any number of workers may call this at once: the script checks the heartbeat itself, so each job is
        recovered once.

        Args:
            alive: a worker that lives, whatever its heartbeat says: the one that calls.

        Returns:
            The ids of the jobs requeued or failed.
        """
        recovered: list[str] = []
        for worker in heartbeats.dead_workers(self.redis):
            if worker == alive:
                continue
            lists = [processing_key(queue, worker) for queue in self.queues]
            keys = [worker_key(worker), *self.queues, *lists, *map(order_key, self.queues)]
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

    def forget_deleted(self) -> int:
        """Drop what counts or names jobs whose records are gone; the limits would count them for ever.

        A record is gone before its time if it was deleted by hand or evicted. The first call looks at all
        keys and all jobs (SCAN, ZSCAN, SSCAN, EXISTS), in batches; later ones only if one of the jobs in
        `kept` has lost its record (ZSCAN, EXISTS).

        Returns:
            How many entries were dropped.
        """
        if self._looked_everywhere and not self._lacks_records():
            return 0
        dropped = 0
        for key, entries in self._entries():
            while batch := list(islice(entries, records.SCAN_COUNT)):
                dropped += cast("int", self._forget(key, *batch, keys=[key] if key else batch))
        self._looked_everywhere = True
        return dropped

    def _lacks_records(self) -> bool:
        """Whether a job in `kept` has no record, although it has not expired; or nothing is kept."""
        now = time.time()
        found = self.redis.zscan_iter(KEPT_KEY, count=records.SCAN_COUNT)
        entries = (entry for entry, expires in found if expires > now)
        nothing = True
        while batch := list(islice(entries, records.SCAN_COUNT)):
            nothing = False
            keys = {job_key(entry.rpartition(":")[0]) for entry in batch}
            if self.redis.exists(*keys) < len(keys):
                return True
        return nothing

    def _entries(self) -> Iterator[tuple[str, Iterator[str]]]:
        """The keys that name jobs beside records and queues, with their entries; "" with idempotency keys."""
        count = records.SCAN_COUNT
        for key in self.redis.scan_iter(f"{KEPT_KEY}*", count=count, _type="zset"):
            yield key, (entry for entry, _ in self.redis.zscan_iter(key, count=count))
        for pattern in (unfinished_key("*"), keeps_key("*")):
            for key in self.redis.scan_iter(pattern, count=count, _type="set"):
                yield key, self.redis.sscan_iter(key, count=count)
        yield "", self.redis.scan_iter(idempotency_key("*", "*"), count=count, _type="string")

    def forget_idle(self) -> None:
        """Drop the names of dead workers that hold no jobs of any queue (SCAN, SREM)."""
        heartbeats.forget_idle(self.redis)

    def register_holders(self) -> None:
        """Register every worker that holds jobs of the queues (SCAN, SADD), so that `recover` finds it.

        A name is missing only after keys were deleted by hand. Takes longer the more keys Redis has.
        """
        heartbeats.register_holders(self.redis, self.queues)
