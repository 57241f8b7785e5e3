"""Connecting to Redis by a URL, and showing such a URL without its secrets."""

from __future__ import annotations

from urllib.parse import unquote, unquote_plus, urlsplit

import redis
from redis.connection import parse_url

from mead.queue.redis_errors import Reconnect


def connect(url: str, timeout: float = 30) -> redis.Redis:
    """A client of a Redis that returns strings; it connects on its first command.

    A command that meets a dropped connection, or one that leads to a Redis that takes no writes any more, is
    sent once more at once over a new one; every script of `mead.queue.jobs` bears that. Longer absences are
    for the caller to wait out.

    Args:
        timeout: seconds to wait for an answer, twice at most; more than the longest blocking command takes.
    """
    over_tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # what others wrote is no reason to fail here
        retry=Reconnect(),
        socket_connect_timeout=5,
        socket_timeout=timeout,
        max_connections=4096,  # a thread each while it speaks; redis-py's own limit is 100
        **over_tcp,
    )


def without_password(url: str) -> str:
    """A Redis's URL that may be shown; "***" where it is malformed: anything in it may be the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        user = f"{name}:***" if colon else "***"  # a password without a user's colon is a usual mistake
    shown = f"{host}{parts.path}"
    if parts.query:
        shown += "?" + "&".join(_without_secret(pair) for pair in parts.query.split("&"))
    if parts.fragment:
        shown += "#***"
    return "***" if not parts.scheme or "@" in shown else f"{parts.scheme}://{user}{at}{shown}"


def redis_passwords(url: str) -> set[str]:
    """The passwords in a Redis's URL, as they stand there and as they are meant."""
    parts = urlsplit(url)
    query = [pair.partition("=") for pair in parts.query.split("&")]
    found = {value for name, _, value in query if _is_secret(name)} | {parts.password or ""}
    return {one for written in found if written for one in (written, unquote(written), unquote_plus(written))}


def _without_secret(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals and _is_secret(name) else pair


def _is_secret(name: str) -> bool:
    """Whether a parameter of a Redis's URL (password, ssl_password) holds a secret."""
    return "pass" in unquote_plus(name).lower()


def check_redis_url(url: str) -> str:
    """The URL, if redis-py takes it.

    Raises:
        ValueError: if not. The message never repeats the URL, which may hold a password.
    """
    try:
        parse_url(url)
    except ValueError:  # its own words may hold part of the password
        raise ValueError(
            "is not the URL of a Redis, as in redis://:PASSWORD@host:6379/0, rediss://host:6379/0 or "
            "unix:///path/of/socket?db=0 (`/`, `@`, `#` and the like in a password are written %2F, %40, %23)"
        ) from None
    return url
