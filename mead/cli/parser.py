"""What all commands of the command line share: the group that imports them, the error, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from mead.model_spec import load_object
from mead.terminal import printable, say

FAILED = 1
WRONG_USAGE = 2
NO_ANSWER = 3
INTERRUPTED = 130


class CommandError(Exception):
    """A command failed; the message is for the user, the exit code for programs."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, so that each starts fast.

    Args:
        commands_at: by the commands' names, the places "package.module.name" of functions that make them.
        aliases: other names of commands, which the help does not list.
    """

    def __init__(
        self,
        *arguments: Any,
        commands_at: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.commands_at = commands_at
        self.aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        place = self.commands_at.get(cmd_name) or self.aliases.get(cmd_name)
        if place is None:
            return None
        command: click.Command = load_object(place)(cmd_name)
        return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(content: Any) -> None:
    """Print what a program reads."""
    print(json.dumps(content, indent=2))


def watched() -> bool:
    """Whether somebody sees what is printed on stderr."""
    return sys.stderr.isatty()


def tell(text: str) -> None:
    """Say something on stderr that is not a result, if somebody sees it."""
    if watched():
        say(text, file=sys.stderr, flush=True)


def show_usage_error(error: click.ClickException) -> None:
    """Print the usage and what was wrong, safe for the terminal."""
    context = getattr(error, "ctx", None)
    if context is not None:
        print(printable(context.get_usage()), file=sys.stderr)
        print(printable(f"Try `{context.command_path} --help`."), file=sys.stderr)
    say(f"mead: {error.format_message()}", file=sys.stderr)
