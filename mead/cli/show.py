"""The command `show`: how a picture was made, as the command that makes it again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click
from PIL import Image

from mead.cli.model_commands import PICTURE
from mead.cli.parser import WRONG_USAGE, CommandError
from mead.installation import version
from mead.model_spec import ModelSpec
from mead.params import JobParams, check
from mead.provenance import MEAD, Provenance, Weights
from mead.registry import MODELS
from mead.terminal import say
from mead.weights.errors import WeightsError

DEFAULT_WEIGHTS = "demo"


def show_command(name: str) -> click.Command:
    """`mead show`."""

    @click.command(name)
    @click.argument("file", type=PICTURE, metavar="FILE")
    def show(file: Path) -> None:
        """Print the command that makes a PNG of this project again."""
        made = read_provenance(file)
        say(command_of(made))
        if made.further:
            say(f"mead: then {made.further} further steps", file=sys.stderr)
        for difference in differences(made):
            say(f"mead: {difference}", file=sys.stderr)

    return show


def read_provenance(path: Path) -> Provenance:
    """How a picture was made, from its file.

    Raises:
        CommandError: it is not a PNG, or does not say how this project has made it.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=["PNG"]) as picture:
            picture.load()  # chunks may follow the pixels
            found = picture.info.get(MEAD)
    except (Image.DecompressionBombError, SyntaxError, ValueError, OSError) as error:
        raise CommandError(f"{path}: not a PNG that can be read ({error})", WRONG_USAGE) from error
    if not isinstance(found, str):
        why = "does not say how it was made; only PNGs that this project has made do"
        raise CommandError(f"{path}: {why}", WRONG_USAGE)
    try:
        return Provenance.model_validate(json.loads(found))
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        raise CommandError(f"{path}: what it says of how it was made cannot be read", WRONG_USAGE) from error


def command_of(made: Provenance) -> str:
    """The command that makes a picture again; FILE stands for each picture that it was given.

    A picture that was made without one that the command requires has the model's older command.

    Raises:
        CommandError: this version does not know its model or one of its parameters.
    """
    spec = next((spec for spec in MODELS.values() if spec.name == made.model), None)
    if spec is None:
        raise CommandError(f"made by {made.model}, which this version does not have")
    params = _checked(spec, made)
    arguments = [field for field in spec.required_files if field in made.pictures]
    whole = len(arguments) == len(spec.required_files)
    words = ["mead", spec.command_name if whole else spec.route]
    for name, value in params.model_dump(mode="json", exclude_none=True).items():
        if name in ("prompt", *(f"{field}_path" for field in made.pictures)):
            continue
        if name == "seed" or value != spec.params.model_fields[name].default:
            words.append(f"--{name}={value}")
    words += [f"--{field}=FILE" for field in made.pictures if not (whole and field in arguments)]
    words += [f"--weights={made.weights.name}"] if made.weights.name != DEFAULT_WEIGHTS else []
    words += ["FILE"] * len(arguments) if whole else []
    if params.prompt:
        words += ["--", params.prompt] if params.prompt.startswith("-") else [params.prompt]
    return shlex.join(words)


def differences(made: Provenance) -> list[str]:
    """What may make another picture of the same command here, each in a sentence."""
    found = []
    if made.version != version():
        found.append(f"made by version {made.version}; this is {version()}")
    try:
        here = Weights.of(made.weights.name).sha256
    except WeightsError:
        return [*found, f"made with the weights {made.weights.name}, which are not here"]
    other = [
        name
        for name in sorted({*here, *made.weights.sha256})
        if here.get(name) != made.weights.sha256.get(name)
    ]
    if other:
        found.append(f"made with other {made.weights.name} weights than there are here: {', '.join(other)}")
    return found


def _checked(spec: ModelSpec, made: Provenance) -> JobParams:
    try:
        return check(spec.params, {**made.parameters, **{f"{field}_path": "FILE" for field in made.pictures}})
    except ValueError as error:
        raise CommandError(f"made with parameters that this version does not take: {error}") from error
