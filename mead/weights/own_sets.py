"""Sets of your own: a checkpoint is converted into a folder of WEIGHTS_DIR."""

from __future__ import annotations

from pathlib import Path

from mead import registry
from mead.files import write_whole
from mead.weights.disk import naming_full_disk, require_space
from mead.weights.errors import WeightsError
from mead.weights.lock import Lock
from mead.weights.manifest import NAME
from mead.weights.progress import Progress
from mead.weights.set_folder import convert_into, exclusive, storable
from mead.weights.sets import WeightSet, is_shipped, weights_dir

OWN_MANIFEST = """\
# A set of weights of your own. Networks converted into this folder are found by their names; other networks
# are taken from the set `base`.
description = "Converted from {original}."
base = "{base}"

# Further CLIPs that guide LatentRevisions, each converted with `--as clip-NAME`:
# perceptors = ["clip", "clip-NAME"]

# Settings of the models that differ from the base's, such as:
# [models.NAME]
# iterations = 100
"""


def add_checkpoint(
    original: Path, name: str, network: str | None, base: str | None, progress: Progress
) -> list[str]:
    """Convert a checkpoint into the set `name`, which is created if it does not exist.

    Args:
        network: the only one to take from the file; all it holds if None. A set's further CLIPs are called
            "clip-NAME".
        base: the set that provides what a new set does not have; if None, "full" if it was fetched, else
            "demo".

    Returns:
        The networks converted.

    Raises:
        WeightsError: for an invalid name, a base other than the set's, or a file without that network.
        CheckpointError: naming the file that cannot be read.
    """
    original.stat()  # a missing file is reported before PyTorch is imported, which takes seconds
    if not NAME.fullmatch(name) or is_shipped(name):
        raise WeightsError(
            f"weights: {name!r} cannot be the name of your own set; use letters, digits, '.', '_' and '-', "
            "and not the name of a set that comes with the project"
        )
    networks = _networks_in(original, network)
    folder = weights_dir() / name
    manifest = folder / "manifest.toml"
    new_base = base or ("full" if _is_complete("full") else "demo")
    WeightSet.find(new_base)
    with exclusive(folder, progress.say), naming_full_disk(folder):
        if manifest.exists() and base not in (None, WeightSet.find(name).base):
            raise WeightsError(f"{manifest} has another base than {base!r}; change it there")
        require_space(folder, original.stat().st_size)
        targets = {network: folder / f"{network}.safetensors" for network in networks}
        convert_into(folder, original, targets, Lock.read(folder), progress)
        if not manifest.exists():
            escaped = storable(original.name).replace("\\", "\\\\").replace('"', '\\"')
            write_whole(manifest, OWN_MANIFEST.format(original=escaped, base=new_base).encode())
    return networks


def _networks_in(original: Path, network: str | None) -> list[str]:
    """The networks to convert: `network`, or all that a checkpoint holds."""
    from mead.weights import conversion  # imports PyTorch

    networks = conversion.networks(original)
    if network is None:
        return list(networks)
    try:
        kind = registry.network(network).name
    except KeyError:
        kind = network
    if kind not in networks or not NAME.fullmatch(network):
        raise WeightsError(f"{original} does not hold {network}, only {' and '.join(networks)}")
    return [network]


def _is_complete(name: str) -> bool:
    return all(file.path.exists() for file in WeightSet.find(name).files.values())
