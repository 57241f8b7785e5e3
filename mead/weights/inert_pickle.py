"""Reading a pickle as data: nothing that it names is imported or called.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever a pickle
names; this one treats names as text. An object of a class becomes a `Placeholder`, calls of anything that is
not a class are refused, and the few constructors that weights need are provided by the caller. pickletools
reads the opcodes and documents them: https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import re
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from mead.weights.inert_data import (
    OPCODE_COST,
    PLACEHOLDER_COST,
    PYTHON,
    Budget,
    Name,
    PickleError,
    Placeholder,
    UnsafePickleError,
    in_words,
    is_name,
    keys,
)

Constructors = Mapping[str, Callable[..., Any]]


# Attacks use functions of the standard library, so only these of its types are accepted.
HARMLESS = {
    "argparse.Namespace",
    "builtins.complex",
    "builtins.object",
    "builtins.range",
    "builtins.slice",
    "collections.UserDict",
    "collections.UserList",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "functools.partial",
    "logging.Logger",
    "logging.getLogger",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "random.Random",
    "types.SimpleNamespace",
    "uuid.UUID",
}
_OS_MODULES = ("posix", "nt")  # where the functions of `os` are defined
_CLASS_NAME = re.compile(r"_*[A-Z]")


def read(
    stream: IO[bytes],
    constructors: Constructors | None = None,
    persistent: Callable[[Any], Any] | None = None,
    budget: Budget | None = None,
) -> Any:
    """Read one pickle from `stream`, up to its end.

    Args:
        constructors: what may be called besides the constructors of Python's own data, by name in the pickle.
        persistent: gives the object for a persistent id.
        budget: limits what is read; that of a small file if None.

    Raises:
        UnsafePickleError: naming the function the pickle would call.
        PickleError: for a damaged pickle, or one that does what weight files do not.
    """
    machine = _Machine(constructors or {}, persistent, budget or Budget.to_read(0))
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except PickleError:
        raise
    except IndexError:
        raise PickleError("damaged: it pops more than it has pushed") from None
    except KeyError as error:
        raise PickleError(f"damaged: it refers to {error.args[0]!r}, which does not exist") from None
    except Exception as error:  # whatever Python's and PyTorch's functions raise for nonsense
        raise PickleError(f"damaged: {error or type(error).__name__}") from error
    raise PickleError("damaged: it has no end")  # pragma: no cover (genops raises before)


class _Machine:
    """The stack, the marks in it, and the memo."""

    def __init__(
        self, constructors: Constructors, persistent: Callable[[Any], Any] | None, budget: Budget
    ) -> None:
        self.constructors = constructors
        self.persistent = persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the parts of the stack under each mark
        self.memo: dict[int, Any] = {}

    def run(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        self.budget.spend(OPCODE_COST + (sys.getsizeof(argument) if argument is not None else 0))
        handler = _HANDLERS.get(opcode)
        if handler is not None:
            handler(self, argument)
        elif argument is not None:  # a number, text or bytes
            self.push(argument)
        else:
            raise PickleError(f"it has the unknown opcode {opcode}")

    # The stack and the memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def discard(self) -> None:
        """Drop the topmost object, or the mark if there is none above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.discard_to_mark()

    def discard_to_mark(self) -> None:
        self.stack = self.below.pop()

    def put(self, index: int) -> None:
        if index.bit_length() > 32:
            raise PickleError("the numbers of its objects are too large")
        self.memo[index] = self.stack[-1]

    # Containers

    def push_tuple_of(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def push_tuple(self) -> None:
        items = self.pop_to_mark()  # replaces the stack
        self.push(tuple(items))

    def push_list(self) -> None:
        items = self.pop_to_mark()
        self.push(items)

    def push_dict(self) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def push_frozenset(self) -> None:
        items = self.pop_to_mark()
        self.push(frozenset(keys(items, self.budget)))

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Placeholder) else target
        if not isinstance(entries, dict):
            raise PickleError(f"it sets items of a {type(target).__name__}")
        entries.update(zip(keys(items[::2], self.budget), items[1::2], strict=True))

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        elements = target.elements if isinstance(target, Placeholder) else target
        if isinstance(elements, list):
            elements.extend(items)
        elif isinstance(elements, set):
            elements.update(keys(items, self.budget))
        else:
            raise PickleError(f"it appends to a {type(target).__name__}")

    # Names and calls

    def push_global(self) -> None:
        name = self.pop()
        self.push(_name(self.pop(), name))

    def push_persistent(self, identity: Any) -> None:
        if self.persistent is None:
            raise PickleError(f"it refers to an object outside of it: {in_words(identity)}")
        self.push(self.persistent(identity))

    def call(self, is_class: bool = False) -> None:
        """Replace a class or function and its arguments by the result."""
        arguments = self.pop()
        self.push(self.construct(self.pop(), arguments, is_class))

    def call_with_keywords(self) -> None:
        keywords, arguments = self.pop(), self.pop()
        self.push(self.construct(self.pop(), (arguments, keywords), is_class=True))

    def call_named(self, kind: Name) -> None:
        items = self.pop_to_mark()
        self.push(self.construct(kind, tuple(items)))

    def call_marked(self) -> None:
        kind, *items = self.pop_to_mark()
        self.push(self.construct(kind, tuple(items)))

    def construct(self, kind: Any, arguments: Any, is_class: bool = False) -> Any:
        """The result of calling `kind`, if allowed; `is_class` if the opcode only accepts classes."""
        if not isinstance(kind, Name):
            raise UnsafePickleError(f"it would call an object that it made, {in_words(kind)}")
        if not isinstance(arguments, tuple):
            raise PickleError(f"it calls {kind.path} with something that is not a tuple")
        self.budget.spend(sys.getsizeof(arguments))
        if kind.path in self.constructors:
            return self.constructors[kind.path](*arguments)
        if kind.path in PYTHON:
            return PYTHON[kind.path](self.budget, *arguments)
        if kind.path in ("copyreg._reconstructor", "copyreg.__newobj__"):
            # called with (class, base, state) or (class, ...)
            return self.construct(arguments[0], arguments[1:], is_class=True)
        if not _is_harmless(kind, is_class):
            raise UnsafePickleError(f"it would call {kind.path}")
        self.budget.spend(PLACEHOLDER_COST)
        return Placeholder(kind.path, arguments)

    def build(self, state: Any) -> None:
        """Give the topmost object its state."""
        target = self.stack[-1]
        if isinstance(target, Name):
            raise UnsafePickleError(f"it would change {target.path}")
        if isinstance(target, Placeholder):
            target.state = state
        # Other objects with a state are complete already: a dict with attributes, a dtype's byte order.


