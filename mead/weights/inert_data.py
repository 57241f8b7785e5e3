"""What an inert pickle is read as: plain data, names, placeholders; and the budget that limits it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class PickleError(ValueError):
    """A pickle that is damaged, or that does what weight files do not."""


class UnsafePickleError(PickleError):
    """A pickle that would run code if it were loaded normally; the message names what it would call."""


class Budget:
    """How many bytes may be read out of a file: a few bytes of a pickle can describe any number.

    Work counts too, by the size of what it makes, so that endless work ends soon.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    @classmethod
    def to_read(cls, size: int) -> Budget:
        """For the objects in a file of `size` bytes."""
        return cls((256 << 20) + 4 * size)

    @classmethod
    def to_write(cls, size: int) -> Budget:
        """For the tensors taken out of a file of `size` bytes."""
        return cls((64 << 20) + 2 * size)

    def spend(self, size: int) -> None:
        """Take `size` bytes from the budget.

        Raises:
            PickleError: if it is exceeded.
        """
        self.left -= size
        if self.left < 0:
            raise PickleError("it unpacks to far more than its size")


@dataclass(frozen=True)
class Name:
    """A class or function named in a pickle, "package.module.Class"; it is not looked up."""

    path: str


@dataclass(eq=False)
class Placeholder:
    """In place of an object whose class is not looked up: what the object would be made from.

    Attributes:
        name: "package.module.Class".
        arguments: of the call of its class.
        state: set afterwards, usually a dict of its attributes.
        entries, elements: what was added to it, if it is a kind of dict, list or set.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


_KEYS = (str, int, float, bool, bytes, type(None), Name, Placeholder)
_LONGEST_NAME = 500  # characters

# Costs in bytes. They need not be exact: no opcode makes more than a few times as much.
OPCODE_COST = 256
PLACEHOLDER_COST = 512
_NUMBER_IN_KEY_COST = 16 << 10  # pairs of numbers can be chosen so that a dict compares each with all others


def in_words(value: Any) -> str:
    """A short description of an object from a pickle, whose repr could be endless."""
    match value:
        case Name():
            return value.path
        case Placeholder():
            return f"a {value.name}"
        case str() | bytes():
            return repr(value[:80])
        case float() | bool() | None:
            return repr(value)
        case int() if value.bit_length() <= 64:
            return repr(value)
    return f"a {type(value).__name__}"


def is_name(text: Any) -> bool:
    """Whether something can be the name of a class or a tensor: printable, of a sensible length."""
    return isinstance(text, str) and len(text) <= _LONGEST_NAME and text.isprintable()


def keys(items: Iterable[Any], budget: Budget) -> Iterator[Any]:
    """The keys of a dict or set, checked to be quick to hash and compare.

    Nested tuples could take for ever, and large integers can be chosen so that all have the same hash.
    """
    for key in items:
        budget.spend(OPCODE_COST)
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            if not isinstance(part, _KEYS) or (isinstance(part, int) and part.bit_length() > 64):
                raise PickleError(f"it has {in_words(part)} as a key")
            if isinstance(part, (str, bytes)):
                budget.spend(len(part))
            elif parts is key:
                budget.spend(_NUMBER_IN_KEY_COST)
        yield key


# Python's own data, whose constructors only hold what they are given.


def _dict(budget: Budget, items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else _list(budget, items)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise PickleError("it makes a dict of something other than pairs")
    return dict(zip(keys((key for key, _ in pairs), budget), (value for _, value in pairs), strict=True))


def _default_dict(budget: Budget, factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _dict(budget, items)


def _list(budget: Budget, items: Any = (), *_: Any) -> list[Any]:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise PickleError(f"it makes a list of a {type(items).__name__}")
    budget.spend(sys.getsizeof(items))
    return list(items)


def _tuple(budget: Budget, items: Any = ()) -> tuple[Any, ...]:
    return tuple(_list(budget, items))


def _set(budget: Budget, items: Any = ()) -> set[Any]:
    return set(keys(_list(budget, items), budget))


def _bytes(budget: Budget, text: Any = b"", encoding: Any = "latin1", *_: Any) -> bytes:
    """Bytes as protocol 2 writes them: as text, since it has no opcode for bytes."""
    if not isinstance(text, (str, bytes, bytearray)) or encoding not in ("latin1", "latin-1"):
        raise PickleError(f"it makes bytes of a {type(text).__name__}")
    budget.spend(len(text))
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


PYTHON: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "builtins.dict": _dict,
    "builtins.frozenset": _set,
    "builtins.list": _list,
    "builtins.set": _set,
    "builtins.tuple": _tuple,
    "collections.Counter": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "collections.deque": _list,
}
