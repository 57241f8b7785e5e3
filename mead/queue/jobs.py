"""The queue: jobs and workers in Redis.

`mead.queue.keys` lists every key; `redis-cli` is enough to see what happens. A job's id moves from the list
of its queue to the list of the worker that claims it. Each move is one script in mead/queue/lua, which also
changes the job's record, updates the statistics and publishes an event (see `mead.http.events`). A job ends
exactly once.

A job draws a ticket when it joins its queue, and QUEUE:served is the highest ticket claimed so far. Their
difference is the job's rank, which takes the same time however long the queue is. A requeued job gets the
last served ticket, and QUEUE:served goes back by one. A cancelled job stays in the list until a worker comes
to it, because removing it would take longer the longer the queue is; QUEUE:cancelled holds the tickets of
such jobs, so that ranks and lengths leave them out.

Jobs of several owners (API keys) take turns: a new one is put into the list where its owner's turn is. From
there on it is a job like any other, to workers of older versions, too. QUEUE:order holds the turns, and tells
the rank; see mead/queue/lua/places.lua.

`mead.queue.recovery` requeues the jobs of dead workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import redis

from mead.queue import heartbeats, ranks, records
from mead.queue.claims import Claims
from mead.queue.errors import UnknownJobError, refusal
from mead.queue.heartbeats import EngineLoad, Heartbeat
from mead.queue.job import Job, JobOutcome, KeptLimits, ids_of_group
from mead.queue.keys import (
    KEPT_KEY,
    STATISTICS_KEY,
    cancelled_key,
    idempotency_key,
    job_key,
    kept_bytes_key,
    kept_jobs_key,
    order_key,
    preview_key,
    processing_key,
    served_key,
    tickets_key,
    turns_key,
    worker_key,
)
from mead.queue.redis_errors import NotReplicatedError
from mead.queue.scripts import TimelyScript, load_script
from mead.queue.statistics import Statistics, read_statistics

ACCEPT_SECONDS = 2.0
"""How long replicas may take to confirm a new job."""
PREVIEW_SECONDS = 10
"""How long a request for previews lasts."""


class Jobs(Claims):
    """The jobs and workers in one Redis.

    Every method raises redis.RedisError when Redis is not reachable or refuses a command. What clients ask
    (`enqueue`, `cancel`, `retry`) is not done after that: see `mead.queue.scripts.TimelyScript`.

    Args:
        client: from `mead.queue.client.connect`.
        ttl: seconds that the record of an ended job is kept.
        replicas: how many replicas of Redis must have a job before it is accepted, and its end (WAIT).
    """

    def __init__(self, client: redis.Redis, ttl: int, replicas: int = 0) -> None:
        super().__init__(client, ttl, replicas)
        self._enqueue = TimelyScript(load_script(client, "enqueue", replicas, ACCEPT_SECONDS))
        self._cancel = TimelyScript(load_script(client, "cancel"))
        self._retry = TimelyScript(load_script(client, "retry", replicas, ACCEPT_SECONDS))
        self._deregister = load_script(client, "deregister")

    # For clients

    def enqueue(
        self, job_id: str, kind: str, queue: str, parameters: Mapping[str, Any], **request: Any
    ) -> str:
        """Create a job; its id, or an earlier one's. `request` and errors are those of `enqueue_group`."""
        return self.enqueue_group({job_id: parameters}, kind, queue, **request)[0]

    def enqueue_group(
        self,
        group: Mapping[str, Mapping[str, Any]],
        kind: str,
        queue: str,
        *,
        owner: str = "",
        client: str = "",
        idempotency_key: str | None = None,
        fingerprint: str = "",
        weights: Mapping[str, str] | None = None,
        priority: int = 1,
        longest: int = 0,
        most: int = 0,
        a_minute: int = 0,
        bytes_stored: int = 0,
        kept: KeptLimits | None = None,
    ) -> list[str]:
        """Create jobs, all or none: INCRBY the tickets, put the ids into the queue, HSET the records.

        Jobs without an owner join at the end (RPUSH), those of an owner where its turn is (LINSERT, ZADD).

        Args:
            group: the jobs' parameters by their ids, which `new_ids` makes if there are several.
            owner: short hash of the API key; "" without keys.
            client: whose unfinished jobs `most` limits; the owner if "".
            idempotency_key: a second request of the owner with this key creates no second job.
            fingerprint: of the request; tells different requests with the same idempotency key apart.
            weights: the set that the parameters were checked against, as `mead.provenance.recorded_weights`;
                None if a worker of an older version may claim the jobs, which takes it for parameters.
            priority: how many jobs the owner has run for each one of an owner with priority 1.
            longest, most: how many jobs may wait in the queue, and be the client's and unfinished; 0: any.
            a_minute: how many jobs the owner may make in any minute; 0: any number.
            bytes_stored: size of each job's uploads on the disk.
            kept: limits on what is kept of all clients' jobs and of this client's; None: no limit.

        Returns:
            The ids, or those of the jobs that the owner created earlier with the same idempotency key.

        Raises:
            QueueFullError: the queue has no room for them.
            TooManyJobsError: the client would have too many unfinished jobs.
            TooFastError: the owner has made too many jobs in the last minute.
            KeptLimitError: a limit of `kept` is reached.
            IdempotencyError: the idempotency key was used with another fingerprint.
            NotReplicatedError: too few replicas have the jobs; they are cancelled.
        """
        client = client or owner
        request = [queue, kind, owner, client, idempotency_key or "", fingerprint]
        limits = [priority, longest, most, a_minute, *(kept or KeptLimits())]
        jobs: list[Any] = [len(group)]
        for job_id, parameters in group.items():
            fields = records.flatten({**parameters, **(weights or {})})
            jobs += [job_id, len(fields), *fields]
        keys = [queue, tickets_key(queue), served_key(queue), cancelled_key(queue)]
        keys += [order_key(queue), turns_key(queue), kept_jobs_key(owner), *map(job_key, group)]
        try:
            answer = self._enqueue(*request, *records.now(), bytes_stored, *limits, *jobs, keys=keys)
        except NotReplicatedError:
            self._withdraw(list(group), owner, idempotency_key, priority)
            raise
        result, *more = answer
        if result != "accepted":
            ms = int(more[0]) if more else -1
            raise refusal(result, ms, len(group), longest, most, a_minute, kept or KeptLimits())
        return ids_of_group(*more)

    def get(self, job_id: str) -> Job:
        """Read a job's record (HGETALL).

        Raises:
            UnknownJobError: there is none.
            DamagedRecordError: (an UnknownJobError) it cannot be read.
        """
        return records.read_job(self.redis, job_id)

    def cancel(self, job_id: str, *, priority: int = 1) -> bool:
        """Cancel a job: HSET and EXPIRE the record, LREM the id from its worker's list (if queued: ZADD).

        The worker of a running job drops it after the current step.

        Args:
            priority: as for `enqueue_group`; the owner gets back the turn of a job that waits.

        Returns:
            False if the job had already ended.

        Raises:
            UnknownJobError: there is no such job.
        """
        (cancelled,) = self._cancel_all([job_id], priority)
        if cancelled == -1:
            raise UnknownJobError(job_id)
        return bool(cancelled)

    def cancel_all(self, job_ids: Sequence[str], *, priority: int = 1) -> list[str]:
        """Cancel jobs at once, as `cancel`; returns the ids of those that had not ended."""
        answers = self._cancel_all(job_ids, priority)
        return [job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer == 1]

    def _withdraw(self, job_ids: Sequence[str], owner: str, key: str | None, priority: int) -> None:
        """Cancel jobs that were not accepted; the idempotency key can be used again for them (GET, DEL)."""
        if key and self.redis.get(idempotency_key(owner, key)) == job_ids[0]:
            self.redis.delete(idempotency_key(owner, key))
        self.cancel_all(job_ids, priority=priority)

    def _cancel_all(self, job_ids: Sequence[str], priority: int) -> list[int]:
        keys = list(map(job_key, job_ids))
        return cast("list[int]", self._cancel(*records.now(), self.ttl, priority, *job_ids, keys=keys))

    def retry(self, job_id: str, *, most: int = 0, priority: int = 1) -> bool:
        """Put a failed job into its queue as `enqueue_group` does: HDEL and HSET the record.

        Args:
            most, priority: as for `enqueue_group`; a job that runs again counts, but is never refused.

        Returns:
            False if it cannot run again: it has not failed, or failed for its input.

        Raises:
            UnknownJobError: there is no such job.
            NotReplicatedError: too few replicas know that it will run again.
        """
        if (retried := self._retry(job_id, int(most > 0), priority, keys=[job_key(job_id)])) == -1:
            raise UnknownJobError(job_id)
        return bool(retried)

    def rank(self, job: Job) -> int:
        """How many jobs run before this one; 0 unless it is queued."""
        return self.ranks([job])[0]

    def ranks(self, jobs: Sequence[Job]) -> list[int]:
        """The rank of each job, in one round trip; see `mead.queue.ranks`."""
        return ranks.read_ranks(self.redis, jobs)

    def queue_length(self, queue: str) -> int:
        """How many jobs wait in a queue (LLEN), without cancelled ones (ZCARD)."""
        return ranks.queue_length(self.redis, queue)

    def kept(self) -> tuple[int, int]:
        """How many records are kept (ZCARD), and how many bytes of their jobs' files (GET)."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(KEPT_KEY)
            pipe.get(kept_bytes_key(KEPT_KEY))
            kept, size = pipe.execute()
        return kept, int(size or 0) if kept else 0  # `kept` may have been deleted by hand

    def ask_preview(self, job_id: str) -> None:
        """Have the job's worker write `Storage.preview_path` each second for PREVIEW_SECONDS (SET, EX)."""
        self.redis.set(preview_key(job_id), 1, ex=PREVIEW_SECONDS)

    def outcomes(self, job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        """The outcomes of those of these jobs that have a record (HMGET of each, in one round trip)."""
        return records.read_outcomes(self.redis, job_ids)

    def statistics(self) -> Statistics:
        """What the scripts have counted since Redis was empty (HGETALL)."""
        return read_statistics(cast("dict[str, str]", self.redis.hgetall(STATISTICS_KEY)))

    # For workers

    def heartbeat(
        self,
        worker: str,
        queues: Mapping[str, EngineLoad] | Iterable[str],
        ttl: int,
        *,
        started_at: datetime | None = None,
        memory_bytes: int = 0,
        weights: str | None = None,
        weights_digest: str | None = None,
    ) -> None:
        """Show for `ttl` seconds that a worker is alive (SET with EX), and register it (SADD).

        A Redis that is out of memory refuses this; then the previous heartbeat is extended (EXPIRE).
        """
        heartbeats.send(
            self.redis,
            worker,
            queues,
            ttl,
            started_at=started_at,
            memory_bytes=memory_bytes,
            weights=weights,
            weights_digest=weights_digest,
        )

    def deregister(self, worker: str, queues: Iterable[str]) -> None:
        """Delete a worker's heartbeat (DEL), and its name (SREM) unless it holds jobs of these queues."""
        served = list(queues)
        held = [processing_key(queue, worker) for queue in served]
        self._deregister(worker, *served, keys=[worker_key(worker), *held])

    def workers(self) -> dict[str, Heartbeat]:
        """The heartbeats of live workers, without unreadable ones (SMEMBERS, MGET)."""
        return heartbeats.live_workers(self.redis)
