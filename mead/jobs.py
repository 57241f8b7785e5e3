"""The queue: jobs as Redis keeps them.

Every key is named by the functions below; `redis-cli` is enough to see what goes on. A job's id moves from
its queue's list to the list of the worker that holds it, and every such move changes the job's record, tells
whoever listens and counts, in one script: nobody ever sees half a change. Each script looks at the record
first, so that sending one twice (after a dropped connection) does nothing the second time, and a job ends
exactly once, by whoever holds it then. The scripts name further keys from what the records say, which one
Redis server allows (a Redis Cluster does not).

A job draws a ticket as it joins its queue, as at a counter; QUEUE:served is the highest ticket that a worker
has taken. How many jobs are before one is the difference, however long the queue. A job put back at the front
gets the last served ticket, and the count goes one back. A job cancelled while it waits stays in the list
until a worker comes past it (finding it there would take longer the longer the queue); QUEUE:cancelled keeps
the tickets of such jobs, so that ranks and lengths leave them out.

A job whose worker died is put back with its attempt counted. Whoever takes it then must run it alone, so that
a job that kills its workers takes no other with it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import redis
from pydantic import BaseModel, ConfigDict, Field

Status: TypeAlias = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Upper bounds of the histograms of wait and run times, in seconds; a last one is unbounded."""

PREVIEW_SECONDS = 10
"""How long asking for a preview keeps previews coming."""


def job_key(job_id: str) -> str:
    """Hash: a job's record."""
    return f"job:{job_id}"


def events_key(job_id: str) -> str:
    """Channel: each change of a job's record, as a JSON object of the fields that changed and `seq`."""
    return f"events:{job_id}"


def preview_key(job_id: str) -> str:
    """String with a short time to live: somebody looks at the picture so far."""
    return f"preview:{job_id}"


def processing_key(queue: str, worker: str) -> str:
    """List: ids of the jobs a worker holds."""
    return f"{queue}:processing:{worker}"


def tickets_key(queue: str) -> str:
    """Number: the last ticket drawn."""
    return f"{queue}:tickets"


def served_key(queue: str) -> str:
    """Number: the highest ticket taken by a worker."""
    return f"{queue}:served"


def cancelled_key(queue: str) -> str:
    """Sorted set: ids in the queue's list that were cancelled, by their tickets."""
    return f"{queue}:cancelled"


def worker_key(worker: str) -> str:
    """String with a time to live: a worker's heartbeat, as JSON."""
    return f"worker:{worker}"


def idempotency_key(owner: str, key: str) -> str:
    """String: id of the job that this owner made with this idempotency key."""
    return f"idempotency:{owner}:{key}"


def unfinished_key(client: str) -> str:
    """Set: ids of a client's jobs that have not ended, kept when their number is limited."""
    return f"unfinished:{client}"


WORKERS_KEY = "workers"
"""Set: names of all workers; a dead one stays until its jobs are back in their queues."""

STATISTICS_KEY = "statistics"
"""Hash: counts since ever: TYPE:accepted, TYPE:recovered, TYPE:END, TYPE:wait:BUCKET and TYPE:run:BUCKET."""


class UnknownJobError(KeyError):
    """There is no such job, or its record has expired."""


class QueueFullError(Exception):
    """The queue holds as many jobs as it may."""

    def __init__(self, queue: str, longest: int) -> None:
        super().__init__(f"{longest} jobs are waiting, which is as many as may; try again later")
        self.queue = queue


