"""The command line, `mead` or `python -m mead`: its commands and exit codes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click
from pydantic import ValidationError

from mead.cli.parser import FAILED, INTERRUPTED, WRONG_USAGE, CommandError, LazyGroup, show_usage_error
from mead.installation import version
from mead.openmp import wait_briefly
from mead.params import ParamsError
from mead.processes.child import ServiceError
from mead.registry import MODELS
from mead.terminal import say
from mead.weights.errors import DownloadError, UnknownSetError, WeightsError

LOCAL, ASKING = "mead.cli.model_commands", "mead.cli.service_commands"
COMMANDS = {
    "demo": "mead.cli.serve.demo_command",
    "serve": "mead.cli.serve.serve_command",
    **{spec.command_name: f"{LOCAL}.local_command" for spec in MODELS.values()},
    "submit": "mead.cli.submit.submit_command",
    **{
        name: f"{ASKING}.{name}_command"
        for name in ("status", "wait", "cancel", "retry", "keep", "jobs", "queue")
    },
    "faces": "mead.cli.faces_command.faces_command",
    "models": "mead.cli.catalogue.models_command",
    "show": "mead.cli.show.show_command",
    "ray": "mead.cli.ray_commands.ray_command",
    "weights": "mead.cli.weights_commands.weights_command",
    "doctor": "mead.cli.doctor.doctor_command",
    "completion": "mead.cli.completion.completion_command",
}
FAILURES = (ServiceError, WeightsError, DownloadError, FloatingPointError, ValueError, OSError)
EXIT_CODES = """\b
Exit codes:
  0    done
  1    it failed: a job, a file, a download, a check
  2    wrong usage: an option, its value or a file that it names
  3    the service does not answer, or cannot take the job now
  130  interrupted
"""


def program() -> LazyGroup:
    """The command `mead`."""
    group = LazyGroup(
        "mead",
        commands_at=COMMANDS,
        aliases={spec.route: f"{LOCAL}.local_command" for spec in MODELS.values()},
        help="Make and edit pictures from words: as a service with an HTTP API, or one at a time.",
        epilog=EXIT_CODES,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    click.version_option(version(), message="%(version)s")(group)
    return group


def main(arguments: list[str] | None = None) -> None:
    """Run a command; if it fails, exit with one of the codes that `--help` lists."""
    wait_briefly()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        program()(arguments, prog_name=_name(), complete_var="_MEAD_COMPLETE", standalone_mode=False)
    except click.ClickException as error:
        show_usage_error(error)
        sys.exit(WRONG_USAGE)
    except (ParamsError, UnknownSetError) as error:
        _fail(error, WRONG_USAGE)
    except ValidationError as error:  # of the settings
        from mead.settings import describe_problems

        for problem in describe_problems(error):
            say(f"mead: {problem}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except CommandError as error:
        _fail(error, error.code)
    except FAILURES as error:
        from mead.imaging.pictures import PictureError  # imports Pillow

        _fail(error, WRONG_USAGE if isinstance(error, PictureError) else FAILED)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    say(f"mead: {error}", file=sys.stderr)
    sys.exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Act as on Ctrl-C, once: a closed terminal sends SIGHUP twice, which must not disturb the shutdown."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _name() -> str:
    """How the program was called."""
    return "mead" if Path(sys.argv[0]).stem == "mead" else "python -m mead"
