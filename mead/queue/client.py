"""Connecting to Redis by URL, and showing such URLs without secrets."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

import redis
from redis.connection import ConnectionPool
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from mead.queue.cluster import ClusterConnection, SlotPrimary, SSLClusterConnection
from mead.queue.prefix import PrefixPacker
from mead.queue.redis_errors import Reconnect
from mead.queue.redis_url import RedisUrl, parse_redis_url

ANSWER_SECONDS = 30.0
"""How long Redis may take to answer, unless the URL or the caller says otherwise."""
DISCOVERY_SECONDS = 1.0
"""How long a Sentinel or a node of a cluster may take to name the primary, before the next is asked."""


def connect(url: str, timeout: float = ANSWER_SECONDS, prefix: str = "") -> redis.Redis:
    """A Redis client that returns strings and connects on its first command.

    A command is repeated once over a new connection if the old one was dropped, or leads to a server that no
    longer accepts writes; all scripts in mead/queue/lua can be repeated. Longer outages raise
    redis.RedisError.

    Args:
        url: of one Redis, of Sentinels or of a Redis Cluster; see `mead.queue.redis_url`.
        timeout: seconds to wait for each answer; must exceed the longest blocking command.
        prefix: before every key; of a cluster, with the hash tag that keeps all keys on one node.
    """
    place = parse_redis_url(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # other programs may have written anything
        "retry": Reconnect(),
        "socket_connect_timeout": 5,
        "socket_timeout": timeout,
        "max_connections": 4096,  # one per thread that is sending a command; redis-py's default is 100
    }
    if prefix:
        options["command_packer"] = PrefixPacker(prefix)
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if place.kind == "single":
        return redis.Redis.from_url(url, **options)
    pool = {"sentinel": _sentinel_pool, "cluster": _cluster_pool}[place.kind]
    return redis.Redis(connection_pool=pool(place, {**options, **place.options}, prefix))


def _sentinel_pool(place: RedisUrl, options: dict[str, Any], prefix: str) -> ConnectionPool:
    """Connections to the primary that the Sentinels name when a connection is opened."""
    waits = {"socket_connect_timeout": DISCOVERY_SECONDS, "socket_timeout": DISCOVERY_SECONDS}
    kind = SentinelManagedSSLConnection if place.tls else SentinelManagedConnection
    sentinel = Sentinel(place.hosts, sentinel_kwargs={**waits, **place.sentinel_options})
    return SentinelConnectionPool(place.service, sentinel, connection_class=kind, **options)


def _cluster_pool(place: RedisUrl, options: dict[str, Any], prefix: str) -> ConnectionPool:
    """Connections to the primary that has the hash slot of `prefix`."""
    waits = {"socket_connect_timeout": DISCOVERY_SECONDS, "socket_timeout": DISCOVERY_SECONDS}
    tls = {"ssl": True} if place.tls else {}
    primary = SlotPrimary(place.hosts, prefix, {**place.options, **waits, **tls, "decode_responses": True})
    kind = SSLClusterConnection if place.tls else ClusterConnection
    return ConnectionPool(connection_class=kind, primary=primary, **options)


def without_password(url: str) -> str:
    """The URL without passwords; "***" if it is malformed, since any part of it may be the password."""
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        for one in host.split(","):
            _ = urlsplit(f"//{one}").port
    except ValueError:
        return "***"
    if at:
        name, colon, _ = user.partition(":")
        user = f"{name}:***" if colon else "***"  # without a colon it may be the password
    shown = f"{host}{parts.path}"
    if parts.query:
        shown += "?" + "&".join(_without_secret(pair) for pair in parts.query.split("&"))
    if parts.fragment:
        shown += "#***"
    return "***" if not parts.scheme or "@" in shown else f"{parts.scheme}://{user}{at}{shown}"


def redis_passwords(url: str) -> set[str]:
    """The passwords in the URL, both percent-encoded and decoded."""
    parts = urlsplit(url)
    query = [pair.partition("=") for pair in parts.query.split("&")]
    found = {value for name, _, value in query if _is_secret(name)} | {parts.password or ""}
    return {form for raw in found if raw for form in (raw, unquote(raw), unquote_plus(raw))}


def _without_secret(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals and _is_secret(name) else pair


def _is_secret(name: str) -> bool:
    """Whether a query parameter (password, ssl_password) holds a secret."""
    return "pass" in unquote_plus(name).lower()


def check_redis_url(url: str) -> str:
    """The URL, if redis-py accepts it.

    Raises:
        ValueError: if not. The message never contains the URL, which may hold a password.
    """
    try:
        parse_redis_url(url)
        connect(url, prefix="{any}:").connection_pool.make_connection()  # does not connect yet
    except TypeError:
        raise ValueError("has an option, after the `?`, that redis-py does not know") from None
    except (ValueError, redis.RedisError):  # the message may contain part of the password
        raise ValueError(
            "is not the URL of a Redis, as in redis://:PASSWORD@host:6379/0, rediss://host:6379/0, "
            "unix:///path/of/socket?db=0, redis+sentinel://host1:26379,host2:26379/NAME or "
            "redis+cluster://host1:6379,host2:6379 "
            "(`/`, `@`, `#` and the like in a password are written %2F, %40, %23)"
        ) from None
    return url
