"""The commands `weights list`, `fetch`, `verify` and `convert`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mead.cli.parser import CommandError, Commands
from mead.cli.progress_bar import TransferBar
from mead.output import try_output
from mead.terminal import format_size, say
from mead.weights.confinement import confined
from mead.weights.errors import WeightsError
from mead.weights.sets import WeightFile, WeightSet, set_names, weights_dir


def add_commands(commands: Commands) -> None:
    """Add the command `weights` and its commands."""
    weights = Commands(
        commands.add(
            "weights", None, "Manage sets of weights, the networks' trained parameters; see docs/weights.md"
        )
    )
    weights.add("list", _list, "List the sets, their files and licences, and what is on this machine")
    fetch = weights.add("fetch", _fetch, "Download a published set, check it and convert it to safetensors")
    fetch.add_argument("set", help='Name of the set, such as "full".')
    fetch.add_argument(
        "--keep-original", action="store_true", help="Keep the downloaded files beside the converted ones."
    )
    fetch.add_argument(
        "--with",
        dest="optional",
        default=[],
        type=_names,
        metavar="NETWORKS",
        help="Optional networks to download as well, such as upscaler; several with commas between them.",
    )
    verify = weights.add(
        "verify", _verify, "Check all bytes, keys and shapes of sets, and run one step of each model"
    )
    verify.add_argument("set", nargs="*", help="Names of sets; all sets on this machine if none is given.")
    convert = weights.add(
        "convert", _convert, "Convert a checkpoint of your own into a set, which is then used by its name"
    )
    convert.add_argument("file", type=Path, help="A checkpoint in any format listed in docs/weights.md.")
    convert.add_argument(
        "--name", required=True, help="Name of the set; it is created if it does not exist yet."
    )
    convert.add_argument(
        "--as", dest="network", help="Take only this network from the file, such as vqgan (default: all)."
    )
    convert.add_argument(
        "--base",
        help='Set that provides the networks the new one does not have (default: "full" if it was fetched, '
        'else "demo").',
    )


def _names(text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if name]


def _list(options: argparse.Namespace) -> None:
    say(f"Sets of weights. Fetched and converted ones are in {weights_dir()}.")
    for name in set_names():
        say()
        try:
            _describe(WeightSet.find(name))
        except WeightsError as error:
            say(f"{name}: {error}")


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


def _fetch(options: argparse.Namespace) -> None:
    from mead.weights.fetch import fetch

    bar = TransferBar()
    try:
        weights = fetch(options.set, bar, options.keep_original, optional=options.optional)
        for file in weights.files.values():
            file.check()
    except KeyboardInterrupt:
        bar.say("interrupted; what was downloaded is kept, run the same command again to resume")
        raise
    finally:
        bar.end()
    say(f"{options.set}: complete ({', '.join(weights.files)}); use it with WEIGHTS={options.set}")


def _verify(options: argparse.Namespace) -> None:
    names = options.set or [name for name in set_names() if _is_here(name)]
    for name in names:
        WeightSet.find(name)  # an unknown name is reported before PyTorch is imported, which takes seconds
    from mead.weights.verify import CheckResult, verify

    def report(result: CheckResult) -> None:
        if result.problem is None:
            say(f"  {result.subject}: good", flush=True)
        else:
            say(f"mead: {result.problem}", file=sys.stderr, flush=True)

    failed = []
    for name in names:
        say(f"{name}:", flush=True)
        if not verify(name, report):
            failed.append(name)
    if failed:
        raise CommandError(f"verification of {' and '.join(failed)} failed, see above")


def _is_here(name: str) -> bool:
    return any(file.path.exists() for file in WeightSet.find(name).own_files.values())


def _convert(options: argparse.Namespace) -> None:
    from mead.weights.own_sets import add_checkpoint

    try_output(weights_dir() / "lock.json", "WEIGHTS_DIR")
    with confined(options.file):
        networks = add_checkpoint(options.file, options.name, options.network, options.base, TransferBar())
    weights = WeightSet.find(options.name)
    inherited = sorted(weights.files.keys() - weights.own_files.keys())
    say(f"{options.name}: {' and '.join(networks)} converted to {weights.folder}")
    if inherited:
        say(f"{options.name}: {', '.join(inherited)} from {weights.base}")
    say(f"Test it with `python -m mead weights verify {options.name}`, use it with WEIGHTS={options.name}")
