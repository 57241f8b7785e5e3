"""Redis's errors: what to tell clients, and after which to open a new connection.

An error begins with a code (READONLY, OOM, ...). When it comes from a script, Redis 6.2 puts the code in the
middle of the message, and leaves it out for a missing right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

T = TypeVar("T")

MEANINGS = {
    "LOADING": "Redis is loading its data",
    "READONLY": "Redis is a read-only replica",
    "MASTERDOWN": "Redis is a replica that has lost its primary",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "MOVED": "the Redis Cluster has moved our keys",
    "NOREPLICAS": "Redis has too few replicas to accept writes",
    "OOM": "Redis has no memory left",
    "MISCONF": "Redis cannot save its data to disk",
    "NOPERM": "the Redis user lacks a right that the service needs",
    "NOAUTH": "Redis asks for a password",
    "WRONGPASS": "Redis does not accept the password",
    "WRONGTYPE": "a key in Redis has the wrong type",
    "BUSY": "Redis is busy with a script",
    "UNBLOCKED": "Redis has changed its role",
    "LATE": "Redis has stalled",  # our scripts' own
}
"""What each code means, in words for clients."""

STALE = frozenset({"LOADING", "READONLY", "MASTERDOWN", "UNBLOCKED"})
"""Codes after which a connection is closed, since a new one may lead to another server."""

LASTING = frozenset({"NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE"})
"""Codes of what stays wrong until somebody mends it."""

_CODE = re.compile(rf"-?\b({'|'.join(MEANINGS)})\b")
_MISSING_RIGHT = re.compile(r"The user executing the script can't|no permissions? to", re.IGNORECASE)


class MissingRightsError(redis.exceptions.NoPermissionError):
    """The Redis user lacks rights that the service needs; the message names them."""


class RefusedError(redis.ConnectionError):
    """The connection leads to a server that cannot serve us. The message begins with Redis's code."""


def code_of(error: BaseException) -> str | None:
    """The code of Redis's error, as in "OOM"; None for an unknown code, or if Redis did not answer."""
    code = "NOPERM" if isinstance(error, MissingRightsError) else getattr(error, "status_code", None)
    if code in MEANINGS:
        return str(code)
    found = _CODE.search(str(error))
    if found:
        return found[1]
    if isinstance(error, redis.AuthenticationError):
        return "WRONGPASS"
    return "NOPERM" if _MISSING_RIGHT.search(str(error)) else None


def explain(error: redis.RedisError) -> str:
    """What is wrong, in a few words for clients and the log."""
    if isinstance(error, MissingRightsError):
        return str(error)
    code = code_of(error)
    if code is not None:
        return MEANINGS[code]
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return "Redis is away"
    return "Redis refused a command"


class NotReplicatedError(redis.ResponseError):
    """Redis has made a change, but too few of its replicas have confirmed it in time."""

    def __init__(self) -> None:
        super().__init__("NOREPLICAS too few replicas have confirmed a change")


class Reconnect(Retry):
    """Repeats a command once over a new connection if the old one was dropped or has become useless.

    After a restart of Redis, the pool contains dead connections. After a failover, open connections still
    lead to the old primary, which is now a read-only replica.
    """

    def __init__(self) -> None:
        super().__init__(NoBackoff(), retries=1)

    def call_with_retry(self, do: Callable[[], T], *args: Any, **more: Any) -> T:
        """Run `do`; see redis.retry.Retry.

        Raises:
            RefusedError: the new connection is useless, too.
        """

        def do_or_refuse() -> T:
            try:
                return do()
            except redis.ResponseError as error:
                if code_of(error) in STALE:
                    raise RefusedError(f"{code_of(error)}: {error}") from error
                raise

        return super().call_with_retry(do_or_refuse, *args, **more)
