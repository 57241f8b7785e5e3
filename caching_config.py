"""Every setting of the service, each readable from the environment under its own name.

`Settings()` reads them all. The first version's module-level names (`LATENTREVISIONS_QUEUE`, `db`, ...) still
import from here; what comes from the environment is read when the name is asked for, and `db` connects on its
first command.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import redis

from mead.queue import client
from mead.queue.client import redis_passwords, without_password
from mead.settings import SHORTEST_KEY, Settings

__all__ = ["IMAGE_CHANS", "SHORTEST_KEY", "Settings", "connect", "redis_passwords", "without_password"]

IMAGE_CHANS = 3
"""Channels of every stored picture: red, green, blue. Not a setting: the networks take nothing else."""


def connect(settings: Settings, timeout: float = 30) -> redis.Redis:
    """A client of the service's Redis, see `mead.queue.client.connect`."""
    return client.connect(settings.redis_url, timeout)


@cache
def _db() -> redis.Redis:
    return connect(Settings())


def __getattr__(name: str) -> Any:
    """The first version's names: `db`, and each setting in capitals, as the environment has it now."""
    if name == "db":
        return _db()
    if name.isupper() and name.lower() in Settings.model_fields:
        return getattr(Settings(), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
