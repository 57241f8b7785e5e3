"""The queue: jobs as Redis keeps them.

Every key is named by the five functions below; `redis-cli` is enough to see what goes on. A job's id moves
from its queue's list to the list of the worker that holds it, and every such move changes the job's record
and tells whoever listens, in one script: nobody ever sees half a change. Each script looks at the record
first, so that sending one twice (after a dropped connection) does nothing the second time, and a job ends
exactly once.

A job draws a ticket as it joins its queue, as at a counter; QUEUE:served is the highest ticket that a worker
has taken. How many jobs are before one is the difference, however long the queue. A job put back at the front
gets the last served ticket, and the count goes one back.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias, cast

import redis
from pydantic import BaseModel, ConfigDict

Status: TypeAlias = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})


def job_key(job_id: str) -> str:
    """Hash: a job's record."""
    return f"job:{job_id}"


def events_key(job_id: str) -> str:
    """Channel: each change of a job's record, as a JSON object of the fields that changed."""
    return f"events:{job_id}"


def processing_key(queue: str, worker: str) -> str:
    """List: ids of the jobs a worker holds."""
    return f"{queue}:processing:{worker}"


def worker_key(worker: str) -> str:
    """String with a time to live: a worker's heartbeat."""
    return f"worker:{worker}"


WORKERS_KEY = "workers"
"""Set: names of all workers; a dead one stays as long as it holds jobs."""


class UnknownJobError(KeyError):
    """There is no such job, or its record has expired."""


class Job(BaseModel):
    """A job's record as it stood when it was read. The job's parameters are `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str  # "lr" or "sc"
    queue: str
    status: Status
    ticket: int
    created_at: datetime
    attempts: int = 0  # times a worker took it
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    steps: int = 0  # done
    total_steps: int | None = None  # known once it has started
    loss: float | None = None
    out_path: str | None = None
    error: str | None = None
    error_kind: Literal["input", "internal"] | None = None  # whose fault: what was asked for, or ours
    error_field: str | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """What the job was asked to do, field by field, as strings for a params model to read."""
        return cast("dict[str, str]", self.model_extra)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


# KEYS: the job, its queue, the queue's tickets, the channel.  ARGV: id, event, fields and values.
_ENQUEUE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'ticket', redis.call('INCR', KEYS[3]), unpack(ARGV, 3))
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PUBLISH', KEYS[4], ARGV[2])
return 1
"""

# KEYS: the queue, the worker's list, the queue's served.
# ARGV: what keys of jobs and of events begin with, worker, now, event.
_CLAIM = """
while true do
    local id = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
    if not id then return false end
    local job = ARGV[1] .. id
    local ticket = tonumber(redis.call('HGET', job, 'ticket') or 0)
    if ticket > tonumber(redis.call('GET', KEYS[3]) or 0) then redis.call('SET', KEYS[3], ticket) end
    if redis.call('HGET', job, 'status') == 'queued' then
        redis.call('HSET', job, 'status', 'processing', 'worker', ARGV[3], 'started_at', ARGV[4])
        redis.call('HINCRBY', job, 'attempts', 1)
        redis.call('PUBLISH', ARGV[2] .. id, ARGV[5])
        return redis.call('HGETALL', job)
    end
    redis.call('LREM', KEYS[2], 1, id)  -- its record is gone, or it ended while it waited
end
"""

# KEYS: the job, the channel.  ARGV: worker, event, then fields and values.
_UPDATE = """
local held = redis.call('HMGET', KEYS[1], 'status', 'worker')
if held[1] ~= 'processing' or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""

# KEYS: the job, the channel, the worker's list.  ARGV: worker, event, id, time to live, fields and values.
_FINISH = """
redis.call('LREM', KEYS[3], 1, ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'status', 'worker')
if held[1] ~= 'processing' or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""

