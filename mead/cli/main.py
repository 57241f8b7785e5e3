"""The command line, `mead` or `python -m mead`: its commands, their options and exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from mead.cli import catalogue, model_commands, serve, show, weights_commands
from mead.cli.child import ServiceError
from mead.cli.parser import CommandError, Commands, Parser
from mead.installation import version
from mead.params import ParamsError
from mead.registry import MODELS
from mead.settings import Settings, describe_problems
from mead.terminal import say
from mead.weights.download import DownloadError
from mead.weights.errors import WeightsError


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 on success, 1 if it fails, 2 for wrong usage, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        options.run(options)
    except ParamsError as error:
        say(f"mead: {error}", file=sys.stderr)
        sys.exit(2)
    except ValidationError as error:  # of the settings
        for problem in describe_problems(error):
            say(f"mead: {problem}", file=sys.stderr)
        sys.exit(2)
    except (
        CommandError,
        ServiceError,
        WeightsError,
        DownloadError,
        FloatingPointError,
        ValueError,
        OSError,
    ) as error:
        say(f"mead: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Act as on Ctrl-C, once: a closed terminal sends SIGHUP twice, which must not disturb the shutdown."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _program() -> str:
    """How the program was called."""
    return "mead" if Path(sys.argv[0]).stem == "mead" else "python -m mead"


def _parser() -> Parser:
    parser = Parser(
        _program(),
        description="Make and edit pictures from words: as a service with an HTTP API, or one at a time.",
        epilog=f"`{_program()} COMMAND --help` describes a command. Start with `{_program()} demo`.",
    )
    parser.add_argument("--version", action="version", version=version())
    commands = Commands(parser)
    commands.add(
        "serve",
        serve.serve,
        "Run the service (API, web page and inference) until Ctrl-C",
        epilog="Settings are environment variables. If REDIS_URL is unset, a Redis server is started too.\n\n"
        + _settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add(
        "demo", serve.demo, "Start the service on free ports, make two pictures through its API, and stop it"
    )
    for spec in MODELS.values():
        model_commands.add_command(commands, spec)
    catalogue.add_command(commands)
    show.add_command(commands)
    weights_commands.add_commands(commands)
    return parser


def _settings_help() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        lines.append(f"  {name.upper()}{default}\n      {field.description}")
    return "\n".join(lines)
