"""Reading jobs' records from Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, cast

import redis
from pydantic import ValidationError

from mead.queue.errors import DamagedRecordError, UnknownJobError
from mead.queue.job import Job, JobOutcome, Status
from mead.queue.keys import job_key
from mead.queue.redis_errors import code_of

log = logging.getLogger(__name__)

SCAN_COUNT = 1000
"""Keys that Redis looks at per SCAN, and records read per round trip."""

_LOOK_AGAIN = """
redis.call('HDEL', KEYS[1], '')
local records = {}
for i = 2, #KEYS do records[i - 1] = redis.pcall('HGETALL', KEYS[i]) end
return records
"""


def read_job(client: redis.Redis, job_id: str) -> Job:
    """Read a record (HGETALL).

    Raises:
        UnknownJobError: there is none.
        DamagedRecordError: (an UnknownJobError) it cannot be read.
    """
    try:
        record = cast("dict[str, str]", client.hgetall(job_key(job_id)))
        if not record:
            record = _look_again(client, [job_id]).get(job_id, {})
    except redis.ResponseError as error:
        if code_of(error) != "WRONGTYPE":
            raise
        raise _damaged(job_id, "not a hash") from None
    if not record:
        raise UnknownJobError(job_id)
    try:
        return Job.model_validate(record)
    except ValidationError as error:
        raise _damaged(job_id, first_problem(error)) from None


def read_jobs(client: redis.Redis, job_ids: Sequence[str]) -> list[Job]:
    """The records of those of these jobs that have a readable one (HGETALL of each, in one round trip)."""
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(job_key(job_id))
        answers = pipe.execute(raise_on_error=False)
    found = []
    for job_id, answer in zip(job_ids, answers, strict=True):
        if isinstance(answer, redis.RedisError):
            if code_of(answer) != "WRONGTYPE":
                raise answer
            continue
        try:
            found += [Job.model_validate(answer)] if answer else []
        except ValidationError as error:
            _damaged(job_id, first_problem(error))
    return found


def read_outcomes(client: redis.Redis, job_ids: Sequence[str]) -> dict[str, JobOutcome]:
    """The outcomes of those of these jobs that have a record (HMGET of each, in one round trip)."""
    fields = ("status", "out_path", "error_kind", "finished_at")
    answers = _read_fields(client, job_ids, *fields)
    missing = [job_id for job_id, (status, *_) in answers.items() if status is None]
    for job_id, record in _look_again(client, missing).items():
        answers[job_id] = [record.get(field) for field in fields]
    return {
        job_id: JobOutcome(cast("Status", status), *rest)
        for job_id, (status, *rest) in answers.items()
        if status is not None
    }


def unfinished_jobs(client: redis.Redis) -> Iterator[tuple[str, str, str, str]]:
    """Id, status, queue and worker ("" for none) of every job that is queued or processing (SCAN, HMGET)."""
    keys = client.scan_iter(job_key("*"), count=SCAN_COUNT, _type="hash")
    while batch := [key.rpartition(job_key(""))[2] for key in islice(keys, SCAN_COUNT)]:
        answers = _read_fields(client, batch, "status", "queue", "worker")
        for job_id, (status, queue, worker) in answers.items():
            if status in ("queued", "processing"):
                yield job_id, str(status), queue or "", worker or ""


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and why."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def now() -> tuple[str, int]:
    """The time in UTC: in ISO 8601, for people, and in milliseconds since 1970, for arithmetic in scripts."""
    time = datetime.now(timezone.utc)
    return time.isoformat(timespec="milliseconds"), int(time.timestamp() * 1000)


def flatten(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values in turn, as HSET takes them."""
    return [part for pair in fields.items() for part in pair]


def unflatten(flat: Sequence[str]) -> dict[str, str]:
    """A mapping of names and values given in turn, as HGETALL returns them within a script."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _read_fields(client: redis.Redis, job_ids: Sequence[str], *fields: str) -> dict[str, list[str | None]]:
    """These fields of each record; jobs whose key does not hold a hash are left out."""
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hmget(job_key(job_id), *fields)
        answers = pipe.execute(raise_on_error=False)
    found = {}
    for job_id, answer in zip(job_ids, answers, strict=True):
        if not isinstance(answer, redis.RedisError):
            found[job_id] = answer
        elif code_of(answer) != "WRONGTYPE":
            raise answer
    return found


def _look_again(client: redis.Redis, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Those of these jobs' records that the primary has, for jobs that seem to have none (HGETALL of each).

    After a failover, connections that only read stay on the old primary, which may lag behind the new one.
    Deleting a field that no record has changes nothing, but a replica refuses it, so that the connection is
    given up.
    """
    found = {}
    for start in range(0, len(job_ids), SCAN_COUNT):
        batch = job_ids[start : start + SCAN_COUNT]
        names = [job_key(""), *map(job_key, batch)]
        answers = cast("list[Any]", client.eval(_LOOK_AGAIN, len(names), *names))
        for job_id, answer in zip(batch, answers, strict=True):
            if answer and isinstance(answer, list):  # an error if the key does not hold a hash
                found[job_id] = unflatten(answer)
    return found


def _damaged(job_id: str, why: str) -> DamagedRecordError:
    log.warning("a job's record is damaged", extra={"job": job_id, "why": why})
    return DamagedRecordError(job_id)
