"""API keys with their options, as the setting API_KEYS has them: "KEY priority=4 jobs_per_minute=60"."""

from __future__ import annotations

from typing import NamedTuple

SHORTEST_KEY = 8
"""The minimum length of an API key. `openssl rand -hex 16` makes a good one."""
HIGHEST_PRIORITY = 100


class ApiKey(NamedTuple):
    """An API key.

    Attributes:
        priority: how many of its jobs run for each one of a key with priority 1, while both wait.
        jobs_per_minute: how many jobs it may make in any minute, 0 for any number; None: MAX_JOBS_PER_MINUTE.
    """

    key: str
    priority: int = 1
    jobs_per_minute: int | None = None


def parse_api_key(entry: str) -> ApiKey:
    """A key and its options.

    Raises:
        ValueError: the key is too short or cannot be sent in a header, or an option is wrong. The message has
            nothing of the entry, which may be a secret.
    """
    key, *options = entry.split(" ")
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"an API key must have {SHORTEST_KEY} or more printable ASCII characters, without spaces"
        )
    given: dict[str, int] = {}
    for option in filter(None, options):
        name, _, value = option.partition("=")
        if name not in ApiKey._fields[1:] or name in given or not value.isdecimal():
            raise ValueError(
                "after an API key only priority=N and jobs_per_minute=N may follow, each once, after a space"
            )
        given[name] = int(value)
    if not 1 <= given.get("priority", 1) <= HIGHEST_PRIORITY:
        raise ValueError(f"the priority of an API key must be 1 to {HIGHEST_PRIORITY}")
    return ApiKey(key, given.get("priority", 1), given.get("jobs_per_minute"))
