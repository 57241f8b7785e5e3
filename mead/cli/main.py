"""The command line: `python -m mead serve | demo | weights`, and a command for each model."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pydantic import ValidationError

from mead.cli import serve
from mead.cli.child import ServiceError
from mead.cli.progress_bar import ProgressBar
from mead.installation import version
from mead.model_spec import ModelSpec
from mead.output import try_output
from mead.params import JobParams, ParamsError, check
from mead.registry import MODELS
from mead.settings import Settings
from mead.terminal import printable, say
from mead.weights.confinement import confined
from mead.weights.download import DownloadError, megabytes
from mead.weights.sets import WeightFile, WeightsError, WeightSet, set_names, weights_dir


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class CommandError(Exception):
    """A command cannot do what it was asked to; the message is for whoever typed it."""


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks for, and exit: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, _interrupt)
    try:
        options.run(options)
    except ParamsError as error:
        say(f"mead: {error}", file=sys.stderr)
        sys.exit(2)
    except ValidationError as error:  # of the settings
        for problem in error.errors():
            what = problem["msg"].removeprefix("Value error, ")
            say(f"mead: {problem['loc'][0]}: {what}", file=sys.stderr)
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
    """As Ctrl-C. What comes after it (a closed terminal says so twice) must not disturb the end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m mead", description="Make and edit pictures from words.")
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], about: str, **more: Any) -> _Parser:
        command: _Parser = commands.add_parser(name, help=about, description=f"{about}.", **more)
        command.set_defaults(run=run)
        return command

    add(
        "serve",
        serve.serve,
        "Run the whole service until Ctrl-C",
        epilog="Settings, read from the environment (with REDIS_URL unset, a Redis is started):\n\n"
        + _settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add("demo", serve.demo, "Start the service on free ports, make two pictures through its API, and stop it")
    for spec in MODELS.values():
        summary = spec.summary.rstrip(".")
        _add_job_options(add(spec.route, partial(_run, spec), f"{summary}, without any server"), spec)
    _add_weights_commands(add("weights", _list_weights, "Fetch, list, verify and convert sets of weights"))
    return parser


def _add_weights_commands(weights: _Parser) -> None:
    commands = weights.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], about: str) -> _Parser:
        command: _Parser = commands.add_parser(name, help=about, description=f"{about}.")
        command.set_defaults(run=run)
        return command

    add("list", _list_weights, "Show the sets: what is in them, whether it is here, when it was verified")
    command = add("fetch", _fetch_weights, "Download a published set, check it and convert it")
    command.add_argument("set", help='The set, as in "full".')
    command.add_argument(
        "--keep-original", action="store_true", help="Keep the published files beside the converted ones."
    )
    command = add(
        "verify", _verify_weights, "Check every byte, every key and shape, and run a step of each model"
    )
    command.add_argument("set", nargs="*", help="The sets; all that are here when none is named.")
    command = add(
        "convert", _convert_weights, "Make a checkpoint of your own (part of) a set, to be used by its name"
    )
    command.add_argument("file", type=Path, help="A checkpoint in any published format.")
    command.add_argument("--name", required=True, help='What the set is called, for weights="NAME".')
    command.add_argument(
        "--as", dest="network", help="The network to take of the file; all it holds when left out."
    )
    command.add_argument(
        "--base", help='The set that lends the other networks ("full" if it is here, else "demo").'
    )


def _settings_help() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        lines.append(f"  {name.upper()}{default}\n      {field.description}")
    return "\n".join(lines)


def _add_job_options(command: _Parser, spec: ModelSpec) -> None:
    """An option for each parameter, with the name it has in the API's form."""
    params = spec.params
    command.add_argument("prompt", help=params.model_fields["prompt"].description)
    for name, field in params.model_fields.items():
        if name == "prompt":
            continue
        form_name = name.removesuffix("_path")
        metavar = "FILE" if name.endswith("_path") else form_name.upper()
        default = "" if field.default is None or field.default_factory else f" (default: {field.default})"
        command.add_argument(
            f"--{form_name}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=f"{field.description}{default}".replace("%", "%%"),
        )
    command.add_argument(
        "--output_path",
        default=spec.output_path,
        metavar="FOLDER",
        help="Where the picture goes (default: %(default)s).",
    )
    command.add_argument(
        "--weights", default=argparse.SUPPRESS, help='The set of weights: "demo", "full" or one of your own.'
    )
    command.add_argument("--device", default=argparse.SUPPRESS, help='Where to run, as in "cpu" or "cuda:0".')


# The models


def _checked(params: type[JobParams], options: argparse.Namespace) -> dict[str, Any]:
    """The job's parameters that were given on the command line, each as its own type.

    Raises:
        ParamsError: for one that is wrong.
        OSError: if the picture could not be written in the end.
    """
    given = {name: value for name, value in vars(options).items() if name in params.model_fields}
    checked = check(params, given)
    try_output(Path(options.output_path) / "picture.png", "output_path")
    return {name: getattr(checked, name) for name in given}


def _run(spec: ModelSpec, options: argparse.Namespace) -> None:
    """Run a model's class with a progress bar, and print the picture's path."""
    parameters = _checked(spec.params, options)
    others = {name: vars(options)[name] for name in ("output_path", "weights", "device") if name in options}
    model = spec.load_class()  # imports PyTorch, which takes seconds
    bar = ProgressBar(spec.name)
    path = model(
        **parameters, **others, callback=lambda progress: bar.show(progress.step, progress.steps)
    ).run()
    bar.end()
    print(path)


