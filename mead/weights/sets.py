"""The sets of weights: finding them, checking and loading their files.

`weights/manifest.toml` describes the sets that come with the project. Your own sets are folders of
WEIGHTS_DIR, each with a `manifest.toml` of the same form. The `lock.json` of a set's folder records what was
fetched or converted, and when it was last verified. Only safetensors files are read; they hold tensors and
nothing that could run. PyTorch is imported only when they are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mead.installation import is_checkout, shipped
from mead.model_spec import NetworkSpec
from mead.weights.errors import UnknownSetError, WeightsError
from mead.weights.lock import Lock, VerifiedFile, sha256_of
from mead.weights.manifest import NAME, Download, FileEntry, Section, read_manifest

if TYPE_CHECKING:
    import torch

FOLDER = shipped("weights")
"""What comes with the project: the manifest and the demo weights."""

S = TypeVar("S")


def weights_dir() -> Path:
    """The folder of fetched weights and of your own sets: WEIGHTS_DIR, else the checkout's.

    An installed package may be in a read-only folder, so its default is in the user's home, as the XDG Base
    Directory Specification says.

    Raises:
        WeightsError: naming WEIGHTS_DIR, for a path that cannot be resolved.
    """
    named = os.environ.get("WEIGHTS_DIR")
    chosen = Path(named) if named else None
    if chosen is None and is_checkout():
        chosen = FOLDER
    if chosen is None:
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        chosen = (data if data.is_absolute() else Path("~/.local/share")) / "mead" / "weights"
    try:
        return chosen.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # ~ without a home or of an unknown user, a loop of links
        raise WeightsError(f"WEIGHTS_DIR: {str(chosen)!r} is not a usable path: {error}") from error


@dataclass(frozen=True)
class WeightFile:
    """One network's file.

    Attributes:
        owner: name of the set it belongs to, which may be the base of the set asked for.
        sha256, size: what it must have (bytes); None if it was never fetched or converted.
        licence: in a few words.
        trained_with: networks it was trained with; it does not work with others in their place.
        optional: whether it is only fetched when asked for.
        beside: published files that are only read while another is converted to it.
        remedy: what to do if it is missing or damaged, after "; ".
        last_verified: the file as it was then; None if it was never verified.
    """

    owner: str
    path: Path
    sha256: str | None
    size: int | None
    licence: str
    trained_with: frozenset[str]
    optional: bool
    beside: frozenset[str]
    remedy: str
    last_verified: VerifiedFile | None

    def check(self, thoroughly: bool = False) -> None:
        """Check that the file exists, is complete and unchanged.

        Its sha256 is only computed if its size or time of modification has changed since it was last
        verified; always if `thoroughly`.

        Raises:
            WeightsError: naming the file and what to do.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise WeightsError(f"{self.path} is missing; {self.remedy}") from None
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{self.path} is not a regular file; {self.remedy}")
        if self.size is None or self.sha256 is None:
            raise WeightsError(
                f"{self.path} cannot be checked without its lock.json, which is missing; {self.remedy}"
            )
        if status.st_size != self.size:
            raise WeightsError(
                f"{self.path} has {status.st_size:,} bytes instead of {self.size:,}; {self.remedy}"
            )
        known = self.last_verified and (self.last_verified.sha256, self.last_verified.modified)
        if known == (self.sha256, status.st_mtime_ns) and not thoroughly:
            return
        if sha256_of(self.path) != self.sha256:
            raise WeightsError(f"{self.path} has a wrong checksum (sha256); {self.remedy}")

    def read(self) -> dict[str, torch.Tensor]:
        """Check the file and return its tensors. They are memory-mapped: they take no memory until used.

        Raises:
            WeightsError: if it is missing, incomplete, changed or not a safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.check()
        try:
            return load_file(self.path)
        except SafetensorError as error:
            raise WeightsError(f"{self.path} is not a safetensors file ({error}); {self.remedy}") from error


@dataclass(frozen=True)
class WeightSet:
    """A set of weights.

    Attributes:
        folder: where its lock and its fetched or converted files are.
        draws: what it can draw, in a sentence; "" if nobody has said.
        examples: prompts that work, by model.
        base: name of the set that provides what this one does not have.
        files: by network, including those of the base.
        absent: optional networks' files that were not fetched, by network, including those of the base.
        downloads: the published files it is fetched from and the networks each holds, by file name.
        models: settings by model.
        perceptors: the names of its CLIPs, of whose losses LatentRevisions takes the mean; "clip" first.
    """

    name: str
    description: str
    draws: str
    examples: Mapping[str, Sequence[str]]
    folder: Path
    base: str | None
    files: Mapping[str, WeightFile]
    absent: Mapping[str, WeightFile]
    downloads: Mapping[str, tuple[Download, tuple[str, ...]]]
    models: Mapping[str, Mapping[str, Any]]
    perceptors: tuple[str, ...]

    @classmethod
    def find(cls, name: str, manifest: Path | None = None) -> WeightSet:
        """The set `name`: a section of the manifest, else a folder of WEIGHTS_DIR. Reads no weights.

        Args:
            manifest: used in place of the project's; folders of sets are then looked up beside it.

        Raises:
            UnknownSetError: if there is no such set.
            WeightsError: for a manifest or a lock that is not valid.
        """
        catalogue = manifest or FOLDER / "manifest.toml"
        return _find(name, catalogue, manifest.parent if manifest else weights_dir(), ())

    @property
    def own_files(self) -> dict[str, WeightFile]:
        """The files that do not come from the base."""
        return {network: file for network, file in self.files.items() if file.owner == self.name}

    @property
    def optional(self) -> list[str]:
        """The names of the optional networks, fetched or not."""
        return [network for network, file in {**self.files, **self.absent}.items() if file.optional]

    def read(self, network: str) -> dict[str, torch.Tensor]:
        """The tensors of a network of this set.

        Raises:
            WeightsError: if the set does not have it, or its file cannot be used.
        """
        if network not in self.files:
            raise WeightsError(f"weights: the set {self.name!r} has no {network}")
        return self.files[network].read()

    def check_present(self, networks: Mapping[str, NetworkSpec]) -> None:
        """Check that the files of these networks exist, unless they are optional; reads none.

        Raises:
            WeightsError: naming the file that is missing and the remedy.
        """
        for name, network in networks.items():
            file = self.files.get(name)
            if file is not None and not network.optional and not file.path.exists():
                file.check()

    def settings(self, model: str, kind: type[S]) -> S:
        """A model's hyperparameters, as the dataclass `kind`, whose defaults are the published values.

        A field with the metadata `formerly` is accepted under that name too.

        Raises:
            WeightsError: for one the model does not have, or of another type than its default.
        """
        given = self.models.get(model, {})
        known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
        renamed = [entry for entry in known.values() if "formerly" in entry.metadata]
        known |= {entry.metadata["formerly"]: entry for entry in renamed}
        if unknown := given.keys() - known.keys():
            raise WeightsError(
                f"weights: the set {self.name!r} has unknown settings {sorted(unknown)} of {model}"
            )
        for setting, value in given.items():
            wanted = type(known[setting].default)
            if type(value) is not wanted and (wanted, type(value)) != (float, int):
                raise WeightsError(
                    f"weights: the set {self.name!r} says {setting} = {value!r} of {model}; it must be "
                    f"of type {wanted.__name__}, as in {known[setting].default!r}"
                )
        return kind(**{known[setting].name: value for setting, value in given.items()})


def is_shipped(name: str) -> bool:
    """Whether a set comes with the project, described in weights/manifest.toml."""
    return name in read_manifest(FOLDER / "manifest.toml")


def set_names() -> list[str]:
    """The names of all sets: the project's first, then your own."""
    return _names(read_manifest(FOLDER / "manifest.toml"), weights_dir())


