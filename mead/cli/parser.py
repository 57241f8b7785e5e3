"""What all commands of the command line share: the parser and the error."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from mead.terminal import printable

Run = Callable[[argparse.Namespace], None]


class CommandError(Exception):
    """A command failed; the message is for the user."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class Commands:
    """The commands of a parser, one of which must be given."""

    def __init__(self, parser: Parser) -> None:
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(self, name: str, run: Run | None, about: str, **options: Any) -> Parser:
        """Add a command.

        Args:
            run: called with its options; None for a command that has commands itself.
            about: what it does, as a sentence without its full stop.
            options: of the parser.
        """
        command: Parser = self._commands.add_parser(name, help=about, description=f"{about}.", **options)
        command.set_defaults(run=run)
        return command
