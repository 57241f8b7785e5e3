"""REDIS_URL: one Redis, the primary that Sentinels name, or a Redis Cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url

Kind: TypeAlias = Literal["single", "sentinel", "cluster"]

SCHEMES: dict[str, tuple[str, Kind]] = {
    "redis": ("redis", "single"),
    "rediss": ("rediss", "single"),
    "unix": ("unix", "single"),
    "redis+sentinel": ("redis", "sentinel"),
    "rediss+sentinel": ("rediss", "sentinel"),
    "redis+cluster": ("redis", "cluster"),
    "rediss+cluster": ("rediss", "cluster"),
}
"""By scheme: that of redis-py, and what is there."""

PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class RedisUrl:
    """What a URL tells.

    Attributes:
        hosts: of the Sentinels, or of some nodes of the cluster; empty for a single Redis.
        service: the name of the primary that the Sentinels watch.
        options: for redis-py's connections, without those in `sentinel_options`.
        tls: whether connections are encrypted.
        sentinel_options: for connections to Sentinels.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    tls: bool
    sentinel_options: dict[str, Any]


def parse_redis_url(url: str) -> RedisUrl:
    """Read the URL of a single Redis, of Sentinels or of a cluster.

    Raises:
        ValueError: it is none. The message may contain parts of the URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError("unknown scheme")
    scheme, kind = SCHEMES[parts.scheme]
    if kind == "single":
        if scheme != "unix" and not (parts.path.strip("/").isdecimal() or parts.path in ("", "/")):
            raise ValueError("the database is not a number")  # redis-py would take database 0
        return RedisUrl(kind, (), "", parse_url(url), scheme == "rediss", {})
    user, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if kind == "cluster":
        service, database = "", service
    if (kind == "sentinel") != bool(service) or not (database.isdecimal() or not database):
        raise ValueError("wrong path")
    if kind == "cluster" and database not in ("", "0"):
        raise ValueError("a cluster has only database 0")
    read = [
        parse_url(f"{scheme}://{user}{at}{place}/{database or 0}?{parts.query}")
        for place in places.split(",")
    ]
    hosts = tuple((one.pop("host", ""), one.pop("port", PORTS[kind])) for one in read)
    if not all(host for host, _ in hosts):
        raise ValueError("a host is missing")
    options = read[0]
    options.pop("connection_class", None)
    tls = {"ssl": True} if scheme == "rediss" else {}
    sentinel_options = {
        **tls,
        **{name: value for name, value in options.items() if name.startswith("ssl_")},
        **{
            name.removeprefix("sentinel_"): options.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if name in options
        },
    }
    return RedisUrl(kind, hosts, unquote(service), options, scheme == "rediss", sentinel_options)
