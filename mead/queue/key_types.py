"""Keys whose type is not the service's: another program, or a person, has written to them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

import redis

from mead.queue import keys

_NAMES = {"zset": "sorted set"}
_NUMBER = re.compile(r"-?[0-9]{1,18}")


def wrong_keys(client: redis.Redis, queues: Iterable[str], who: str = "", owner: str = "") -> list[str]:
    """What is wrong with the keys that the scripts use, a sentence for each (TYPE, GET).

    Args:
        who: the client whose own keys are looked at too.
        owner: likewise.

    Raises:
        redis.RedisError: Redis is away, or refuses a command.
    """
    expected = _expected(queues, who, owner)
    with client.pipeline(transaction=False) as pipe:
        for key in expected:
            pipe.type(key)
        types = cast("list[str]", pipe.execute())
    wrong = []
    for (key, right), found in zip(expected.items(), types, strict=True):
        if found == "none":  # an empty one does not exist
            continue
        if right == "number":
            if found != "string" or not _NUMBER.fullmatch(cast("str", client.get(key) or "0")):
                what = "text" if found == "string" else _with_article(found)
                wrong.append(f"the key {key} in Redis is not a number, but {what}")
        elif found != right:
            wrong.append(f"the key {key} in Redis is not {_with_article(right)}, but {_with_article(found)}")
    return wrong


def _expected(queues: Iterable[str], who: str, owner: str) -> dict[str, str]:
    """The types of the keys, as TYPE names them, or "number"."""
    expected = {
        keys.WORKERS_KEY: "set",
        keys.STATISTICS_KEY: "hash",
        keys.WEBHOOKS_KEY: "zset",
        keys.unfinished_key(who): "set",
        keys.kept_jobs_key(owner): "zset",
        keys.keeps_key(owner): "set",
    }
    for kept in (keys.KEPT_KEY, keys.kept_key(who)):
        expected |= {kept: "zset", keys.kept_latents_key(kept): "zset", keys.kept_bytes_key(kept): "number"}
    for queue in queues:
        expected |= {queue: "list", keys.cancelled_key(queue): "zset"}
        expected |= {keys.order_key(queue): "zset", keys.turns_key(queue): "zset"}
        expected |= {keys.tickets_key(queue): "number", keys.served_key(queue): "number"}
        expected |= {keys.queue_folder_key(queue): "string"}
    return expected


def _with_article(kind: str) -> str:
    return f"a {_NAMES.get(kind, kind)}"
