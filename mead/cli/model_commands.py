"""The commands of the models: one picture, in this process and without a server."""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from mead.cli.parser import Commands
from mead.cli.progress_bar import ProgressBar
from mead.model_spec import ModelSpec
from mead.output import try_output
from mead.params import JobParams, check
from mead.terminal import say


def add_command(commands: Commands, spec: ModelSpec) -> None:
    """Add a model's command, with an option for each parameter, named as in the HTTP API."""
    about = f"{spec.summary.rstrip('.')}, without a server; prints the picture's path"
    command = commands.add(spec.route, partial(_run, spec), about)
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
        help="Folder the picture is written to (default: %(default)s).",
    )
    command.add_argument(
        "--weights",
        default=argparse.SUPPRESS,
        help='Set of weights: "demo" (the default), "full" or one of your own, see `weights list`.',
    )
    command.add_argument(
        "--device",
        default=argparse.SUPPRESS,
        help='Device to run on, such as "cpu" or "cuda:0" (default: the GPU, if there is one).',
    )


def _checked(params: type[JobParams], options: argparse.Namespace) -> dict[str, Any]:
    """The parameters given on the command line, converted to their types.

    Raises:
        ParamsError: naming the parameter that is wrong.
        OSError: if the picture could not be written.
    """
    given = {name: value for name, value in vars(options).items() if name in params.model_fields}
    checked = check(params, given)
    try_output(Path(options.output_path) / "picture.png", "output_path")
    return {name: getattr(checked, name) for name in given}


def _run(spec: ModelSpec, options: argparse.Namespace) -> None:
    """Run a model with a progress bar, and print the picture's path."""
    parameters = _checked(spec.params, options)
    others = {name: vars(options)[name] for name in ("output_path", "weights", "device") if name in options}
    model_class = spec.load_class()  # imports PyTorch, which takes seconds
    from mead.model import NoteWarning

    bar = ProgressBar(spec.name, unit="step")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoteWarning)  # the notes are printed below
            model = model_class(
                **parameters, **others, callback=lambda progress: bar.show(progress.step, progress.steps)
            )
        for note in model.notes:
            say(f"mead: {note}", file=sys.stderr, flush=True)
        path = model.run()
    finally:
        bar.end()
    print(path)
