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

`mead.queue.recovery` requeues the jobs of dead workers.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, cast

import redis
from pydantic import ValidationError

from mead.queue import heartbeats, records
from mead.queue.errors import NotAloneError, UnknownJobError, refusal
from mead.queue.heartbeats import EngineLoad, Heartbeat
from mead.queue.job import Job, JobOutcome, JobProgress, KeptLimits, ReportReply, ids_of_group
from mead.queue.keys import (
    KEPT_KEY,
    STATISTICS_KEY,
    cancelled_key,
    job_key,
    kept_bytes_key,
    kept_jobs_key,
    preview_key,
    processing_key,
    served_key,
    tickets_key,
    worker_key,
)
from mead.queue.redis_errors import NotReplicatedError
from mead.queue.scripts import TimelyScript, load_script
from mead.queue.statistics import Statistics, read_statistics

log = logging.getLogger(__name__)

ACCEPT_SECONDS, END_SECONDS = 2.0, 0.2
"""How long replicas may take to confirm a new job, and the end of one."""
PREVIEW_SECONDS = 10
"""How long a request for previews lasts."""


class Jobs:
    """The jobs and workers in one Redis.

    Every method raises redis.RedisError when Redis is not reachable or refuses a command. What clients ask
    (`enqueue`, `cancel`, `retry`) is not done after that: see `mead.queue.scripts.TimelyScript`.

    Args:
        client: from `mead.queue.client.connect`.
        ttl: seconds that the record of an ended job is kept.
        replicas: how many replicas of Redis must have a job before it is accepted, and its end (WAIT).
    """

    def __init__(self, client: redis.Redis, ttl: int, replicas: int = 0) -> None:
        self.redis = client
        self.ttl = ttl
        self._enqueue = TimelyScript(load_script(client, "enqueue", replicas, ACCEPT_SECONDS))
        self._cancel = TimelyScript(load_script(client, "cancel"))
        self._retry = TimelyScript(load_script(client, "retry", replicas, ACCEPT_SECONDS))
        self._claim = load_script(client, "claim")
        self._report = load_script(client, "report")
        self._finish = load_script(client, "finish", replicas, END_SECONDS)
        self._requeue = load_script(client, "requeue")
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
        longest: int = 0,
        most: int = 0,
        bytes_stored: int = 0,
        kept: KeptLimits | None = None,
    ) -> list[str]:
        """Create jobs, all or none: RPUSH their ids to the queue, INCRBY the tickets, HSET the records.

        Args:
            group: the jobs' parameters by their ids, which `new_ids` makes if there are several.
            owner: short hash of the API key; "" without keys.
            client: whose unfinished jobs `most` limits; the owner if "".
            idempotency_key: a second request of the owner with this key creates no second job.
            fingerprint: of the request; tells different requests with the same idempotency key apart.
            longest, most: how many jobs may wait in the queue, and be the client's and unfinished; 0: any.
            bytes_stored: size of each job's uploads on the disk.
            kept: limits on what is kept of all clients' jobs and of this client's; None: no limit.

        Returns:
            The ids, or those of the jobs that the owner created earlier with the same idempotency key.

        Raises:
            QueueFullError: the queue has no room for them.
            TooManyJobsError: the client would have too many unfinished jobs.
            KeptLimitError: a limit of `kept` is reached.
            IdempotencyError: the idempotency key was used with another fingerprint.
            NotReplicatedError: too few replicas have the jobs; they are cancelled.
        """
        client = client or owner
        request = [queue, kind, owner, client, idempotency_key or "", fingerprint]
        limits = [longest, most, *(kept or KeptLimits())]
        jobs: list[Any] = [len(group)]
        for job_id, parameters in group.items():
            fields = records.flatten(parameters)
            jobs += [job_id, len(fields), *fields]
        keys = [queue, tickets_key(queue), served_key(queue), cancelled_key(queue), kept_jobs_key(owner)]
        keys += map(job_key, group)
        try:
            answer = self._enqueue(*request, *records.now(), bytes_stored, *limits, *jobs, keys=keys)
        except NotReplicatedError:
            self.cancel_all(list(group))
            raise
        result, *accepted = answer
        if result != "accepted":
            raise refusal(result, len(group), longest, most, kept or KeptLimits())
        return ids_of_group(*accepted)

    def get(self, job_id: str) -> Job:
        """Read a job's record (HGETALL).

        Raises:
            UnknownJobError: there is none.
            DamagedRecordError: (an UnknownJobError) it cannot be read.
        """
        return records.read_job(self.redis, job_id)

    def cancel(self, job_id: str) -> bool:
        """Cancel a job: HSET and EXPIRE the record, LREM the id from its worker's list (if queued: ZADD).

        The worker of a running job drops it after the current step.

        Returns:
            False if the job had already ended.

        Raises:
            UnknownJobError: there is no such job.
        """
        (cancelled,) = self._cancel(*records.now(), self.ttl, job_id, keys=[job_key(job_id)])
        if cancelled == -1:
            raise UnknownJobError(job_id)
        return bool(cancelled)

    def cancel_all(self, job_ids: Sequence[str]) -> list[str]:
        """Cancel jobs at once, as `cancel`; returns the ids of those that had not ended."""
        answers = self._cancel(*records.now(), self.ttl, *job_ids, keys=list(map(job_key, job_ids)))
        return [job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer == 1]

    def retry(self, job_id: str, *, most: int = 0) -> bool:
        """Put a failed job at the end of its queue: HDEL and HSET the record, RPUSH the id.

        Args:
            most: as for `enqueue_group`; a job that runs again counts, but is never refused.

        Returns:
            False if it cannot run again: it has not failed, or failed for its input.

        Raises:
            UnknownJobError: there is no such job.
            NotReplicatedError: too few replicas know that it will run again.
        """
        if (retried := self._retry(job_id, int(most > 0), keys=[job_key(job_id)])) == -1:
            raise UnknownJobError(job_id)
        return bool(retried)

    def rank(self, job: Job) -> int:
        """How many jobs run before this one; 0 unless it is queued."""
        return self.ranks([job])[0]

    def ranks(self, jobs: Sequence[Job]) -> list[int]:
        """The rank of each job, in one round trip.

        GET of the served ticket and ZCOUNT of the cancelled jobs in front of each.
        """
        waiting = [job for job in jobs if job.status == "queued"]
        with self.redis.pipeline(transaction=False) as pipe:  # Redis refuses MULTI when it is out of memory
            for job in waiting:
                pipe.get(served_key(job.queue))
                pipe.zcount(cancelled_key(job.queue), "-inf", f"({job.ticket}")
            answers = pipe.execute() if waiting else []
        found = {
            job.id: max(0, job.ticket - int(served or 0) - 1 - cancelled)
            for job, served, cancelled in zip(waiting, answers[::2], answers[1::2], strict=True)
        }
        return [found.get(job.id, 0) for job in jobs]

    def queue_length(self, queue: str) -> int:
        """How many jobs wait in a queue (LLEN), without cancelled ones (ZCARD)."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.llen(queue)
            pipe.zcard(cancelled_key(queue))
            length, cancelled = pipe.execute()
        return max(0, length - cancelled)

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

    # For engines

    def claim(self, queue: str, worker: str, *, alone: bool = True) -> Job | None:
        """Take the oldest queued job, if any: LMOVE its id to the worker's list, HSET its record.

        Args:
            alone: whether the worker runs no other job, so that it may take one that must run alone.

        Raises:
            NotAloneError: the next job must run alone, and the worker runs others.
        """
        while True:
            keys = [queue, processing_key(queue, worker), served_key(queue), cancelled_key(queue)]
            answer = self._claim(queue, worker, *records.now(), int(alone), keys=keys)
            if not answer:
                return None
            if answer == "alone":
                raise NotAloneError
            if answer == "again":
                continue
            fields = cast("list[str] | dict[str, str]", answer)
            record = fields if isinstance(fields, dict) else records.unflatten(fields)
            try:
                return Job.model_validate(record)
            except ValidationError as error:
                self._fail_damaged(queue, worker, error)

    def wait_for_work(self, queue: str, timeout: float) -> None:
        """Return when the queue has a job, or after `timeout` seconds.

        BLMOVE from the queue's left end to its left end moves nothing. Claiming the job stays one script,
        and a connection that drops while waiting loses no job.
        """
        self.redis.blmove(queue, queue, cast("int", timeout), "LEFT", "LEFT")  # Redis takes fractions too

    def report(self, queue: str, worker: str, progress: Sequence[JobProgress]) -> ReportReply:
        """Record the progress of a worker's jobs of one queue: HSET each record, LRANGE the worker's list."""
        arguments: list[Any] = []
        for job in progress:
            loss = round(job.loss, 6) if math.isfinite(job.loss) else ""
            notes = json.dumps(job.notes, ensure_ascii=False) if job.notes else ""
            faces = json.dumps([face.model_dump() for face in job.faces]) if job.faces else ""
            arguments += [job.job_id, job.steps, job.total_steps, loss, notes, faces]
        keys = [processing_key(queue, worker), *(job_key(job.job_id) for job in progress)]
        answer = self._report(queue, worker, *arguments, keys=keys)
        lost, watched, held = cast("list[list[str]]", answer)
        return ReportReply(frozenset(lost), frozenset(watched), tuple(held))

    def succeed(self, job: Job, worker: str, out_path: str, bytes_stored: int = 0) -> bool:
        """End a job with its result of `bytes_stored` bytes: HSET and EXPIRE the record, LREM the id.

        Returns:
            False if the job has ended otherwise, or the worker does not hold it.
        """
        result = {"status": "succeeded", "out_path": out_path, "bytes": str(bytes_stored)}
        return self._end(job.queue, worker, job.id, result)

    def fail(
        self, job: Job, worker: str, error: str, kind: Literal["input", "internal"], field: str | None = None
    ) -> bool:
        """End a job with the reason for its failure: HSET and EXPIRE the record, LREM the id.

        Returns:
            False if the job has ended otherwise, or the worker does not hold it.
        """
        result = {"status": "failed", "error": error, "error_kind": kind}
        if field:
            result["error_field"] = field
        if kind == "input":
            result["bytes"] = "0"  # its uploads are removed
        return self._end(job.queue, worker, job.id, result)

    def requeue(self, queue: str, worker: str, job_ids: Sequence[str] = ()) -> list[str]:
        """Hand jobs back unfinished: LPUSH them to the queue, HSET their records, as if never claimed.

        Args:
            job_ids: which, oldest first; all that the worker holds of this queue if empty.

        Returns:
            The ids of those that the worker held.
        """
        keys = [queue, processing_key(queue, worker), served_key(queue), *map(job_key, job_ids)]
        return cast("list[str]", self._requeue(queue, worker, *job_ids, keys=keys))

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
        )

    def deregister(self, worker: str, queues: Iterable[str]) -> None:
        """Delete a worker's heartbeat (DEL), and its name (SREM) unless it holds jobs of these queues."""
        served = list(queues)
        held = [processing_key(queue, worker) for queue in served]
        self._deregister(worker, *served, keys=[worker_key(worker), *held])

    def workers(self) -> dict[str, Heartbeat]:
        """The heartbeats of live workers, without unreadable ones (SMEMBERS, MGET)."""
        return heartbeats.live_workers(self.redis)

    def _end(self, queue: str, worker: str, job_id: str, result: dict[str, str]) -> bool:
        fields = records.flatten(result)
        keys = [processing_key(queue, worker), job_key(job_id)]
        with suppress(NotReplicatedError):  # it has ended all the same
            return bool(self._finish(queue, worker, job_id, *records.now(), self.ttl, *fields, keys=keys))
        return True

    def _fail_damaged(self, queue: str, worker: str, error: ValidationError) -> None:
        """Fail the job just claimed, the last in the worker's list: its record cannot be read."""
        job_id = cast("str", self.redis.lindex(processing_key(queue, worker), -1))
        why = f"its record in Redis is damaged: {records.first_problem(error)}"
        log.error("job failed", extra={"job": job_id, "worker": worker, "error": why})
        self._end(queue, worker, job_id, {"status": "failed", "error": why, "error_kind": "internal"})
