"""The commands that make pictures in this process, without a server: `mead generate`, `mead edit`."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from mead.cli.parser import CommandError, json_option, print_json, tell, watched
from mead.cli.progress_bar import ProgressBar
from mead.model_spec import ModelSpec
from mead.output import try_output
from mead.params import JobParams, check
from mead.registry import MODELS
from mead.terminal import say
from mead.weights.sets import WeightSet

PICTURE = click.Path(exists=True, dir_okay=False, path_type=Path)


def spec_called(name: str) -> ModelSpec:
    """The model of a command, by the command's name or its older one, that of the model's route."""
    return next(spec for spec in MODELS.values() if name in (spec.command_name, spec.route))


def parameters_of(spec: ModelSpec, name: str) -> list[click.Parameter]:
    """The arguments and options of a command that takes a model's parameters, each named as in HTTP.

    The files that the service requires are arguments of the command; of its older name, options.
    """
    arguments = [field for field in spec.required_files if name == spec.command_name]
    found: list[click.Parameter] = [
        click.Argument([f"{field}_path"], metavar=field.upper(), type=PICTURE) for field in arguments
    ]
    schema = spec.params.model_json_schema()
    found.append(click.Argument(["prompt"], required="prompt" in schema.get("required", ())))
    schema = schema["properties"]
    for field, own in schema.items():
        option = field.removesuffix("_path")
        if field != "prompt" and option not in arguments:
            found.append(_option(option, field, own))
    return found


def _option(name: str, field: str, schema: dict[str, Any]) -> click.Option:
    kinds = [schema, *schema.get("anyOf", ())]
    choices: list[Any] = next((kind["enum"] for kind in kinds if "enum" in kind), [])
    default = "" if schema.get("default") is None else f" [default: {schema['default']}]"
    return click.Option(
        [f"--{name}", *(["-n"] if name == "n" else []), field],
        type=PICTURE if field.endswith("_path") else click.Choice([*map(str, choices)]) if choices else str,
        metavar=None if choices else "FILE" if field.endswith("_path") else name.upper(),
        help=schema["description"] + default,
    )


def given(spec: ModelSpec, options: dict[str, Any]) -> dict[str, Any]:
    """The parameters among a command's options that were given."""
    fields = spec.params.model_fields
    return {name: value for name, value in options.items() if name in fields and value is not None}


def out_paths(out: Path, n: int) -> list[Path]:
    """The files of `n` pictures: OUT.png, OUT-2.png and so on.

    Raises:
        click.BadParameter: it is no PNG file, or its folder does not exist.
    """
    hint = "'-o' / '--out'"
    if out.suffix != ".png":
        raise click.BadParameter(f"{str(out)!r} does not end in .png", param_hint=hint)
    _check_folder(out, hint)
    return numbered(out, n)


def lapse_paths(path: Path, n: int) -> list[Path]:
    """The files of the time-lapses of `n` pictures: NAME.webp, NAME-2.webp and so on.

    Raises:
        click.BadParameter: for a file of another kind, or in a folder that does not exist.
        OSError: the file cannot be written.
    """
    hint = "'--timelapse'"
    if path.suffix not in (".webp", ".mp4"):
        raise click.BadParameter(f"{str(path)!r} ends neither in .webp nor in .mp4", param_hint=hint)
    _check_folder(path, hint)
    try_output(path, "timelapse")
    return numbered(path, n)


timelapse_option = click.Option(
    ["--timelapse"],
    type=click.Path(path_type=Path),
    help="File for the time-lapse, .webp or .mp4, of the --frames asked for; of several, the first.",
)


def _check_folder(path: Path, hint: str) -> None:
    """Check that a file's folder is there: a misspelt one is not made, and pictures do not land in it.

    Raises:
        click.BadParameter: it is not.
    """
    if not path.parent.exists():
        raise click.BadParameter(f"the folder {str(path.parent)!r} does not exist", param_hint=hint)


def numbered(path: Path, n: int) -> list[Path]:
    """A file for each of `n` pictures: NAME.png, NAME-2.png and so on."""
    return [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, n + 1))]