# KEYS: the job, the channel, the worker's list, the queue, the queue's served.  ARGV: worker, event, id.
_PUT_BACK = """
redis.call('LREM', KEYS[3], 1, ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'status', 'worker')
if held[1] ~= 'processing' or held[2] ~= ARGV[1] then return 0 end
local served = tonumber(redis.call('GET', KEYS[5]) or 0)
redis.call('SET', KEYS[5], served - 1)
redis.call('HSET', KEYS[1], 'status', 'queued', 'ticket', served, 'steps', 0)
redis.call('HDEL', KEYS[1], 'worker', 'started_at', 'loss')
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('LPUSH', KEYS[4], ARGV[3])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""

# KEYS: the worker's heartbeat, the set of workers, the worker's lists.  ARGV: worker.
_LEAVE = """
redis.call('DEL', KEYS[1])
for n = 3, #KEYS do
    if redis.call('EXISTS', KEYS[n]) == 1 then return 0 end
end
return redis.call('SREM', KEYS[2], ARGV[1])
"""


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
        self._enqueue = client.register_script(_ENQUEUE)
        self._claim = client.register_script(_CLAIM)
        self._update = client.register_script(_UPDATE)
        self._finish = client.register_script(_FINISH)
        self._put_back = client.register_script(_PUT_BACK)
        self._leave = client.register_script(_LEAVE)

    # For those who ask for pictures

    def enqueue(self, job_id: str, kind: str, queue: str, parameters: Mapping[str, Any]) -> None:
        """Write the record (HSET) with a ticket (INCR) and put the id at the queue's right end (RPUSH)."""
        record = {
            "id": job_id,
            "type": kind,
            "queue": queue,
            "status": "queued",
            "created_at": _now(),
            "attempts": 0,
        }
        fields = _flat({**parameters, **record, "steps": 0})
        keys = [job_key(job_id), queue, f"{queue}:tickets", events_key(job_id)]
        self._enqueue(keys, [job_id, _event(status="queued"), *fields])

    def get(self, job_id: str) -> Job:
        """Read a record (HGETALL).

        Raises:
            UnknownJobError: if there is none.
        """
        record = cast("dict[str, str]", self.redis.hgetall(job_key(job_id)))
        if not record:
            raise UnknownJobError(job_id)
        return Job.model_validate(record)

    def rank(self, job: Job) -> int:
        """How many jobs run before this one; 0 for the next and for one that runs or has ended (GET)."""
        if job.status != "queued":
            return 0
        return max(0, job.ticket - int(cast("str | None", self.redis.get(f"{job.queue}:served")) or 0) - 1)

    def events(self, job_id: str, timeout: float) -> Iterator[dict[str, Any]]:
        """Follow a job by its channel (SUBSCRIBE): first its whole record, then each change, until its end.

        The record is read only after Redis has confirmed the subscription, and again whenever a lost
        connection has been subscribed anew, so that no end goes unseen. Stops after `timeout` seconds.

        Raises:
            UnknownJobError: if there is no such job.
        """
        deadline = time.monotonic() + timeout
        with self.redis.pubsub() as channel:
            channel.subscribe(events_key(job_id))
            while (left := deadline - time.monotonic()) > 0:
                message = channel.get_message(timeout=left)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    change = self.get(job_id).model_dump(mode="json")
                else:
                    change = json.loads(message["data"])
                yield change
                if change.get("status") in ENDED:
                    return

    def wait(self, job_id: str, timeout: float) -> Job:
        """The job once it has ended, or as it stands after `timeout` seconds. Rides out a shorter absence of
        Redis.

        Raises:
            UnknownJobError: if there is no such job.
        """
        deadline = time.monotonic() + timeout
        pause = 0.1
        while True:
            try:
                for _ in self.events(job_id, deadline - time.monotonic()):
                    pass
                return self.get(job_id)
            except redis.ConnectionError:
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause *= 2

    # For workers

    def claim(self, queue: str, worker: str) -> Job | None:
        """Take the oldest waiting job, if any: LMOVE it to the worker's list and mark its record as
        processing.
        """
        keys = [queue, processing_key(queue, worker), f"{queue}:served"]
        event = _event(status="processing", worker=worker)
        fields = cast(
            "list[str] | dict[str, str] | None",
            self._claim(keys, [job_key(""), events_key(""), worker, _now(), event]),
        )
        if not fields:
            return None
        record = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        return Job.model_validate(record)

    def wait_for_work(self, queue: str, timeout: float) -> None:
        """Return when the queue has a job, or after `timeout` seconds.

        BLMOVE from the queue's left end to its left end waits and moves nothing, so that taking the job and
        marking its record stays one script, and a connection lost meanwhile loses no job.
        """
        self.redis.blmove(queue, queue, cast("int", timeout), "LEFT", "LEFT")  # Redis takes fractions too

    def held_by(self, queue: str, worker: str) -> list[Job]:
        """The jobs a worker holds, oldest first (LRANGE): what it claimed, even if the answer was lost."""
        ids = cast("list[str]", self.redis.lrange(processing_key(queue, worker), 0, -1))
        return [self.get(job_id) for job_id in ids if self.redis.exists(job_key(job_id))]

    def progress(self, job: Job, worker: str, steps: int, total_steps: int, loss: float) -> bool:
        """Record how far a job is (HSET). False if the worker does not hold it: it must drop it."""
        change: dict[str, Any] = {"steps": steps, "total_steps": total_steps}
        if math.isfinite(loss):
            change["loss"] = round(loss, 6)
        event = _event(status="processing", **change)
        return bool(self._update([job_key(job.id), events_key(job.id)], [worker, event, *_flat(change)]))

    def succeed(self, job: Job, worker: str, out_path: str) -> bool:
        """End a job with its result. False if it had ended already, or the worker does not hold it."""
        return self._end(job, worker, {"status": "succeeded", "out_path": out_path})

    def fail(
        self, job: Job, worker: str, error: str, kind: Literal["input", "internal"], field: str | None = None
    ) -> bool:
        """End a job with the reason why it has no result. False as with `succeed`."""
        named = {"error_field": field} if field else {}
        return self._end(job, worker, {"status": "failed", "error": error, "error_kind": kind, **named})

    def _end(self, job: Job, worker: str, change: dict[str, str]) -> bool:
        """HSET the end, EXPIRE the record, LREM the id from the worker's list."""
        change = {**change, "finished_at": _now()}
        keys = [job_key(job.id), events_key(job.id), processing_key(job.queue, worker)]
        return bool(self._finish(keys, [worker, _event(**change), job.id, self.ttl, *_flat(change)]))

    def put_back(self, job: Job, worker: str) -> bool:
        """Hand a job back unfinished: to the front of its queue (LPUSH), as if it had not been taken."""
        processing = processing_key(job.queue, worker)
        keys = [job_key(job.id), events_key(job.id), processing, job.queue, f"{job.queue}:served"]
        return bool(self._put_back(keys, [worker, _event(status="queued", steps=0), job.id]))

    # For whoever looks after workers

    def beat(self, worker: str, queues: Iterable[str], ttl: int) -> None:
        """Say that a worker lives and which queues it serves: SET with a time to live, SADD to `workers`."""
        heartbeat = json.dumps({"queues": list(queues), "seen_at": _now()})
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(worker_key(worker), heartbeat, ex=ttl)
            pipe.sadd(WORKERS_KEY, worker)
            pipe.execute()

    def leave(self, worker: str, queues: Iterable[str]) -> None:
        """Take back the heartbeat of a worker that stops (DEL), and its name (SREM) if it holds no job."""
        lists = [processing_key(queue, worker) for queue in queues]
        self._leave([worker_key(worker), WORKERS_KEY, *lists], [worker])

    def workers(self) -> dict[str, list[str]]:
        """The live workers and the queues each serves (SMEMBERS, MGET)."""
        names = sorted(cast("set[str]", self.redis.smembers(WORKERS_KEY)))
        beats = (
            cast("list[str | None]", self.redis.mget([worker_key(name) for name in names])) if names else []
        )
        return {name: json.loads(beat)["queues"] for name, beat in zip(names, beats, strict=True) if beat}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _event(**change: Any) -> str:
    return json.dumps(change)


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values in turn, as HSET takes them."""
    return [part for pair in fields.items() for part in pair]
