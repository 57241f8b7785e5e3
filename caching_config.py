"""The settings of the service, read from environment variables by `Settings()`.

The module-level names of the first version (`LATENTREVISIONS_QUEUE`, `db`, ...) can still be imported from
here. The environment is read when a name is imported, and `db` connects on its first command.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import redis

from mead.api_keys import SHORTEST_KEY
from mead.queue import client
from mead.queue.client import redis_passwords, without_password
from mead.settings import Settings

__all__ = ["IMAGE_CHANS", "SHORTEST_KEY", "Settings", "connect", "redis_passwords", "without_password"]

IMAGE_CHANS = 3
"""The channels of stored pictures: red, green, blue. Not a setting: the networks require it."""


def connect(settings: Settings, timeout: float = 30) -> redis.Redis:
    """A client of the service's Redis; see `mead.queue.client.connect`."""
    return client.connect(settings.redis_url, timeout, settings.redis_prefix)


@cache
def _db() -> redis.Redis:
    return connect(Settings())


def __getattr__(name: str) -> Any:
    """The names of the first version: `db`, and each setting in capitals, from the current environment."""
    if name == "db":
        return _db()
    if name.isupper() and name.lower() in Settings.model_fields:
        return getattr(Settings(), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
