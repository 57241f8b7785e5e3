"""Connecting to Redis by URL, and showing such URLs without secrets."""

from __future__ import annotations

from urllib.parse import unquote, unquote_plus, urlsplit

import redis
from redis.connection import parse_url

from mead.queue.redis_errors import Reconnect


def connect(url: str, timeout: float = 30) -> redis.Redis:
    """A Redis client that returns strings and connects on its first command.

    A command is repeated once over a new connection if the old one was dropped, or leads to a server that no
    longer accepts writes; all scripts in mead/queue/lua can be repeated. Longer outages raise
    redis.RedisError.

    Args:
        timeout: seconds to wait for each answer; must exceed the longest blocking command.
    """
    over_tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # other programs may have written anything
        retry=Reconnect(),
        socket_connect_timeout=5,
        socket_timeout=timeout,
        max_connections=4096,  # one per thread that is sending a command; redis-py's default is 100
        **over_tcp,
    )


def without_password(url: str) -> str:
    """The URL without passwords; "***" if it is malformed, since any part of it may be the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
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
        parse_url(url)
    except ValueError:  # its message may contain part of the password
        raise ValueError(
            "is not the URL of a Redis, as in redis://:PASSWORD@host:6379/0, rediss://host:6379/0 or "
            "unix:///path/of/socket?db=0 (`/`, `@`, `#` and the like in a password are written %2F, %40, %23)"
        ) from None
    return url