def _find(name: str, catalogue: Path, folder: Path, derived: tuple[str, ...]) -> WeightSet:
    """As `WeightSet.find`; `derived` are the sets that have `name` as their base, directly or not."""
    shipped = read_manifest(catalogue)
    if name not in _names(shipped, folder):
        existing = ", ".join(_names(shipped, folder))
        raise UnknownSetError(f"weights: there is no set {name!r} in {catalogue}; there are {existing}")
    home = folder / name
    manifest = catalogue if name in shipped else home / "manifest.toml"
    section = Section.parse(shipped[name] if name in shipped else read_manifest(manifest), name, manifest)
    files = _files(name, section, manifest, home)
    draws = section.draws
    examples: Mapping[str, Sequence[str]] = section.examples
    absent = {network: file for network, file in files.items() if file.optional and not file.path.exists()}
    files = {network: file for network, file in files.items() if network not in absent}
    models: Mapping[str, Mapping[str, Any]] = section.models
    perceptors = section.perceptors
    if section.base is not None:
        if section.base in (*derived, name):
            raise WeightsError(f"{manifest}: base: {section.base!r} is itself based on {name!r}")
        base = _find(section.base, catalogue, folder, (*derived, name))
        if not files:  # networks of its own may draw something else
            draws, examples = draws or base.draws, examples or base.examples
        absent = {network: base.absent[network] for network in base.absent.keys() - files.keys()} | absent
        files, models = _inherit(base, files, models)
        perceptors = perceptors or list(base.perceptors)
    try:
        networks = section.networks_by_download()
    except ValueError as error:
        raise WeightsError(f"{manifest}: the set {name!r}: {error}") from error
    downloads = {file_name: (section.downloads[file_name], networks[file_name]) for file_name in networks}
    clips = tuple(perceptors or ["clip"])
    about = section.description, draws, examples, home, section.base
    return WeightSet(name, *about, files, absent, downloads, models, clips)


