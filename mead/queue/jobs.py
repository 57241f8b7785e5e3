"""The queue: jobs as Redis keeps them.

mead/queue/keys.py names every key; `redis-cli` is enough to see what goes on. A job's id moves from the list
of its queue to that of the worker that holds it. Each such move is one script of mead/queue/lua, which also
changes the job's record, publishes an event (see `mead.http.events`) and updates the statistics. A job ends
exactly once, by whoever holds it then.

A job draws a ticket as it joins its queue, as at a counter; QUEUE:served is the highest ticket that a worker
has taken. How many jobs are before one is the difference, however long the queue. A job put back at the front
gets the last served ticket, and the count goes one back. A job cancelled while it waits stays in the list
until a worker comes past it (finding it there would take longer the longer the queue); QUEUE:cancelled keeps
the tickets of such jobs, so that ranks and lengths leave them out.

A job whose worker died is put back with its attempt counted. Whoever takes it then must run it alone, so that
a job that kills its workers takes no other with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import redis
from pydantic import BaseModel, ValidationError
from redis.client import Pipeline

from mead.queue.job import End, Job, Status
from mead.queue.keys import (
    KEPT_KEY,
    STATISTICS_KEY,
    WORKERS_KEY,
    cancelled_key,
    job_key,
    kept_bytes_key,
    preview_key,
    processing_key,
    served_key,
    worker_key,
)
from mead.queue.redis_errors import code_of
from mead.queue.scripts import load_script
from mead.queue.statistics import Statistics, read_statistics

log = logging.getLogger(__name__)

PREVIEW_SECONDS = 10
"""How long asking for a preview keeps previews coming."""


class UnknownJobError(KeyError):
    """There is no such job, or its record has expired."""


class DamagedRecordError(UnknownJobError):
    """What lies under the key of a job's record cannot be read as one."""


class QueueFullError(Exception):
    """The queue holds as many jobs as it may."""

    def __init__(self, queue: str, longest: int) -> None:
        super().__init__(f"{longest} jobs are waiting, which is as many as may; try again later")
        self.queue = queue