# The weights


def _list_weights(options: argparse.Namespace) -> None:
    say(f"The sets of weights; those that are fetched or your own are in {weights_dir()}.")
    for name in set_names():
        say()
        try:
            weights = WeightSet.find(name)
        except WeightsError as error:
            say(f"{name}: {error}")
            continue
        base = f"; what it does not have is lent by {weights.base}" if weights.base else ""
        say(f"{name}: {weights.description.rstrip('.')}{base}.")
        for network, file in weights.own_files.items():
            size = megabytes(file.size) if file.size is not None else "-"
            say(f"  {network:<10} {size:>9}  {_state(file):<28} {file.licence}".rstrip())
        for file_name, (published, networks) in weights.downloads.items():
            size = megabytes(published.size) if published.size else "size unknown"
            say(f"  from {file_name} ({size}): {' and '.join(networks)}; {published.licence}")


def _state(file: WeightFile) -> str:
    """Whether a file is here, and when it was verified."""
    if not file.path.exists():
        return "not here"
    if file.record is None:
        return "here, never verified"
    if file.path.stat().st_mtime_ns != file.record.modified:
        return "here, changed since verified"
    return f"here, verified {file.record.verified:%Y-%m-%d %H:%M}"


def _fetch_weights(options: argparse.Namespace) -> None:
    from mead.weights.fetch import fetch

    bar = TransferBar()
    try:
        weights = fetch(options.set, bar, options.keep_original)
        for file in weights.files.values():
            file.check()
    except KeyboardInterrupt:
        bar.say("interrupted; what has arrived is kept, and the same command goes on from there")
        raise
    finally:
        bar.end()
    say(f"{options.set}: all {len(weights.files)} networks are here; WEIGHTS={options.set} uses them")


def _verify_weights(options: argparse.Namespace) -> None:
    names = options.set or [name for name in set_names() if _is_here(name)]
    for name in names:
        WeightSet.find(name)
    from mead.weights.verify import Finding, verify  # imports PyTorch, which takes seconds

    def found(finding: Finding) -> None:
        if finding.problem is None:
            say(f"  {finding.what}: good", flush=True)
        else:
            say(f"mead: {finding.problem}", file=sys.stderr, flush=True)

    wrong = []
    for name in names:
        say(f"{name}:", flush=True)
        if not verify(name, found):
            wrong.append(name)
    if wrong:
        raise CommandError(f"not all is well with {' and '.join(wrong)}; see above")


def _is_here(name: str) -> bool:
    return any(file.path.exists() for file in WeightSet.find(name).own_files.values())


def _convert_weights(options: argparse.Namespace) -> None:
    from mead.weights.fetch import add

    try_output(weights_dir() / "lock.json", "WEIGHTS_DIR")
    with confined(options.file):
        networks = add(options.file, options.name, options.network, options.base, TransferBar())
    weights = WeightSet.find(options.name)
    lent = sorted(weights.files.keys() - weights.own_files.keys())
    say(f"{options.name}: {' and '.join(networks)} converted into {weights.folder}")
    if lent:
        say(f"{options.name}: {', '.join(lent)}: lent by {weights.base}")
    say(f"`python -m mead weights verify {options.name}` tries it; WEIGHTS={options.name} uses it")


class TransferBar:
    """One line on stderr that shows how far a download is, how fast and for how long still.

    Where that is no terminal, a line for every tenth of a file.
    """

    WIDTH = 30
    WINDOW = 10  # seconds over which the speed is measured

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._name = ""
        self._shown = 0.0
        self._tenth = -1
        self._open = False

    def show(self, name: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes of a file are here."""
        now = time.monotonic()
        name = printable(name)
        if name != self._name or (self._seen and done < self._seen[-1][1]):
            self.end()
            self._seen.clear()
            self._name, self._shown, self._tenth = name, 0.0, -1
        self._seen.append((now, done))
        while now - self._seen[0][0] > self.WINDOW:
            self._seen.popleft()
        if sys.stderr.isatty():
            if now - self._shown >= 0.1 or done == total:
                self._shown = now
                self._open = True
                print(f"\r{self._line(done, total)}\x1b[K", end="", file=sys.stderr, flush=True)
            return
        tenth = 10 * done // total if total else done // 100_000_000
        if tenth > self._tenth:
            self._tenth = tenth
            say(self._line(done, total), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.end()
        say(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            print(file=sys.stderr)
        self._open = False

    def _line(self, done: int, total: int | None) -> str:
        (began, first), (now, _) = self._seen[0], self._seen[-1]
        speed = (done - first) / (now - began) if now > began else 0.0
        moving = f", {megabytes(int(speed))}/s" if speed else ""
        if not total:
            return f"{self._name} {megabytes(done)}{moving}"
        filled = self.WIDTH * done // total
        left = ""
        if speed and done < total:
            minutes, seconds = divmod(round((total - done) / speed), 60)
            left = f", {minutes // 60}:{minutes % 60:02}:{seconds:02} left"
        bar = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}]"
        return f"{self._name} {bar} {megabytes(done)} of {megabytes(total)}{moving}{left}"
