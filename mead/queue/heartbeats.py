"""Heartbeats: how workers show that they are alive, and what each of them last reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import cast

import redis
from pydantic import BaseModel, ValidationError

from mead.queue.keys import WORKERS_KEY, processing_key, worker_key
from mead.queue.records import SCAN_COUNT
from mead.queue.redis_errors import code_of


class EngineLoad(BaseModel):
    """How busy an engine is."""

    running: int = 0  # jobs
    capacity: int = 0  # the most jobs that it would run at once
    steps_per_second: float = 0.0  # of all its jobs together


class Heartbeat(BaseModel):
    """What a live worker last reported."""

    queues: dict[str, EngineLoad]  # by the queue's name
    weights: str | None = None  # the weights set it runs; None from workers of older versions
    weights_digest: str | None = None  # of the set's files; None from those that cannot read it in records
    seen_at: datetime
    started_at: datetime
    memory_bytes: int = 0  # of its process, resident


def send(
    client: redis.Redis,
    worker: str,
    queues: Mapping[str, EngineLoad] | Iterable[str],
    ttl: int,
    *,
    started_at: datetime | None,
    memory_bytes: int,
    weights: str | None,
    weights_digest: str | None,
) -> None:
    """Write a worker's heartbeat; see `Jobs.heartbeat`."""
    now = datetime.now(timezone.utc)
    loads = dict(queues) if isinstance(queues, Mapping) else {queue: EngineLoad() for queue in queues}
    heartbeat = Heartbeat(
        queues=loads,
        weights=weights,
        weights_digest=weights_digest,
        seen_at=now,
        started_at=started_at or now,
        memory_bytes=memory_bytes,
    )
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.set(worker_key(worker), heartbeat.model_dump_json(), ex=ttl)
            pipe.sadd(WORKERS_KEY, worker)
            pipe.execute()
    except redis.RedisError as error:
        if code_of(error) != "OOM" or not client.expire(worker_key(worker), ttl):
            raise


def live_workers(client: redis.Redis) -> dict[str, Heartbeat]:
    """The heartbeats that are there and can be read, by worker."""
    live = {}
    for worker, heartbeat in _read_all(client).items():
        if heartbeat is not None:
            with suppress(ValidationError):
                live[worker] = Heartbeat.model_validate_json(heartbeat)
    return live


def dead_workers(client: redis.Redis) -> list[str]:
    """The workers that are registered and have no heartbeat."""
    return [worker for worker, heartbeat in _read_all(client).items() if heartbeat is None]


def register_holders(client: redis.Redis, queues: Iterable[str]) -> None:
    """Register every worker that holds jobs of these queues; see `Recovery.register_holders`."""
    for queue in queues:
        prefix = processing_key(queue, "")
        for key in client.scan_iter(f"{prefix}*", count=SCAN_COUNT, _type="list"):
            client.sadd(WORKERS_KEY, key.removeprefix(prefix))


def forget_idle(client: redis.Redis) -> None:
    """Drop the names of dead workers without jobs; see `Recovery.forget_idle`."""
    if dead := set(dead_workers(client)):
        middle = processing_key("", "")
        keys = client.scan_iter(f"*{middle}*", count=SCAN_COUNT, _type="list")
        if idle := dead.difference(key.rpartition(middle)[2] for key in keys):
            client.srem(WORKERS_KEY, *idle)  # one that lives after all is back with its next heartbeat


def _read_all(client: redis.Redis) -> dict[str, str | None]:
    """The heartbeats of all registered workers, as they were written (SMEMBERS, MGET)."""
    workers = sorted(cast("set[str]", client.smembers(WORKERS_KEY)))
    keys = [worker_key(worker) for worker in workers]
    heartbeats = cast("list[str | None]", client.mget(keys)) if workers else []
    return dict(zip(workers, heartbeats, strict=True))
