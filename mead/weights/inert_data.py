"""What an inert pickle is made of: plain data, names, placeholders, and the budget that pays for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class PickleError(ValueError):
    """A pickle that is damaged, or that says what no weight file needs to say."""


class UnsafePickleError(PickleError):
    """A pickle that would run code if it were loaded; the message names what it would call."""


class Budget:
    """How many bytes may come out of a file; a few bytes of it can ask for any number.

    Work is paid for as well, as the memory of what it makes: what would take for ever ends soon.
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
        """Pay for so many bytes.

        Raises:
            PickleError: when there are not so many left.
        """
        self.left -= size
        if self.left < 0:
            raise PickleError("it unpacks to far more than it holds")


@dataclass(frozen=True)
class Name:
    """A class or function as a pickle names it: "package.module.Class", and nothing behind it."""

    path: str


@dataclass(eq=False)
class Placeholder:
    """An object of a class that is not looked up: what it was made of, inert.

    Attributes:
        name: "package.module.Class".
        arguments: what its class was called with.
        state: what it was then filled with, most often a dict of its attributes.
        entries, elements: what was put into it where it is a kind of dict, list or set.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


_KEYS = (str, int, float, bool, bytes, type(None), Name, Placeholder)
_LONGEST_NAME = 500  # characters

# What is paid, in bytes. It need not be exact: no opcode makes more than a few times as much.
OPCODE = 256
PLACEHOLDER = 512
_NUMBERED_KEY = 16 << 10  # pairs of numbers can be chosen so that a dict compares each with all others


def in_words(value: Any) -> str:
    """A few words for an object out of a pickle. Its repr could be endless."""
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
    """Whether something may be the name of a class or a tensor: printable, and of a sensible length."""
    return isinstance(text, str) and len(text) <= _LONGEST_NAME and text.isprintable()


def keys(items: Iterable[Any], budget: Budget) -> Iterator[Any]:
    """Keys of a dict or set, seen to be ones that are quickly hashed and told from each other.

    Tuples within tuples could take for ever, and long numbers can be chosen to have all the same hash.
    """
    for key in items:
        budget.spend(OPCODE)
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            if not isinstance(part, _KEYS) or (isinstance(part, int) and part.bit_length() > 64):
                raise PickleError(f"it has {in_words(part)} as a key")
            if isinstance(part, (str, bytes)):
                budget.spend(len(part))
            elif parts is key:
                budget.spend(_NUMBERED_KEY)
        yield key


# Python's own data, whose constructors do nothing but hold what they are given.


def _dict(budget: Budget, items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else _list(budget, items)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise PickleError("it makes a dict of what are no pairs")
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
    """Bytes as protocol 2 writes them, which has none of its own: as text of their values."""
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