class TooManyJobsError(Exception):
    """A client has as many unfinished jobs as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} of your jobs have not ended, which is as many as may; wait for one of them")


class KeptLimitError(Exception):
    """As many jobs, or bytes of their files, are kept as the settings allow."""

    def __init__(self, reached: str, limits: KeptLimits) -> None:
        whose = "your jobs" if reached.startswith("client_") else "all jobs"
        most = f"{getattr(limits, reached):,}"
        what = f"{most} records" if reached.endswith("jobs") else f"{most} bytes of files"
        super().__init__(
            f"{what} of {whose} are kept, and there is no room for more (MAX_{reached.upper()}); "
            "they are removed JOB_TTL seconds after their jobs have ended"
        )


class IdempotencyError(ValueError):
    """An idempotency key came a second time, with another request."""

    field = "Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(f"{self.field}: was used for another request; a new request needs a new key")


class NotAloneError(Exception):
    """The next job in the queue must run alone: its worker died with it."""


class KeptLimits(NamedTuple):
    """The most that is kept of jobs from their acceptance until their records expire; 0 is no limit."""

    kept_jobs: int = 0
    kept_bytes: int = 0
    client_kept_jobs: int = 0
    client_kept_bytes: int = 0


NO_LIMITS = KeptLimits()


class Load(BaseModel):
    """What an engine has to do."""

    running: int = 0  # jobs
    capacity: int = 0  # the most that it would run at once
    steps_per_second: float = 0.0  # of all its jobs together


class Heartbeat(BaseModel):
    """What a live worker said of itself last."""

    queues: dict[str, Load]  # by the queue's name
    weights: str | None = None  # the set that it runs; None from workers before 0.2
    seen_at: datetime
    started_at: datetime
    memory_bytes: int = 0  # of its process, resident


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    job_id: str
    steps: int
    total_steps: int
    loss: float


@dataclass(frozen=True)
class Standing:
    """What a worker is told as it reports.

    Attributes:
        lost: ids of reported jobs that the worker does not hold any more: it must drop them.
        watched: ids of reported jobs that somebody wants previews of.
        held: ids of all jobs that the worker holds.
    """

    lost: frozenset[str]
    watched: frozenset[str]
    held: tuple[str, ...]


class Jobs:
    """The jobs in one Redis.

    Every method raises redis.RedisError when Redis is away, unless it says otherwise.

    Args:
        client: from `caching_config.connect` (its answers are strings).
        ttl: seconds an ended job's record is kept.
    """

    def __init__(self, client: redis.Redis, ttl: int) -> None:
        self.redis = client
        self.ttl = ttl
        self._enqueue = load_script(client, "enqueue")
        self._cancel = load_script(client, "cancel")
        self._claim = load_script(client, "claim")
        self._report = load_script(client, "report")
        self._finish = load_script(client, "finish")
        self._put_back = load_script(client, "put_back")
        self._recover = load_script(client, "recover")
        self._restore = load_script(client, "restore")
        self._leave = load_script(client, "leave")

    # For those who ask for pictures

    def enqueue(
        self,
        job_id: str,
        kind: str,
        queue: str,
        parameters: Mapping[str, Any],
        *,
        owner: str = "",
        client: str = "",
        idempotency_key: str | None = None,
        fingerprint: str = "",
        longest: int | None = None,
        most: int | None = None,
        bytes_stored: int = 0,
        kept: KeptLimits = NO_LIMITS,
    ) -> str:
        """Put the id at the queue's right end (RPUSH) with a ticket (INCR) and write the record (HSET).

        Args:
            owner: whose job it is: a short hash of the API key; "" without keys.
            client: whose unfinished jobs are counted for `most`; the owner's when "".
            idempotency_key: what the owner calls this request; a second request with it makes no second job.
            fingerprint: of the request, to tell another request with the same idempotency key.
            longest: the most jobs that may wait in the queue; None or 0: any number.
            most: the most unfinished jobs of this client; None or 0: any number.
            bytes_stored: what the job's uploads take on the disk.
            kept: the most that may be kept of all jobs and of this client's; None: any number.

        Returns:
            `job_id`, or the id of the job that this owner made with the same idempotency key before.

        Raises:
            QueueFullError: the queue is as long as it may be.
            TooManyJobsError: this client has as many unfinished jobs as it may.
            KeptLimitError: no more may be kept.
            IdempotencyError: the idempotency key was used with another fingerprint.
        """
        client = client or owner
        named = [job_id, queue, kind, owner, client, idempotency_key or "", fingerprint, _now(), bytes_stored]
        limits = [longest or 0, most or 0, *kept]
        outcome, accepted = cast("tuple[str, str]", self._enqueue(*named, *limits, *_flat(parameters)))
        if outcome == "full":
            raise QueueFullError(queue, longest or 0)
        if outcome == "many":
            raise TooManyJobsError(most or 0)
        if outcome == "repeated":
            raise IdempotencyError
        if outcome != "accepted":
            raise KeptLimitError(outcome, kept)
        return accepted

    def get(self, job_id: str) -> Job:
        """Read a record (HGETALL).

        Raises:
            UnknownJobError: if there is none.
            DamagedRecordError: (an UnknownJobError) if it cannot be read.
        """
        try:
            record = cast("dict[str, str]", self.redis.hgetall(job_key(job_id)))
        except redis.ResponseError as error:
            if code_of(error) != "WRONGTYPE":
                raise
            raise _damaged(job_id, "it is no hash") from None
        if not record:
            raise UnknownJobError(job_id)
        try:
            return Job.model_validate(record)
        except ValidationError as error:
            raise _damaged(job_id, _first_problem(error)) from None

    def cancel(self, job_id: str) -> bool:
        """End a job as cancelled, whether it waits or runs; its worker drops it after its current step.

        Returns:
            False if it had ended already.

        Raises:
            UnknownJobError: if there is no such job.
        """
        outcome = self._cancel(job_id, _now(), self.ttl)
        if outcome == -1:
            raise UnknownJobError(job_id)
        return bool(outcome)

    def rank(self, job: Job) -> int:
        """How many jobs run before this one; 0 for the next and for one that runs or has ended.

        GET of the served ticket, and ZCOUNT of the cancelled jobs before this one: no longer for a longer
        queue.
        """
        if job.status != "queued":
            return 0
        with self.redis.pipeline(transaction=False) as pipe:  # Redis refuses MULTI when its memory is full
            pipe.get(served_key(job.queue))
            pipe.zcount(cancelled_key(job.queue), "-inf", f"({job.ticket}")
            served, cancelled = pipe.execute()
        return max(0, job.ticket - int(served or 0) - 1 - cancelled)

    def queue_length(self, queue: str) -> int:
        """How many jobs wait in a queue (LLEN), cancelled ones left out (ZCARD)."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.llen(queue)
            pipe.zcard(cancelled_key(queue))
            length, cancelled = pipe.execute()
        return max(0, length - cancelled)

    def kept(self) -> tuple[int, int]:
        """How many records are kept, and how many bytes of files of their jobs (ZCARD, GET)."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(KEPT_KEY)
            pipe.get(kept_bytes_key(KEPT_KEY))
            records, size = pipe.execute()
        return records, int(size or 0)

    def ask_preview(self, job_id: str) -> None:
        """Have a running job's picture so far written to `Storage.preview_path`, every second or so.

        Holds for PREVIEW_SECONDS (SET with a time to live); whoever still looks then asks again.
        """
        self.redis.set(preview_key(job_id), 1, ex=PREVIEW_SECONDS)

    # For workers

    def claim(self, queue: str, worker: str, *, alone: bool = True) -> Job | None:
        """Take the oldest waiting job, if any: LMOVE it to the worker's list and mark its record as
        processing.

        Args:
            alone: whether the worker runs nothing else, so that it may take a job whose worker died.

        Raises:
            NotAloneError: such a job is the next, and the worker is not alone.
        """
        while True:
            answer = self._claim(queue, worker, _now(), int(alone))
            if not answer:
                return None
            if answer == "alone":
                raise NotAloneError
            if answer == "again":
                continue
            fields = cast("list[str] | dict[str, str]", answer)
            record = fields if isinstance(fields, dict) else _paired(fields)
            try:
                return Job.model_validate(record)
            except ValidationError as error:
                self._fail_damaged(queue, worker, error)

    def _fail_damaged(self, queue: str, worker: str, error: ValidationError) -> None:
        """Fail what was just claimed: the newest of the worker's list, whatever its record says of itself."""
        job_id = cast("str", self.redis.lindex(processing_key(queue, worker), -1))
        why = f"its record in Redis is damaged: {_first_problem(error)}"
        log.error("job failed", extra={"job": job_id, "worker": worker, "error": why})
        fields = _flat({"status": "failed", "error": why, "error_kind": "internal", "finished_at": _now()})
        self._finish(queue, worker, job_id, self.ttl, *fields)

    def wait_for_work(self, queue: str, timeout: float) -> None:
        """Return when the queue has a job, or after `timeout` seconds.

        BLMOVE from the queue's left end to its left end waits and moves nothing, so that taking the job and
        marking its record stays one script, and a connection lost meanwhile loses no job.
        """
        self.redis.blmove(queue, queue, cast("int", timeout), "LEFT", "LEFT")  # Redis takes fractions too

    def report(self, queue: str, worker: str, progress: Sequence[Progress]) -> Standing:
        """Record how far a worker's jobs of one queue are (HSET), all in one go, and hear how they stand."""
        told: list[Any] = []
        for one in progress:
            loss = round(one.loss, 6) if math.isfinite(one.loss) else ""
            told += [one.job_id, one.steps, one.total_steps, loss]
        lost, watched, held = cast("list[list[str]]", self._report(queue, worker, *told))
        return Standing(frozenset(lost), frozenset(watched), tuple(held))

    def succeed(self, job: Job, worker: str, out_path: str, bytes_stored: int = 0) -> bool:
        """End a job with its result, of so many bytes.

        Returns:
            False if it had ended otherwise, or the worker does not hold it.
        """
        change = {"status": "succeeded", "out_path": out_path, "bytes": str(bytes_stored)}
        return self._end(job, worker, change)

    def fail(
        self, job: Job, worker: str, error: str, kind: Literal["input", "internal"], field: str | None = None
    ) -> bool:
        """End a job with the reason why it has no result. False if it had ended, or as with `succeed`."""
        named = {"error_field": field} if field else {}
        if kind == "input":
            named["bytes"] = "0"  # its uploads go
        return self._end(job, worker, {"status": "failed", "error": error, "error_kind": kind, **named})

    def _end(self, job: Job, worker: str, change: dict[str, str]) -> bool:
        """HSET the end, EXPIRE the record, LREM the id from the worker's list."""
        fields = _flat({**change, "finished_at": _now()})
        return bool(self._finish(job.queue, worker, job.id, self.ttl, *fields))

    def put_back(self, queue: str, worker: str, job_ids: Sequence[str] = ()) -> list[str]:
        """Hand jobs back unfinished: to the front of their queue (LPUSH), as if they had not been taken.

        Args:
            job_ids: which, oldest first; all that the worker holds of this queue when there are none.

        Returns:
            The ids of those that were its to hand back.
        """
        return cast("list[str]", self._put_back(queue, worker, *job_ids))

    # For whoever looks after workers

    def beat(
        self,
        worker: str,
        queues: Mapping[str, Load] | Iterable[str],
        ttl: int,
        *,
        started_at: datetime | None = None,
        memory_bytes: int = 0,
        weights: str | None = None,
    ) -> None:
        """Say that a worker lives and which queues it serves: SET with a time to live, SADD to `workers`.

        A Redis without memory refuses that. What the worker said before is then kept alive (EXPIRE).
        """
        now = datetime.now(timezone.utc)
        loads = dict(queues) if isinstance(queues, Mapping) else {queue: Load() for queue in queues}
        heartbeat = Heartbeat(
            queues=loads,
            weights=weights,
            seen_at=now,
            started_at=started_at or now,
            memory_bytes=memory_bytes,
        )
        try:
            with self.redis.pipeline(transaction=True) as pipe:
                pipe.set(worker_key(worker), heartbeat.model_dump_json(), ex=ttl)
                pipe.sadd(WORKERS_KEY, worker)
                pipe.execute()
        except redis.RedisError as error:
            if code_of(error) != "OOM" or not self.redis.expire(worker_key(worker), ttl):
                raise

    def leave(self, worker: str, queues: Iterable[str]) -> None:
        """Take back the heartbeat of a worker that stops (DEL), and its name (SREM) if it holds no job."""
        self._leave(worker, *queues)

    def workers(self) -> dict[str, Heartbeat]:
        """The live workers whose heartbeats can be read (SMEMBERS, MGET)."""
        found = {}
        for name, beat in self._heartbeats().items():
            if beat is not None:
                with suppress(ValidationError):
                    found[name] = Heartbeat.model_validate_json(beat)
        return found

    def recover(self, queues: Sequence[str], attempts: int) -> list[str]:
        """Put what dead workers hold of these queues back at the front, with its attempt counted.

        A job that has had `attempts` attempts fails instead. However many call this at once, each job is
        recovered once: the script that does it looks at the heartbeat itself.

        Returns:
            The ids of the jobs recovered or failed.
        """
        recovered: list[str] = []
        for name, beat in self._heartbeats().items():
            if beat is None:
                answer = self._recover(name, _now(), self.ttl, attempts, *queues)
                recovered += cast("list[str]", answer)
        return recovered

    def ends(self, job_ids: Sequence[str]) -> dict[str, End]:
        """How those of these jobs stand that have a record (HMGET of each, in one go)."""
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), "status", "out_path", "error_kind")
            answers = _answers(pipe, job_ids)
        return {
            job_id: End(cast("Status", status), *rest)
            for job_id, (status, *rest) in answers.items()
            if status is not None
        }

    def restore(self, queues: Sequence[str], attempts: int) -> list[str]:
        """Put jobs that have not ended back into the lists that their records name, where they are missing.

        A script that lacks a right stops half way, and a list may be deleted by hand. Looks through all
        records (SCAN), so it takes longer the more there are.

        Args:
            attempts: as for `recover`, where the worker is dead.

        Returns:
            The ids of the jobs put back.
        """
        lists: dict[str, set[str]] = {}
        restored = []
        for job_id, (status, queue, worker) in self._unfinished():
            if queue not in queues:
                continue
            where = queue if status == "queued" else processing_key(queue, worker)
            if where not in lists:
                lists[where] = set(cast("list[str]", self.redis.lrange(where, 0, -1)))
            if job_id not in lists[where] and self._restore(job_id, _now(), self.ttl, attempts):
                restored.append(job_id)
        return restored

    def _unfinished(self) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """Jobs that wait or run: id, and status, queue and worker."""
        keys = self.redis.scan_iter(job_key("*"), count=1000, _type="hash")
        while batch := [key.removeprefix(job_key("")) for key in islice(keys, 1000)]:
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in batch:
                    pipe.hmget(job_key(job_id), "status", "queue", "worker")
                answers = _answers(pipe, batch)
            for job_id, (status, queue, worker) in answers.items():
                if status in ("queued", "processing"):
                    yield job_id, (str(status), queue or "", worker or "")

    def find_workers(self, queues: Iterable[str]) -> None:
        """Add the names of all that hold jobs of these queues to `workers` (SCAN), for `recover` to see.

        A name can be missing when somebody deleted keys by hand. Takes longer the more keys Redis has.
        """
        for queue in queues:
            prefix = processing_key(queue, "")
            for key in self.redis.scan_iter(f"{prefix}*", count=1000, _type="list"):
                self.redis.sadd(WORKERS_KEY, key.removeprefix(prefix))

    def _heartbeats(self) -> dict[str, str | None]:
        names = sorted(cast("set[str]", self.redis.smembers(WORKERS_KEY)))
        keys = [worker_key(name) for name in names]
        beats = cast("list[str | None]", self.redis.mget(keys)) if names else []
        return dict(zip(names, beats, strict=True))

    def statistics(self) -> Statistics:
        """What the scripts have counted since Redis was empty (HGETALL)."""
        return read_statistics(cast("dict[str, str]", self.redis.hgetall(STATISTICS_KEY)))


def _answers(pipe: Pipeline, job_ids: Sequence[str]) -> dict[str, list[str | None]]:
    """What the commands of a pipeline, one for each job, answer; without jobs whose key is no hash."""
    answers = zip(job_ids, pipe.execute(raise_on_error=False), strict=True)
    found = {}
    for job_id, answer in answers:
        if not isinstance(answer, redis.RedisError):
            found[job_id] = answer
        elif code_of(answer) != "WRONGTYPE":
            raise answer
    return found


def _damaged(job_id: str, why: str) -> DamagedRecordError:
    log.warning("a job's record is damaged", extra={"job": job_id, "why": why})
    return DamagedRecordError(job_id)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values in turn, as HSET takes them."""
    return [part for pair in fields.items() for part in pair]


def _paired(flat: Sequence[str]) -> dict[str, str]:
    """Back from names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