def _refuse_extension(machine: _Machine, argument: Any) -> None:
    raise UnsafePickleError(f"it would call extension {argument} of copyreg's registry")


def _refuse_buffer(machine: _Machine, argument: Any) -> None:
    raise PickleError("part of it is stored outside of it, in a buffer")


_HANDLERS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": lambda machine, argument: machine.mark(),
    "POP": lambda machine, argument: machine.discard(),
    "POP_MARK": lambda machine, argument: machine.discard_to_mark(),
    "DUP": lambda machine, argument: machine.push(machine.stack[-1]),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, argument: machine.push(machine.memo[argument])
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, argument: machine.put(argument)),
    "MEMOIZE": lambda machine, argument: machine.put(len(machine.memo)),
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "TUPLE": lambda machine, argument: machine.push_tuple(),
    "TUPLE1": lambda machine, argument: machine.push_tuple_of(1),
    "TUPLE2": lambda machine, argument: machine.push_tuple_of(2),
    "TUPLE3": lambda machine, argument: machine.push_tuple_of(3),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "LIST": lambda machine, argument: machine.push_list(),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "DICT": lambda machine, argument: machine.push_dict(),
    "EMPTY_SET": lambda machine, argument: machine.push(set()),
    "FROZENSET": lambda machine, argument: machine.push_frozenset(),
    "APPEND": lambda machine, argument: machine.add([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.add(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, argument: machine.add(machine.pop_to_mark()),
    "SETITEM": lambda machine, argument: machine.set_item(),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.push(_name(*argument.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, argument: machine.push_global(),
    "REDUCE": lambda machine, argument: machine.call(),
    "NEWOBJ": lambda machine, argument: machine.call(is_class=True),
    "NEWOBJ_EX": lambda machine, argument: machine.call_with_keywords(),
    "INST": lambda machine, argument: machine.call_named(_name(*argument.split(" ", 1))),
    "OBJ": lambda machine, argument: machine.call_marked(),
    "BUILD": lambda machine, argument: machine.build(machine.pop()),
    "PERSID": lambda machine, argument: machine.push_persistent(argument),
    "BINPERSID": lambda machine, argument: machine.push_persistent(machine.pop()),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _refuse_extension),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refuse_buffer),
}


def _is_harmless(kind: Name, is_class: bool) -> bool:
    """Whether `kind` is a class, as far as its name tells; of the standard library, a known harmless one."""
    package, _, name = kind.path.rpartition(".")
    if package.split(".")[0] in sys.stdlib_module_names:
        return kind.path in HARMLESS
    return is_class or bool(_CLASS_NAME.match(name))


def _name(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("it has a name that is not text")
    # Python 2's names, which protocols 0 to 2 still use
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    path = f"{'os' if module in _OS_MODULES else module}.{name}"
    if not is_name(path):
        raise PickleError(f"it has the invalid name {path[:40]!a}...")
    return Name(path)
