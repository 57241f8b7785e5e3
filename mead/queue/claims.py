"""What engines do with jobs: claim them, report on them, end them or hand them back."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, cast

import redis
from pydantic import ValidationError

from mead.queue import records
from mead.queue.errors import NotAloneError
from mead.queue.job import Job, JobProgress, ReportReply
from mead.queue.keys import (
    WORKERS_KEY,
    cancelled_key,
    job_key,
    order_key,
    processing_key,
    served_key,
)
from mead.queue.redis_errors import NotReplicatedError
from mead.queue.scripts import load_script

log = logging.getLogger(__name__)

WATCHERS = 32
"""How many idle workers, about, wait on a queue at a time."""
END_SECONDS = 0.2
"""How long replicas may take to confirm the end of a job."""


class Claims:
    """The jobs that engines claim, in one Redis. Arguments and errors are those of `mead.queue.jobs.Jobs`."""

    def __init__(self, client: redis.Redis, ttl: int, replicas: int = 0) -> None:
        self.redis = client
        self.ttl = ttl
        self.replicas = replicas
        self._claim = load_script(client, "claim")
        self._report = load_script(client, "report")
        self._finish = load_script(client, "finish", replicas, END_SECONDS)
        self._requeue = load_script(client, "requeue")

    def claim(self, queue: str, worker: str, *, alone: bool = True) -> Job | None:
        """Take the next queued job, if any: LMOVE its id to the worker's list, HSET its record.

        Args:
            alone: whether the worker runs no other job, so that it may take one that must run alone.

        Raises:
            NotAloneError: the next job must run alone, and the worker runs others.
        """
        while True:
            keys = [queue, processing_key(queue, worker), served_key(queue), cancelled_key(queue)]
            keys.append(order_key(queue))
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
        and a connection that drops while waiting loses no job. But it wakes all who wait, so in a large fleet
        (SCARD) only about WATCHERS do; the others look after `timeout`.
        """
        if random.random() * self.redis.scard(WORKERS_KEY) > WATCHERS:
            time.sleep(timeout)
            return
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

    def succeed(
        self,
        job: Job,
        worker: str,
        out_path: str,
        bytes_stored: int = 0,
        latents_bytes: int = 0,
        latents_ttl: int = 0,
    ) -> bool:
        """End a job with its result of `bytes_stored` bytes: HSET and EXPIRE the record, LREM the id.

        Args:
            latents_bytes: size of the latents that it can go on with; 0: it cannot.
            latents_ttl: seconds that these are kept, and the job's uploads.

        Returns:
            False if the job has ended otherwise, or the worker does not hold it.
        """
        result = {"status": "succeeded", "out_path": out_path, "bytes": str(bytes_stored)}
        return self._end(job.queue, worker, job.id, result, latents_bytes, latents_ttl)

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
        keys = [queue, processing_key(queue, worker), served_key(queue), order_key(queue)]
        keys += map(job_key, job_ids)
        return cast("list[str]", self._requeue(queue, worker, *job_ids, keys=keys))

    def _end(
        self,
        queue: str,
        worker: str,
        job_id: str,
        result: dict[str, str],
        latents_bytes: int = 0,
        latents_ttl: int = 0,
    ) -> bool:
        fields = records.flatten(result)
        keys = [processing_key(queue, worker), job_key(job_id)]
        kept = self.ttl, latents_bytes, latents_ttl
        with suppress(NotReplicatedError):  # it has ended all the same
            return bool(self._finish(queue, worker, job_id, *records.now(), *kept, *fields, keys=keys))
        return True

    def _fail_damaged(self, queue: str, worker: str, error: ValidationError) -> None:
        """Fail the job just claimed, the last in the worker's list: its record cannot be read."""
        job_id = cast("str", self.redis.lindex(processing_key(queue, worker), -1))
        why = f"its record in Redis is damaged: {records.first_problem(error)}"
        log.error("job failed", extra={"job": job_id, "worker": worker, "error": why})
        self._end(queue, worker, job_id, {"status": "failed", "error": why, "error_kind": "internal"})
