"""Reading a pickle as data: what it says is kept, and nothing that it names is imported or called.

A pickle is a program for a small machine with a stack. Python's own machine imports whatever a pickle names
and calls it; this one knows names as text. A class that a pickle constructs becomes a `Placeholder`, a call
of anything that is not a class is refused, and the few constructors that weights need come from the
caller. The opcodes are those of https://github.com/python/cpython/blob/main/Lib/pickletools.py, which
reads them.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import re
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from mead.weights.inert_data import (
    OPCODE,
    PLACEHOLDER,
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


# The standard library is where pickles that attack find their tools, so its harmless types are named.
_HARMLESS = {
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
_SYSTEMS = ("posix", "nt")  # where the functions of `os` come from
_CLASS_NAME = re.compile(r"_*[A-Z]")


def read(
    stream: IO[bytes],
    constructors: Constructors | None = None,
    persistent: Callable[[Any], Any] | None = None,
    budget: Budget | None = None,
) -> Any:
    """Read one pickle from `stream`, which is then just behind it.

    Args:
        constructors: what may be called, by its name in the pickle, beside those of Python's own data.
        persistent: gives what the pickle's persistent ids stand for.
        budget: pays for what is read; that of a small file when None.

    Raises:
        UnsafePickleError: naming the function the pickle would call.
        PickleError: for a damaged one, or one that does what no weight file does.
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
        raise PickleError("damaged: it takes more from its stack than it put there") from None
    except KeyError as error:
        raise PickleError(f"damaged: it has no {error.args[0]!r}") from None
    except Exception as error:  # whatever nonsense makes of Python's and PyTorch's own functions
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

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def run(self, opcode: str, argument: Any) -> None:
        """Do what one opcode says."""
        self.budget.spend(OPCODE + (sys.getsizeof(argument) if argument is not None else 0))
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.pop_to_mark()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if argument.bit_length() > 32:
                    raise PickleError("it numbers its objects too high")
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                items = self.pop_to_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                number = int(opcode[-1])
                if len(stack) < number:
                    raise IndexError
                stack[-number:] = [tuple(stack[-number:])]
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                items = self.pop_to_mark()
                self.stack.append(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self.pop_to_mark()
                self.stack.append({})
                self.set_items(items)
            case "EMPTY_SET":
                stack.append(set())
            case "FROZENSET":
                items = self.pop_to_mark()
                self.stack.append(frozenset(keys(items, self.budget)))
            case "APPEND":
                self.add([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self.add(self.pop_to_mark())
            case "SETITEM":
                value = stack.pop()
                self.set_items([stack.pop(), value])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name = stack.pop()
                stack.append(_name(stack.pop(), name))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(self.construct(stack.pop(), arguments))
            case "NEWOBJ":
                arguments = stack.pop()
                stack.append(self.construct(stack.pop(), arguments, is_class=True))
            case "NEWOBJ_EX":
                keywords, arguments = stack.pop(), stack.pop()
                stack.append(self.construct(stack.pop(), (arguments, keywords), is_class=True))
            case "INST":
                items = self.pop_to_mark()
                self.stack.append(self.construct(_name(*argument.split(" ", 1)), tuple(items)))
            case "OBJ":
                kind, *items = self.pop_to_mark()
                self.stack.append(self.construct(kind, tuple(items)))
            case "BUILD":
                self.build(stack.pop())
            case "PERSID" | "BINPERSID":
                identity = argument if opcode == "PERSID" else stack.pop()
                if self.persistent is None:
                    raise PickleError(f"it refers to something outside of it: {in_words(identity)}")
                stack.append(self.persistent(identity))
            case "EXT1" | "EXT2" | "EXT4":
                raise UnsafePickleError(f"it would call extension {argument} of copyreg's registry")
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise PickleError("part of it is kept outside of it, in a buffer")
            case _ if argument is not None:  # a number, text or bytes
                stack.append(argument)
            case _:
                raise PickleError(f"it has the unknown opcode {opcode}")

    def construct(self, kind: Any, arguments: Any, is_class: bool = False) -> Any:
        """What calling `kind` gives, where allowed; `is_class` where the opcode takes nothing but classes."""
        if not isinstance(kind, Name):
            raise UnsafePickleError(f"it would call an object that it made, {in_words(kind)}")
        if not isinstance(arguments, tuple):
            raise PickleError(f"it calls {kind.path} with something that is no tuple")
        self.budget.spend(sys.getsizeof(arguments))
        if kind.path in self.constructors:
            return self.constructors[kind.path](*arguments)
        if kind.path in PYTHON:
            return PYTHON[kind.path](self.budget, *arguments)
        if kind.path in ("copyreg._reconstructor", "copyreg.__newobj__"):
            # of (class, base, state), of (class, ...)
            return self.construct(arguments[0], arguments[1:], is_class=True)
        package, _, name = kind.path.rpartition(".")
        if package.split(".")[0] in sys.stdlib_module_names:
            harmless = kind.path in _HARMLESS
        else:
            harmless = is_class or bool(_CLASS_NAME.match(name))
        if not harmless:
            raise UnsafePickleError(f"it would call {kind.path}")
        self.budget.spend(PLACEHOLDER)
        return Placeholder(kind.path, arguments)

    def build(self, state: Any) -> None:
        """Fill the object on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Name):
            raise UnsafePickleError(f"it would change {target.path}")
        if isinstance(target, Placeholder):
            target.state = state
        # What else gets a state is data already whole: attributes of a dict, the byte order of a dtype.

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Placeholder) else target
        if not isinstance(entries, dict):
            raise PickleError(f"it puts items into a {type(target).__name__}")
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


def _name(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("it names something by what is no text")
    # Python 2's names, which the lower protocols still write
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    path = f"{'os' if module in _SYSTEMS else module}.{name}"
    if not is_name(path):
        raise PickleError(f"it names something {path[:40]!a}..., which is no name")
    return Name(path)
