"""The commands `weights list`, `fetch`, `verify` and `convert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mead.cli.parser import CommandError, json_option, print_json
from mead.cli.progress_bar import TransferBar
from mead.output import try_output
from mead.terminal import format_size, say
from mead.weights.confinement import confined
from mead.weights.errors import WeightsError
from mead.weights.sets import WeightFile, WeightSet, set_names, weights_dir


def weights_command(name: str) -> click.Command:
    """`mead weights`."""
    group = click.Group(
        name, help="Manage sets of weights, the networks' trained parameters; see docs/weights.md."
    )
    for command in (list_sets, fetch_set, verify_sets, convert):
        group.add_command(command)
    return group


@click.command("list")
@json_option
def list_sets(as_json: bool) -> None:
    """List the sets, their files and licences, and what is on this machine."""
    if as_json:
        print_json({name: _facts(name) for name in set_names()})
        return
    say(f"Sets of weights. Fetched and converted ones are in {weights_dir()}.")
    for name in set_names():
        say()
        try:
            _describe(WeightSet.find(name))
        except WeightsError as error:
            say(f"{name}: {error}")


def _facts(name: str) -> dict[str, Any]:
    """What `list` tells of a set, for programs."""
    try:
        weights = WeightSet.find(name)
    except WeightsError as error:
        return {"error": str(error)}
    files = {**weights.files, **weights.absent}
    return {
        "description": weights.description,
        "base": weights.base,
        "files": {
            network: {"size": file.size, "here": file.path.exists(), "licence": file.licence}
            for network, file in files.items()
        },
    }


def _describe(weights: WeightSet) -> None:
    base = f"; other networks come from {weights.base}" if weights.base else ""
    say(f"{weights.name}: {weights.description.rstrip('.')}{base}.")
    absent = {network: file for network, file in weights.absent.items() if file.owner == weights.name}
    for network, file in {**weights.own_files, **absent}.items():
        size = format_size(file.size) if file.size is not None else "-"
        say(f"  {network:<10} {size:>9}  {_state(file):<28} {file.licence}".rstrip())
    for file_name, (published, networks) in weights.downloads.items():
        size = format_size(published.size) if published.size else "size unknown"
        say(f"  from {file_name} ({size}): {' and '.join(networks)}; {published.licence}")


def _state(file: WeightFile) -> str:
    """Whether a file is here, and when it was verified."""
    if not file.path.exists():
        return "optional, not here" if file.optional else "not here"
    if file.last_verified is None:
        return "here, never verified"
    if file.path.stat().st_mtime_ns != file.last_verified.modified:
        return "here, changed since verified"
    return f"here, verified {file.last_verified.verified:%Y-%m-%d %H:%M}"


def _names(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if name]


@click.command("fetch")
@click.argument("name", metavar="SET")
@click.option("--keep-original", is_flag=True, help="Keep the downloaded files beside the converted ones.")
@click.option(
    "--with",
    "optional",
    default="",
    callback=_names,
    metavar="NETWORKS",
    help="Optional networks to download as well, such as upscaler; several with commas between them.",
)
def fetch_set(name: str, keep_original: bool, optional: list[str]) -> None:
    """Download a published set such as "full", check it and convert it to safetensors."""
    from mead.weights.fetch import fetch

    bar = TransferBar()
    try:
        weights = fetch(name, bar, keep_original, optional=optional)
        for file in weights.files.values():
            file.check()
    except KeyboardInterrupt:
        bar.say("interrupted; what was downloaded is kept, run the same command again to resume")
        raise
    finally:
        bar.end()
    say(f"{name}: complete ({', '.join(weights.files)}); use it with WEIGHTS={name}")


@click.command("verify")
@click.argument("names", nargs=-1, metavar="[SET]...")
def verify_sets(names: tuple[str, ...]) -> None:
    """Check all bytes, keys and shapes of sets, and run one step of each model.

    Without SET, all sets on this machine.
    """
    sets = names or [name for name in set_names() if _is_here(name)]
    for name in sets:
        WeightSet.find(name)  # an unknown name is reported before PyTorch is imported, which takes seconds
    from mead.weights.verify import CheckResult, verify

    def report(result: CheckResult) -> None:
        if result.problem is None:
            say(f"  {result.subject}: good", flush=True)
        else:
            say(f"mead: {result.problem}", file=sys.stderr, flush=True)

    failed = []
    for name in sets:
        say(f"{name}:", flush=True)
        if not verify(name, report):
            failed.append(name)
    if failed:
        raise CommandError(f"verification of {' and '.join(failed)} failed, see above")


def _is_here(name: str) -> bool:
    return any(file.path.exists() for file in WeightSet.find(name).own_files.values())


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the set; it is created if it does not exist yet.")
@click.option(
    "--as",
    "network",
    help="Take only this network, such as vqgan, from the file. clip-NAME is a further CLIP.",
)
@click.option(
    "--base",
    help="Set that provides the networks that the new one does not have; by default full if it was "
    "fetched, else demo.",
)
def convert(file: Path, name: str, network: str | None, base: str | None) -> None:
    """Convert a checkpoint of your own into a set, which is then used by its name.

    FILE may have any format listed in docs/weights.md.
    """
    from mead.weights.own_sets import add_checkpoint

    try_output(weights_dir() / "lock.json", "WEIGHTS_DIR")
    with confined(file):
        networks = add_checkpoint(file, name, network, base, TransferBar())
    weights = WeightSet.find(name)
    inherited = sorted(weights.files.keys() - weights.own_files.keys())
    say(f"{name}: {' and '.join(networks)} converted to {weights.folder}")
    if inherited:
        say(f"{name}: {', '.join(inherited)} from {weights.base}")
    say(f"Test it with `python -m mead weights verify {name}`, use it with WEIGHTS={name}")