class TooManyJobsError(Exception):
    """A client has as many unfinished jobs as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} of your jobs have not ended, which is as many as may; wait for one of them")


class IdempotencyError(ValueError):
    """An idempotency key came a second time, with another request."""

    field = "Idempotency-Key"

    def __init__(self) -> None:
        super().__init__(f"{self.field}: was used for another request; a new request needs a new key")


class NotAloneError(Exception):
    """The next job in the queue must run alone: its worker died with it."""


class Job(BaseModel):
    """A job's record as it stood when it was read. The job's parameters are `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str  # "lr" or "sc"
    queue: str
    status: Status
    seq: int = 0  # of the last change
    ticket: int
    created_at: datetime
    attempts: int = 0  # times a worker took it; not those it was handed back from
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
    # Of no interest to whom the record is shown:
    owner: str = Field("", exclude=True)  # short hash of the API key it was made with
    client: str = Field("", exclude=True)  # whose unfinished jobs it counts among
    idempotency_key: str | None = Field(None, exclude=True)
    fingerprint: str = Field("", exclude=True)  # of the request that made it

    @property
    def parameters(self) -> dict[str, str]:
        """What the job was asked to do, field by field, as strings for a params model to read."""
        return cast("dict[str, str]", self.model_extra)

    @property
    def pictures(self) -> list[Path]:
        """The files among its parameters."""
        return [Path(value) for name, value in self.parameters.items() if name.endswith("_path")]

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def runs_alone(self) -> bool:
        """Whether a worker died with it before, so that it must share its process with no other job."""
        return self.attempts > 1


@dataclass(frozen=True)
class End:
    """How far a job has come, in short."""

    status: Status
    out_path: str | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Load(BaseModel):
    """What an engine has to do."""

    running: int = 0  # jobs
    capacity: int = 0  # the most that it would run at once
    steps_per_second: float = 0.0  # of all its jobs together


class Heartbeat(BaseModel):
    """What a live worker said of itself last."""

    queues: dict[str, Load]  # by the queue's name
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


@dataclass(frozen=True)
class Histogram:
    """Times as Prometheus counts them.

    Attributes:
        buckets: upper bound in seconds (the last is infinite) to how many took at most that long.
        sum: seconds they took together.
    """

    buckets: Mapping[float, int]
    sum: float

    @property
    def count(self) -> int:
        return self.buckets[math.inf]


@dataclass(frozen=True)
class KindStatistics:
    """Of one type of job, since ever."""

    accepted: int
    ended: Mapping[str, int]  # by status
    recovered: int  # times a job was put back because its worker had died
    wait: Histogram  # from joining the queue to a worker, first attempts
    run: Histogram  # from a worker to the end, last attempts


Statistics: TypeAlias = Mapping[str, KindStatistics]
"""By type of job, those that were ever accepted."""

_COMMON = (
    f"""
local JOB, EVENTS, PREVIEW = '{job_key("")}', '{events_key("")}', '{preview_key("")}'
local WORKER = '{worker_key("")}'
local IDEMPOTENCY, UNFINISHED = '{idempotency_key("", "")[:-1]}', '{unfinished_key("")}'
local WORKERS, STATISTICS = '{WORKERS_KEY}', '{STATISTICS_KEY}'
local BUCKETS = {{ {", ".join(map(str, BUCKETS))} }}
local PROCESSING, TICKETS = '{processing_key("", "")}', '{tickets_key("")}'
local SERVED, CANCELLED = '{served_key("")}', '{cancelled_key("")}'
"""
    + """
-- Seconds since 1970 of a time in UTC (days from the civil date after Howard Hinnant's days_from_civil).
local function seconds(iso)
    local y, m, d, h, min, s = string.match(iso, '(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)')
    if m <= '02' then y = y - 1 end
    local era = math.floor(y / 400)
    local year = y - era * 400
    local day = math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1
    local days = era * 146097 + year * 365 + math.floor(year / 4) - math.floor(year / 100) + day - 719468
    return ((days * 24 + h) * 60 + min) * 60 + s
end

local function count(kind, what, by)
    redis.call('HINCRBY', STATISTICS, kind .. ':' .. what, by or 1)
end

local function observe(kind, what, from, to)
    local took = math.max(0, seconds(to) - seconds(from))
    local bucket = 'inf'
    for _, bound in ipairs(BUCKETS) do
        if took <= bound then bucket = bound break end
    end
    count(kind, what .. ':' .. bucket)
    redis.call('HINCRBYFLOAT', STATISTICS, kind .. ':' .. what .. ':sum', string.format('%.3f', took))
end

-- Changes fields of a record and tells.
local function change(id, fields)
    local flat = {}
    for name, value in pairs(fields) do
        flat[#flat + 1] = name
        flat[#flat + 1] = tostring(value)
    end
    redis.call('HSET', JOB .. id, unpack(flat))
    fields.seq = redis.call('HINCRBY', JOB .. id, 'seq', 1)
    redis.call('PUBLISH', EVENTS .. id, cjson.encode(fields))
end

local function holds(worker, id)
    local held = redis.call('HMGET', JOB .. id, 'status', 'worker')
    return held[1] == 'processing' and held[2] == worker
end

-- Ends a job; `fields` hold its status and finished_at.
local function finish(id, fields, ttl)
    local job = redis.call('HMGET', JOB .. id,
        'status', 'type', 'started_at', 'owner', 'client', 'idempotency_key')
    count(job[2], fields.status)
    if job[1] == 'processing' then observe(job[2], 'run', job[3], fields.finished_at) end
    change(id, fields)
    redis.call('EXPIRE', JOB .. id, ttl)
    if job[6] then redis.call('EXPIRE', IDEMPOTENCY .. job[4] .. ':' .. job[6], ttl) end
    redis.call('SREM', UNFINISHED .. job[5], id)
end

-- Puts a job at the front of its queue.
local function put_back(id, queue, attempts)
    local served = tonumber(redis.call('GET', queue .. SERVED) or 0)
    redis.call('SET', queue .. SERVED, served - 1)
    redis.call('HDEL', JOB .. id, 'worker', 'started_at', 'loss')
    change(id, {status = 'queued', ticket = served, steps = 0, attempts = attempts})
    redis.call('LPUSH', queue, id)
end
"""
)

# ARGV: id, queue, type, owner, client, idempotency key, fingerprint, longest, most, then fields and values.
_ENQUEUE = """
local id, queue, kind, owner, client, key, fingerprint = unpack(ARGV, 1, 7)
local longest, most = tonumber(ARGV[8]), tonumber(ARGV[9])
if redis.call('EXISTS', JOB .. id) == 1 then return {'accepted', id} end
if key ~= '' then
    local earlier = redis.call('GET', IDEMPOTENCY .. owner .. ':' .. key)
    local made_by = earlier and redis.call('HGET', JOB .. earlier, 'fingerprint')
    if made_by == fingerprint then return {'accepted', earlier} end
    if made_by then return {'repeated', earlier} end
end
local length = redis.call('LLEN', queue)
if length == 0 then  -- also when somebody has emptied it by hand
    redis.call('SET', queue .. SERVED, redis.call('GET', queue .. TICKETS) or 0)
    redis.call('DEL', queue .. CANCELLED)
elseif longest > 0 and length - redis.call('ZCARD', queue .. CANCELLED) >= longest then
    return {'full', ''}
end
if most > 0 then
    local unfinished = UNFINISHED .. client
    if redis.call('SCARD', unfinished) >= most then
        for _, one in ipairs(redis.call('SMEMBERS', unfinished)) do  -- records may have been deleted by hand
            if redis.call('EXISTS', JOB .. one) == 0 then redis.call('SREM', unfinished, one) end
        end
        if redis.call('SCARD', unfinished) >= most then return {'many', ''} end
    end
    redis.call('SADD', unfinished, id)
end
local ticket = redis.call('INCR', queue .. TICKETS)
redis.call('HSET', JOB .. id, unpack(ARGV, 10))
if key ~= '' then
    redis.call('HSET', JOB .. id, 'idempotency_key', key)
    redis.call('SET', IDEMPOTENCY .. owner .. ':' .. key, id)
end
change(id, {status = 'queued', ticket = ticket})
redis.call('RPUSH', queue, id)
count(kind, 'accepted')
return {'accepted', id}
"""

# ARGV: id, now, time to live.
_CANCEL = """
local id = ARGV[1]
local job = redis.call('HMGET', JOB .. id, 'status', 'queue', 'ticket', 'worker')
if not job[1] then return -1 end
if job[1] == 'queued' then
    redis.call('ZADD', job[2] .. CANCELLED, job[3], id)
elseif job[1] == 'processing' then
    redis.call('LREM', job[2] .. PROCESSING .. job[4], 1, id)
else
    return 0
end
finish(id, {status = 'cancelled', finished_at = ARGV[2]}, ARGV[3])
return 1
"""

# ARGV: queue, worker, now, whether the worker holds no other job (1 or 0).
_CLAIM = """
local queue, worker, now, alone = unpack(ARGV)
for _ = 1, 1000 do
    local id = redis.call('LINDEX', queue, 0)
    if not id then return false end
    local job = redis.call('HMGET', JOB .. id, 'status', 'attempts', 'ticket', 'type', 'created_at')
    local waits = job[1] == 'queued'
    local attempts = tonumber(job[2] or 0)
    if waits and attempts > 0 and alone == '0' then return 'alone' end
    local ticket = tonumber(job[3] or redis.call('ZSCORE', queue .. CANCELLED, id) or 0)
    if ticket > tonumber(redis.call('GET', queue .. SERVED) or 0) then
        redis.call('SET', queue .. SERVED, ticket)
    end
    if waits then
        redis.call('LMOVE', queue, queue .. PROCESSING .. worker, 'LEFT', 'RIGHT')
        redis.call('SADD', WORKERS, worker)
        redis.call('HDEL', JOB .. id, 'error', 'error_kind', 'error_field', 'finished_at')
        change(id, {status = 'processing', worker = worker, started_at = now, attempts = attempts + 1})
        if attempts == 0 then observe(job[4], 'wait', job[5], now) end
        return redis.call('HGETALL', JOB .. id)
    end
    redis.call('LPOP', queue)  -- it ended while it waited, or its record is gone
    redis.call('ZREM', queue .. CANCELLED, id)
end
return 'again'  -- others want to have their turn at Redis
"""

# ARGV: queue, worker, then of each job: id, steps, total steps, loss ('' if there is none).
_REPORT = """
local queue, worker = unpack(ARGV, 1, 2)
local lost, watched = {}, {}
for n = 3, #ARGV, 4 do
    local id = ARGV[n]
    if holds(worker, id) then
        change(id, {status = 'processing', steps = tonumber(ARGV[n + 1]),
            total_steps = tonumber(ARGV[n + 2]), loss = tonumber(ARGV[n + 3])})
        if redis.call('EXISTS', PREVIEW .. id) == 1 then watched[#watched + 1] = id end
    else
        lost[#lost + 1] = id
    end
end
return {lost, watched, redis.call('LRANGE', queue .. PROCESSING .. worker, 0, -1)}
"""

# ARGV: queue, worker, id, time to live, then fields and values.
_FINISH = """
local queue, worker, id, ttl = unpack(ARGV, 1, 4)
local fields = {}
for n = 5, #ARGV, 2 do fields[ARGV[n]] = ARGV[n + 1] end
redis.call('LREM', queue .. PROCESSING .. worker, 1, id)
if holds(worker, id) then
    finish(id, fields, ttl)
    return 1
end
-- A call sent twice has ended it all the same; no two results have one path.
return fields.out_path and redis.call('HGET', JOB .. id, 'out_path') == fields.out_path and 1 or 0
"""

# ARGV: queue, worker, then ids; all that the worker holds when there are none.
_PUT_BACK = """
local queue, worker = unpack(ARGV, 1, 2)
local processing = queue .. PROCESSING .. worker
local ids = #ARGV > 2 and {unpack(ARGV, 3)} or redis.call('LRANGE', processing, 0, -1)
local done = {}
for n = #ids, 1, -1 do  -- the oldest comes to lie in front
    redis.call('LREM', processing, 1, ids[n])
    if holds(worker, ids[n]) then
        put_back(ids[n], queue, redis.call('HGET', JOB .. ids[n], 'attempts') - 1)
        done[#done + 1] = ids[n]
    end
end
return done
"""

# ARGV: worker, now, time to live, most attempts, then queues.
_RECOVER = """
local worker, now, ttl, most = unpack(ARGV, 1, 4)
local recovered = {}
if redis.call('EXISTS', WORKER .. worker) == 1 then return recovered end
for n = 5, #ARGV do
    local processing = ARGV[n] .. PROCESSING .. worker
    local id = redis.call('RPOP', processing)
    while id do  -- from the newest to the oldest, which comes to lie in front
        if holds(worker, id) then
            local job = redis.call('HMGET', JOB .. id, 'attempts', 'type')
            local attempts = tonumber(job[1])
            if attempts >= tonumber(most) then
                local times = attempts == 1 and 'once' or attempts .. ' times'
                finish(id, {status = 'failed', finished_at = now, error_kind = 'internal',
                    error = 'its worker died ' .. times}, ttl)
            else
                count(job[2], 'recovered')
                put_back(id, ARGV[n], attempts)
            end
            recovered[#recovered + 1] = id
        end
        id = redis.call('RPOP', processing)
    end
end
redis.call('SREM', WORKERS, worker)
return recovered
"""

# ARGV: worker, then queues.
_LEAVE = """
redis.call('DEL', WORKER .. ARGV[1])
for n = 2, #ARGV do
    if redis.call('EXISTS', ARGV[n] .. PROCESSING .. ARGV[1]) == 1 then return 0 end
end
return redis.call('SREM', WORKERS, ARGV[1])
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
        self._enqueue = client.register_script(_COMMON + _ENQUEUE)
        self._cancel = client.register_script(_COMMON + _CANCEL)
        self._claim = client.register_script(_COMMON + _CLAIM)
        self._report = client.register_script(_COMMON + _REPORT)
        self._finish = client.register_script(_COMMON + _FINISH)
        self._put_back = client.register_script(_COMMON + _PUT_BACK)
        self._recover = client.register_script(_COMMON + _RECOVER)
        self._leave = client.register_script(_COMMON + _LEAVE)

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
    ) -> str:
        """Write the record (HSET) with a ticket (INCR) and put the id at the queue's right end (RPUSH).

        Args:
            owner: whose job it is: a short hash of the API key; "" without keys.
            client: whose unfinished jobs are counted for `most`; the owner's when "".
            idempotency_key: what the owner calls this request; a second request with it makes no second job.
            fingerprint: of the request, to tell another request with the same idempotency key.
            longest: the most jobs that may wait in the queue; None or 0: any number.
            most: the most unfinished jobs of this client; None or 0: any number.

        Returns:
            `job_id`, or the id of the job that this owner made with the same idempotency key before.

        Raises:
            QueueFullError: the queue is as long as it may be.
            TooManyJobsError: this client has as many unfinished jobs as it may.
            IdempotencyError: the idempotency key was used with another fingerprint.
        """
        client = client or owner
        record = {
            "id": job_id,
            "type": kind,
            "queue": queue,
            "created_at": _now(),
            "attempts": 0,
            "steps": 0,
            "owner": owner,
            "client": client,
            "fingerprint": fingerprint,
        }
        named = [job_id, queue, kind, owner, client, idempotency_key or "", fingerprint]
        fields = _flat({**parameters, **record})
        outcome, accepted = cast(
            "tuple[str, str]", self._enqueue([], [*named, longest or 0, most or 0, *fields])
        )
        if outcome == "full":
            raise QueueFullError(queue, longest or 0)
        if outcome == "many":
            raise TooManyJobsError(most or 0)
        if outcome == "repeated":
            raise IdempotencyError
        return accepted

    def get(self, job_id: str) -> Job:
        """Read a record (HGETALL).

        Raises:
            UnknownJobError: if there is none.
        """
        record = cast("dict[str, str]", self.redis.hgetall(job_key(job_id)))
        if not record:
            raise UnknownJobError(job_id)
        return Job.model_validate(record)

    def cancel(self, job_id: str) -> bool:
        """End a job as cancelled, whether it waits or runs; its worker drops it after its current step.

        Returns:
            False if it had ended already.

        Raises:
            UnknownJobError: if there is no such job.
        """
        outcome = self._cancel([], [job_id, _now(), self.ttl])
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
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.get(served_key(job.queue))
            pipe.zcount(cancelled_key(job.queue), "-inf", f"({job.ticket}")
            served, cancelled = pipe.execute()
        return max(0, job.ticket - int(served or 0) - 1 - cancelled)

    def queue_length(self, queue: str) -> int:
        """How many jobs wait in a queue (LLEN), cancelled ones left out (ZCARD)."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.llen(queue)
            pipe.zcard(cancelled_key(queue))
            length, cancelled = pipe.execute()
        return max(0, length - cancelled)

    def ask_preview(self, job_id: str) -> None:
        """Have a running job's picture so far written to `Storage.preview_path`, every second or so.

        Holds for PREVIEW_SECONDS (SET with a time to live); whoever still looks then asks again.
        """
        self.redis.set(preview_key(job_id), 1, ex=PREVIEW_SECONDS)

    def events(self, job_id: str, timeout: float) -> Iterator[dict[str, Any]]:
        """Follow a job by its channel (SUBSCRIBE): first its whole record, then each change, until its end.

        Each item has a `seq` that grows with each change of the job. The record is read only after Redis has
        confirmed the subscription, and again whenever a lost connection has been subscribed anew, so that no
        end goes unseen. Stops after `timeout` seconds.

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
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause *= 2

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
            answer = self._claim([], [queue, worker, _now(), int(alone)])
            if not answer:
                return None
            if answer == "alone":
                raise NotAloneError
            if answer != "again":
                fields = cast("list[str] | dict[str, str]", answer)
                return Job.model_validate(fields if isinstance(fields, dict) else _paired(fields))

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
        lost, watched, held = cast("list[list[str]]", self._report([], [queue, worker, *told]))
        return Standing(frozenset(lost), frozenset(watched), tuple(held))

    def progress(self, job: Job, worker: str, steps: int, total_steps: int, loss: float) -> bool:
        """Record how far one job is. False if the worker does not hold it: it must drop it."""
        return not self.report(job.queue, worker, [Progress(job.id, steps, total_steps, loss)]).lost

    def succeed(self, job: Job, worker: str, out_path: str) -> bool:
        """End a job with its result. False if it had ended otherwise, or the worker does not hold it."""
        return self._end(job, worker, {"status": "succeeded", "out_path": out_path})

    def fail(
        self, job: Job, worker: str, error: str, kind: Literal["input", "internal"], field: str | None = None
    ) -> bool:
        """End a job with the reason why it has no result. False if it had ended, or as with `succeed`."""
        named = {"error_field": field} if field else {}
        return self._end(job, worker, {"status": "failed", "error": error, "error_kind": kind, **named})

    def _end(self, job: Job, worker: str, change: dict[str, str]) -> bool:
        """HSET the end, EXPIRE the record, LREM the id from the worker's list."""
        fields = _flat({**change, "finished_at": _now()})
        return bool(self._finish([], [job.queue, worker, job.id, self.ttl, *fields]))

    def put_back(self, queue: str, worker: str, job_ids: Sequence[str] = ()) -> list[str]:
        """Hand jobs back unfinished: to the front of their queue (LPUSH), as if they had not been taken.

        Args:
            job_ids: which, oldest first; all that the worker holds of this queue when there are none.

        Returns:
            The ids of those that were its to hand back.
        """
        return cast("list[str]", self._put_back([], [queue, worker, *job_ids]))

    # For whoever looks after workers

    def beat(
        self,
        worker: str,
        queues: Mapping[str, Load] | Iterable[str],
        ttl: int,
        *,
        started_at: datetime | None = None,
        memory_bytes: int = 0,
    ) -> None:
        """Say that a worker lives and which queues it serves: SET with a time to live, SADD to `workers`."""
        now = datetime.now(timezone.utc)
        loads = dict(queues) if isinstance(queues, Mapping) else {queue: Load() for queue in queues}
        heartbeat = Heartbeat(
            queues=loads, seen_at=now, started_at=started_at or now, memory_bytes=memory_bytes
        )
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(worker_key(worker), heartbeat.model_dump_json(), ex=ttl)
            pipe.sadd(WORKERS_KEY, worker)
            pipe.execute()

    def leave(self, worker: str, queues: Iterable[str]) -> None:
        """Take back the heartbeat of a worker that stops (DEL), and its name (SREM) if it holds no job."""
        self._leave([], [worker, *queues])

    def workers(self) -> dict[str, Heartbeat]:
        """The live workers (SMEMBERS, MGET)."""
        return {
            name: Heartbeat.model_validate_json(beat) for name, beat in self._heartbeats().items() if beat
        }

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
                answer = self._recover([], [name, _now(), self.ttl, attempts, *queues])
                recovered += cast("list[str]", answer)
        return recovered

    def ends(self, job_ids: Sequence[str]) -> dict[str, End]:
        """How those of these jobs stand that have a record (HMGET of each, in one go)."""
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), "status", "out_path")
            answers = pipe.execute()
        return {
            job_id: End(status, out_path)
            for job_id, (status, out_path) in zip(job_ids, answers, strict=True)
            if status is not None
        }

    def redis_uptime(self) -> int:
        """Seconds since Redis was started (INFO)."""
        return int(self.redis.info("server")["uptime_in_seconds"])

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
        counted = cast("dict[str, str]", self.redis.hgetall(STATISTICS_KEY))

        def number(kind: str, what: str) -> int:
            return int(counted.get(f"{kind}:{what}", 0))

        def histogram(kind: str, what: str) -> Histogram:
            buckets, total = {}, 0
            for bound in (*BUCKETS, math.inf):
                total += number(kind, f"{what}:{bound}")
                buckets[bound] = total
            return Histogram(buckets, float(counted.get(f"{kind}:{what}:sum", 0)))

        kinds = sorted({name.split(":")[0] for name in counted})
        return {
            kind: KindStatistics(
                accepted=number(kind, "accepted"),
                ended={status: number(kind, status) for status in sorted(ENDED)},
                recovered=number(kind, "recovered"),
                wait=histogram(kind, "wait"),
                run=histogram(kind, "run"),
            )
            for kind in kinds
        }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values in turn, as HSET takes them."""
    return [part for pair in fields.items() for part in pair]


def _paired(flat: Sequence[str]) -> dict[str, str]:
    """Back from names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
