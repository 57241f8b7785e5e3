"""REDIS_PREFIX: what comes before every key and channel, so that others can use the same Redis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis._parsers import Encoder
from redis.connection import PythonRespSerializer

from mead.queue.keys import KEY_FAMILIES, SINGLE_KEYS

_PREFIX = re.compile(r"[\w.-]*(\{[\w.-]+\})?[\w.-]*:", re.ASCII)
_BUFFER = 6000  # bytes from which redis-py sends an argument by itself

_NONE = frozenset(
    {"PING", "INFO", "MULTI", "EXEC", "AUTH", "HELLO", "CLIENT", "SELECT", "WAIT", "CONFIG", "ROLE"}
    | {"FLUSHALL", "FLUSHDB", "RESET", "QUIT", "SCRIPT", "COMMAND", "TIME", "DBSIZE"}
)
_ALL = frozenset(
    {"DEL", "UNLINK", "EXISTS", "MGET", "TOUCH", "WATCH"}
    | {"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"}
)
_TWO = frozenset({"LMOVE", "BLMOVE", "RENAME", "SMOVE"})
_AFTER_COUNT = frozenset({"EVAL", "EVALSHA"})  # the count of keys is the second argument


def check_prefix(prefix: str) -> str:
    """The prefix, if keys can begin with it.

    Raises:
        ValueError: if not.
    """
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "must be letters, digits, dots, dashes and underscores, then a colon, as in mead:; some may be "
            "in braces, as in {mead}:"
        )
    if prefix.removesuffix(":") in KEY_FAMILIES | SINGLE_KEYS:
        raise ValueError("is the name of a key of the service in Redis")
    return prefix


class PrefixPacker(PythonRespSerializer):
    """Encodes commands with a prefix before each key that does not begin with it.

    Names of queues have the prefix already, since scripts get them as arguments and records hold them.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(_BUFFER, Encoder("utf-8", "strict", False).encode)
        self.prefix = prefix

    def pack(self, *command: Any) -> list[bytes]:
        """The command as bytes for the socket.

        Raises:
            NotImplementedError: it is not known which arguments are keys.
        """
        packed: list[bytes] = super().pack(*self.prefixed(command))
        return packed

    def prefixed(self, command: Sequence[Any]) -> list[Any]:
        """The command with prefixed keys."""
        name = str(command[0]).split()[0].upper()
        arguments = list(command)
        if name in _NONE:
            return arguments
        if name == "SCAN":
            return [
                self._key(value) if before in ("MATCH", b"MATCH") else value
                for before, value in zip(["", *arguments], arguments, strict=False)
            ]
        if name in _ALL:
            keys = range(1, len(arguments))
        elif name in _TWO:
            keys = range(1, 3)
        elif name in _AFTER_COUNT:
            keys = range(3, 3 + int(arguments[2]))
        else:
            keys = range(1, 2)
        for n in keys:
            arguments[n] = self._key(arguments[n])
        return arguments

    def _key(self, name: Any) -> Any:
        prefix = self.prefix.encode() if isinstance(name, bytes) else self.prefix
        return name if name.startswith(prefix) else prefix + name