def _files(name: str, section: Section, manifest: Path, home: Path) -> dict[str, WeightFile]:
    """A set's files without those of its base: the manifest's, and what was converted into its folder."""
    verified = Lock.read(home).files
    entries = section.files
    own = manifest.parent == home
    if own:
        entries = {network: FileEntry() for network in verified} | entries
    remedy = _remedy(name, section, own)
    files = {}
    for network, entry in entries.items():
        path = manifest.parent / entry.path if entry.path else home / f"{network}.safetensors"
        if not NAME.fullmatch(network) or (own and not _is_inside(path, home)):
            raise WeightsError(
                f"{manifest}: the set {name!r}: the file of {network!r} is {str(path)!r}; it must be in the "
                "set's folder, also when symbolic links are resolved"
            )
        files[network] = _file(name, path, entry, verified.get(network), remedy)
    return files


def _file(owner: str, path: Path, entry: FileEntry, verified: VerifiedFile | None, remedy: str) -> WeightFile:
    """A file by what the manifest says of it, else by what the lock does."""
    sha256, size, trained_with = entry.sha256, entry.size, frozenset(entry.trained_with)
    if verified is not None:
        sha256 = sha256 or verified.sha256
        size = verified.size if size is None else size
        trained_with = trained_with or frozenset(verified.trained_with)
    licence, optional, beside = entry.licence, entry.optional, frozenset(entry.beside)
    return WeightFile(owner, path, sha256, size, licence, trained_with, optional, beside, remedy, verified)


def _remedy(name: str, section: Section, own: bool) -> str:
    """What to do about a file of a set that is missing or damaged."""
    if section.downloads:
        return f"run `python -m mead weights fetch {name}`"
    if own:
        return f"convert it again with `python -m mead weights convert FILE --name {name}`"
    if is_checkout():
        return "restore it with `git checkout -- weights`"
    return "install mead-backend again (`pip install --force-reinstall --no-deps`)"


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a path with a NUL
        return False


def _inherit(
    base: WeightSet, files: Mapping[str, WeightFile], models: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, WeightFile], dict[str, dict[str, Any]]]:
    """Files and settings, with the base's where the set has none.

    A network of the base is left out where the set replaces one that it was trained with.
    """
    inherited = {
        network: file for network, file in base.files.items() if not file.trained_with & files.keys()
    }
    settings = {model: dict(values) for model, values in base.models.items()}
    for model, values in models.items():
        settings[model] = settings.get(model, {}) | dict(values)
    return inherited | dict(files), settings


def _names(shipped: Mapping[str, Any], folder: Path) -> list[str]:
    own = sorted(path.parent.name for path in folder.glob("*/manifest.toml"))
    return [*shipped, *(name for name in own if NAME.fullmatch(name) and name not in shipped)]