def local_command(name: str) -> click.Command:
    """The command that runs a model here."""
    spec = spec_called(name)
    options = [
        click.Option(
            ["-o", "--out"], type=click.Path(path_type=Path), help="The PNG file; of several, the first."
        ),
        click.Option(
            ["--output_path"],
            default=spec.output_path,
            show_default=True,
            metavar="FOLDER",
            help="Folder for the picture, if there is no --out.",
        ),
        timelapse_option,
        click.Option(
            ["--weights"],
            envvar="WEIGHTS",
            help='Set of weights: "demo", "full" or one of your own; by default the setting WEIGHTS.',
        ),
        click.Option(["--device"], help='Such as "cpu" or "cuda:0"; by default the GPU, if there is one.'),
    ]
    command = click.Command(
        name,
        params=[*parameters_of(spec, name), *options],
        callback=partial(_run, spec),
        help=f"{spec.summary} Runs here, without a server, and prints the path of the picture.",
        hidden=name != spec.command_name,
    )
    return json_option(command)


def _run(
    spec: ModelSpec,
    out: Path | None,
    output_path: str,
    timelapse: Path | None,
    weights: str | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make pictures with a progress bar, and print their paths."""
    checked: JobParams = check(spec.params, given(spec, options))
    paths = out_paths(out, checked.n) if out is not None else []
    folder = Path(output_path) if out is None else out.parent
    try_output(folder / "picture.png", "output_path" if out is None else "out")
    lapses = lapse_paths(timelapse, checked.n) if timelapse is not None else []
    if lapses:
        _check_lapse(lapses[0], checked.frames)
    if weights is not None:
        WeightSet.find(weights)  # before PyTorch is imported
    parameters = {name: getattr(checked, name) for name in given(spec, options)} | {"seed": checked.seed}
    others = {name: value for name, value in (("weights", weights), ("device", device)) if value is not None}
    tell(f"seed {checked.seed}")
    bar = ProgressBar(spec.name, unit="step") if watched() else None
    steps = itertools.count(1)

    def show(progress: Any) -> None:
        if bar is not None:
            bar.show(next(steps), checked.n * progress.steps)

    try:
        model = _load(spec)(**parameters, **others, output_path=folder, callback=show)
        told = _tell_notes(model.notes)
        if paths:
            model.name = paths[0].stem
        made = model.run_all()
        for variant, path in enumerate(lapses):
            model.timelapse(path, variant)
    finally:
        if bar is not None:
            bar.end()
    _tell_notes(model.notes[told:])
    if as_json:
        seeds = [variant.seed for variant in checked.variants()]
        pictures = [{"path": path, "seed": seed} for path, seed in zip(made, seeds, strict=True)]
        print_json({"pictures": pictures, "notes": list(model.notes)})
    else:
        print(*made, sep="\n")


def _tell_notes(notes: Sequence[str]) -> int:
    """Print notes; returns how many there were."""
    for note in notes:
        say(f"mead: {note}", file=sys.stderr, flush=True)
    return len(notes)


def _check_lapse(path: Path, frames: int) -> None:
    """Check that a time-lapse can be made.

    Raises:
        click.BadParameter: no frames were asked for.
        CommandError: there is no video encoder.
    """
    if not frames:
        raise click.BadParameter(
            "no frames are kept; give --frames, as in --frames 24", param_hint="'--timelapse'"
        )
    from mead.imaging.timelapse import NoVideoError, writer_of  # imports Pillow, and is seldom used

    try:
        writer_of(path, "timelapse")
    except NoVideoError as error:
        raise CommandError(f"timelapse: {error}") from error


def _load(spec: ModelSpec) -> Callable[..., Any]:
    """The model's class, whose notes are not warnings here: they are printed."""
    model_class: Callable[..., Any] = spec.load_class()  # imports PyTorch, which takes seconds
    from mead.model import NoteWarning

    warnings.simplefilter("ignore", NoteWarning)
    return model_class
