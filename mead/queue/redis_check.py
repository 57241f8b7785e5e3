"""Checking the Redis user's rights, and Redis's settings that can lose jobs."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from mead.queue import keys
from mead.queue.redis_errors import MissingRightsError, code_of

log = logging.getLogger(__name__)

_SCRIPT = "return 1"


def check_rights(client: redis.Redis, queues: Iterable[str], replicas: int = 0) -> None:
    """Try every command, key and channel that the service needs, under names that nothing else uses.

    Args:
        replicas: how many must have a job before it is accepted (WAIT).

    Raises:
        MissingRightsError: rights are missing; the message names all of them.
        redis.RedisError: Redis is away, or refuses a command for another reason.
    """
    name = f"probe-{secrets.token_hex(8)}"
    missing = []
    commands = list(_commands(name, list(queues)))
    if replicas:
        commands.append(
            ["WAIT", 0, 1]
        )  # a job that it cannot wait for would be refused, and run all the same
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers = pipe.execute(raise_on_error=False)
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, redis.RedisError):
            if code_of(answer) == "NOPERM":
                missing.append(_missing(command, str(answer), name))
            elif code_of(answer) not in (None, "WRONGTYPE"):  # errors that come after the check of rights
                raise answer
    missing += _missing_subscriptions(client)
    if missing:
        raise MissingRightsError(
            f"the Redis user lacks {', '.join(dict.fromkeys(missing))}; docs/operating.md lists what it needs"
        )


def warnings(client: redis.Redis) -> list[str]:
    """Settings and states of this Redis that can lose accepted jobs, in a sentence each (INFO).

    Raises:
        redis.RedisError: Redis is away.
    """
    try:
        memory, persistence = client.info("memory"), client.info("persistence")
    except redis.ResponseError as error:
        if code_of(error) != "NOPERM":
            raise
        return ["the persistence of Redis cannot be checked: its user may not run INFO"]
    found = []
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        found.append(
            f"Redis drops jobs when its memory is full (maxmemory-policy {policy}): set it to noeviction"
        )
    if not persistence.get("aof_enabled"):
        found.append("Redis loses accepted jobs when it is restarted (appendonly no): set appendonly yes")
    elif persistence.get("aof_last_write_status", "ok") != "ok":
        found.append("Redis cannot write its append-only file: look at its disk")
    return found


def _commands(name: str, queues: list[str]) -> Iterator[list[Any]]:
    """Commands that together need every right, and change nothing that anyone uses."""
    job, other = keys.job_key(name), keys.preview_key(name)
    yield from (["PING"], ["TIME"], ["SCAN", 0, "COUNT", 1])
    yield from (["EVAL", _SCRIPT, 0], ["EVALSHA", hashlib.sha1(_SCRIPT.encode()).hexdigest(), 0])
    yield ["PUBLISH", keys.events_key(name), "{}"]
    # What the scripts do to hashes, lists, strings and sets. Each key is deleted in the end.
    yield from (["HSET", job, "a", 1], ["HGET", job, "a"], ["HMGET", job, "a"], ["HGETALL", job])
    yield from (["HINCRBY", job, "a", 1], ["HINCRBYFLOAT", job, "a", 1], ["HDEL", job, "a"])
    yield from (["RPUSH", other, 1, 2], ["LPUSH", other, 0], ["LPOS", other, 1], ["LLEN", other])
    yield from (["LINDEX", other, 0], ["LRANGE", other, 0, -1], ["LMOVE", other, other, "LEFT", "RIGHT"])
    yield from (["BLMOVE", other, other, "LEFT", "LEFT", 0.01], ["LPOP", other], ["RPOP", other])
    yield from (["LREM", other, 1, 0], ["LINSERT", other, "BEFORE", 1, 0], ["DEL", other])
    yield from (["SET", other, 1, "EX", 60], ["GET", other], ["MGET", other], ["INCR", other])
    yield from (["INCRBY", other, 1], ["DECRBY", other, 1], ["PERSIST", other], ["EXPIRE", other, 60])
    yield from (["EXPIREAT", other, 4102444800], ["EXISTS", other], ["DEL", other])
    yield from (["SADD", other, 1], ["SREM", other, 2], ["SCARD", other], ["SMEMBERS", other])
    yield from (["SSCAN", other, 0], ["DEL", other])
    yield from (["ZADD", other, 1, 1], ["ZSCORE", other, 1], ["ZCARD", other], ["ZCOUNT", other, 0, 1])
    yield from (["ZRANK", other, 1], ["ZRANGE", other, 0, 0], ["ZREMRANGEBYSCORE", other, 2, 2])
    yield from (["ZRANGEBYSCORE", other, 0, 1], ["ZREVRANGEBYSCORE", other, 1, 0], ["ZREM", other, 1])
    yield from (["ZSCAN", other, 0], ["DEL", other])
    yield from (["MULTI"], ["EXISTS", other], ["EXEC"])
    for key in (keys.worker_key(name), keys.idempotency_key("", name), keys.unfinished_key(name)):
        yield ["DEL", key]
    yield ["DEL", keys.folder_key(name)]
    yield from (["DEL", keys.kept_jobs_key(name)], ["DEL", keys.keeps_key(name)])
    yield from (["DEL", keys.kept_key(name)], ["ZREM", keys.KEPT_KEY, name], ["SREM", keys.WORKERS_KEY, name])
    yield ["HDEL", keys.STATISTICS_KEY, name]
    yield from (["ZREM", keys.WEBHOOKS_KEY, name], ["HDEL", keys.WEBHOOK_COUNTS_KEY, name])
    for queue in queues:
        yield ["LREM", queue, 0, name]
        for key in (keys.processing_key(queue, name), keys.cancelled_key(queue)):
            yield ["LREM", key, 0, name]
        for key in (keys.order_key(queue), keys.turns_key(queue)):
            yield ["ZREM", key, name]
        for key in (keys.tickets_key(queue), keys.served_key(queue), keys.queue_folder_key(queue)):
            yield ["HDEL", key, name]


def commands_tried() -> set[str]:
    """The names of the commands that `check_rights` tries."""
    return {str(command[0]) for command in _commands("", [""])}


def _missing(command: list[Any], refusal: str, name: str) -> str:
    """The right that is missing: Redis says whether it refuses the command, its key or its channel."""
    if "command" in refusal:
        return f"the command {command[0]}"
    what = "the channels" if "channel" in refusal else "the keys"
    return f"{what} {str(command[1]).replace(name, '*')}"


def _missing_subscriptions(client: redis.Redis) -> list[str]:
    pattern = keys.events_key("*")
    try:
        with client.pubsub() as channel:
            channel.psubscribe(pattern)
            channel.get_message(timeout=5)
    except redis.ResponseError as error:
        if code_of(error) != "NOPERM":
            raise
        return [_missing(["PSUBSCRIBE", pattern], str(error), "*")]
    return []
