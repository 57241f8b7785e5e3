"""The sets of weights: what their manifests say, checking and loading their files.

`weights/manifest.toml` describes the sets that come with the project. Sets of one's own are folders of
WEIGHTS_DIR, each with a `manifest.toml` of the same form. What was fetched or converted, and when it was last
verified, stands in the `lock.json` of the set's folder. Only safetensors files are read, which hold tensors
and nothing that could run; PyTorch is imported when they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from mead.installation import is_checkout, shipped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import torch

FOLDER = shipped("weights")
"""What comes with the project: the manifest and the demo weights."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a set and a published file may be called."""

S = TypeVar("S")
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class WeightsError(RuntimeError):
    """Weights that are not there or not whole; the message names the file and says what to do."""


class UnknownSetError(WeightsError, ValueError):
    """There is no set of that name."""


def weights_dir() -> Path:
    """Where fetched weights and one's own are: WEIGHTS_DIR in the environment, else the checkout's folder.

    Where the package is installed, whose folder may be read-only: the user's own, by the XDG Base Directory
    Specification.

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


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write `path` under, which becomes its name at the end, if nothing goes wrong."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors' writer lets nobody else read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Entry(BaseModel):
    """Part of a manifest or a lock. Unknown names are errors, so that a typing mistake never passes."""

    model_config = ConfigDict(extra="forbid")


class Download(_Entry):
    """A published file, as a manifest describes it."""

    mirrors: list[str] = Field(min_length=1)
    """Addresses, the first choice first."""
    sha256: Annotated[list[Sha256], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = []
    """Those it may have (some files were published twice); none when no one knows it."""
    size: int = Field(0, ge=0)
    """Bytes, for planning; the checksum decides."""
    licence: str = ""


class FileEntry(_Entry):
    """A network's file, as a manifest describes it."""

    path: str | None = None
    """Relative to the manifest; NETWORK.safetensors in the set's folder when left out."""
    sha256: Sha256 | None = None
    size: int | None = None
    """Bytes. This and sha256 stand in the lock where the file is converted here."""
    licence: str = ""
    loads: str = ""
    """Not read any more: the class it is loaded as."""
    trained_with: list[str] = []
    """Networks it only works beside if they are the very ones it was trained with."""
    download: str | None = None
    """The published file it is converted from; one file may hold several networks."""


class Section(_Entry):
    """A set, as a manifest describes it."""

    description: str = ""
    base: str | None = None
    """The set that lends the networks and settings this one does not have."""
    downloads: dict[str, Download] = {}
    """By file name."""
    files: dict[str, FileEntry] = {}
    """By network."""
    models: dict[str, dict[str, Any]] = {}
    """By model: fields of `Hyperparameters` in that model's hyperparameters.py."""


class Pin(_Entry):
    """A published file as it was when it was first downloaded; it is held to that from then on."""

    sha256: Sha256
    size: int
    url: str
    """Where it came from; empty when it was put there by hand."""
    fetched: datetime


class Record(_Entry):
    """A file of weights as it was when it was last verified."""

    sha256: Sha256
    size: int
    modified: int
    """The file's time of modification, in nanoseconds."""
    verified: datetime
    source: str = ""
    """The file it was converted from."""
    trained_with: list[str] = []
    """As in `FileEntry`."""

    @classmethod
    def of(cls, path: Path, source: str = "", trained_with: Iterable[str] = ()) -> Record:
        """The record of a file as it is now; reads all of it."""
        status = path.stat()
        return cls(
            sha256=sha256_of(path),
            size=status.st_size,
            modified=status.st_mtime_ns,
            verified=now(),
            source=source,
            trained_with=sorted(trained_with),
        )


class Lock(_Entry):
    """`lock.json` of a set: the downloads it is held to, by file name, and its files, by network."""

    downloads: dict[str, Pin] = {}
    files: dict[str, Record] = {}

    @classmethod
    def read(cls, folder: Path) -> Lock:
        """The lock of the set in `folder`; empty when it has none yet.

        Raises:
            WeightsError: for a file that is no lock.
        """
        path = folder / "lock.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise WeightsError(
                f"{path} is damaged ({_first(error)}); delete it, and fetch or convert the set again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write it whole; the caller holds the set's `exclusive` lock (see mead/weights/fetch.py)."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / "lock.json") as part:
            part.write_text(self.model_dump_json(indent=2) + "\n", "utf-8")


@dataclass(frozen=True)
class WeightFile:
    """One network's file.

    Attributes:
        owner: the name of the set it is of, which may be the base of the set asked for.
        sha256, size: what it must have (bytes); None as long as it was never fetched or converted.
        licence: in a few words.
        trained_with: networks it only works beside if they are the very ones it was trained with.
        remedy: what brings it back.
        record: how it was when it was last verified, if it was.
    """

    owner: str
    path: Path
    sha256: str | None
    size: int | None
    licence: str
    trained_with: frozenset[str]
    remedy: str
    record: Record | None

    def check(self, thoroughly: bool = False) -> None:
        """See that the file is there, whole and unchanged.

        Its sha256 is computed unless the file has the size and the time of modification it had when it was
        last verified; `thoroughly` computes it always.

        Raises:
            WeightsError: naming the file and what to do.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise WeightsError(f"{self.path} is missing; {self.remedy}") from None
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{self.path} is no file but a folder, a pipe or a device; {self.remedy}")
        if self.size is None or self.sha256 is None:
            raise WeightsError(
                f"{self.path} cannot be checked: the lock.json that came with it is missing; {self.remedy}"
            )
        if status.st_size != self.size:
            raise WeightsError(
                f"{self.path} has {status.st_size:,} bytes instead of {self.size:,}; {self.remedy}"
            )
        seen = self.record and (self.record.sha256, self.record.modified)
        if seen == (self.sha256, status.st_mtime_ns) and not thoroughly:
            return
        if sha256_of(self.path) != self.sha256:
            raise WeightsError(f"{self.path} is not the file it should be (sha256 differs); {self.remedy}")

    def read(self) -> dict[str, torch.Tensor]:
        """Check the file and return its tensors, which are mapped: they take no memory until they are used.

        Raises:
            WeightsError: when it is missing, cut off, changed or no safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.check()
        try:
            return load_file(self.path)
        except SafetensorError as error:
            raise WeightsError(f"{self.path} is no safetensors file ({error}); {self.remedy}") from error


@dataclass(frozen=True)
class WeightSet:
    """A set of weights.

    Attributes:
        folder: where its lock is, and what was fetched or converted.
        base: the name of the set that lends what this one does not have.
        files: by network; those of the base among them.
        downloads: the published files it is fetched from, by file name, and which networks each holds.
        models: settings by model.
    """

    name: str
    description: str
    folder: Path
    base: str | None
    files: Mapping[str, WeightFile]
    downloads: Mapping[str, tuple[Download, tuple[str, ...]]]
    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def find(cls, name: str, manifest: Path | None = None) -> WeightSet:
        """The set `name`: a section of the manifest, else a folder of WEIGHTS_DIR. Reads no weights.

        Args:
            manifest: another one than the project's; the folders of sets are then looked for beside it.

        Raises:
            UnknownSetError: when there is no such set.
            WeightsError: for a manifest or a lock that cannot be understood.
        """
        catalogue = manifest or FOLDER / "manifest.toml"
        return _find(name, catalogue, manifest.parent if manifest else weights_dir(), heirs=())

    @property
    def own_files(self) -> dict[str, WeightFile]:
        """The files that are not lent by the base."""
        return {network: file for network, file in self.files.items() if file.owner == self.name}

    def read(self, network: str) -> dict[str, torch.Tensor]:
        """The tensors of a network of this set.

        Raises:
            WeightsError: when the set does not have it, or its file is not whole.
        """
        if network not in self.files:
            raise WeightsError(f"weights: the set {self.name!r} has no {network}")
        return self.files[network].read()

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
    """Whether a set is one of the project's own, described in weights/manifest.toml."""
    return name in _read(FOLDER / "manifest.toml")


def set_names() -> list[str]:
    """The names of all sets: those of the project first, then one's own."""
    return _names(_read(FOLDER / "manifest.toml"), weights_dir())


def _find(name: str, catalogue: Path, folder: Path, heirs: tuple[str, ...]) -> WeightSet:
    shipped = _read(catalogue)
    if name not in _names(shipped, folder):
        there = ", ".join(_names(shipped, folder))
        raise UnknownSetError(f"weights: there is no set {name!r} in {catalogue}; there are {there}")
    home = folder / name
    manifest = catalogue if name in shipped else home / "manifest.toml"
    try:
        section = Section.model_validate(shipped[name] if name in shipped else _read(manifest))
    except ValidationError as error:
        raise WeightsError(f"{manifest}: the set {name!r}: {_first(error)}") from error
    files = _files(name, section, manifest, home)
    models: Mapping[str, Mapping[str, Any]] = section.models
    if section.base is not None:
        if section.base in (*heirs, name):
            raise WeightsError(f"{manifest}: base: {section.base!r} stands on {name!r} already")
        base = _find(section.base, catalogue, folder, (*heirs, name))
        files, models = _inherit(base, files, models)
    return WeightSet(
        name, section.description, home, section.base, files, _downloads(name, section, manifest), models
    )


def _files(name: str, section: Section, manifest: Path, home: Path) -> dict[str, WeightFile]:
    """A set's files without those of its base: the manifest's, and what was converted into its folder."""
    records = Lock.read(home).files
    entries = section.files
    remedy = "`git checkout -- weights` brings it back"
    if not is_checkout():
        remedy = "installing mead-backend again brings it back (`pip install --force-reinstall --no-deps`)"
    own = manifest.parent == home
    if own:
        entries = {network: FileEntry() for network in records} | entries
        remedy = f"`python -m mead weights convert FILE --name {name}` makes it anew"
    if section.downloads:
        remedy = f"`python -m mead weights fetch {name}` brings it back"
    files = {}
    for network, entry in entries.items():
        path = manifest.parent / entry.path if entry.path else home / f"{network}.safetensors"
        if not NAME.fullmatch(network) or (own and not _is_inside(path, home)):
            raise WeightsError(
                f"{manifest}: the set {name!r}: the file of {network!r} is {str(path)!r}; it must lie in "
                f"the set's folder, and no link may lead out of it"
            )
        record = records.get(network)
        files[network] = WeightFile(
            owner=name,
            path=path,
            sha256=entry.sha256 or (record.sha256 if record else None),
            size=entry.size if entry.size is not None else (record.size if record else None),
            licence=entry.licence,
            trained_with=frozenset(entry.trained_with or (record.trained_with if record else [])),
            remedy=remedy,
            record=record,
        )
    return files


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, no path at all
        return False


def _inherit(
    base: WeightSet, files: Mapping[str, WeightFile], models: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, WeightFile], dict[str, dict[str, Any]]]:
    """Files and settings, with the base's where they leave something open.

    A network is not lent to others than those it was trained with.
    """
    lent = {network: file for network, file in base.files.items() if not file.trained_with & files.keys()}
    settings = {model: dict(values) for model, values in base.models.items()}
    for model, values in models.items():
        settings[model] = settings.get(model, {}) | dict(values)
    return lent | dict(files), settings


def _downloads(name: str, section: Section, manifest: Path) -> dict[str, tuple[Download, tuple[str, ...]]]:
    made_of: dict[str, list[str]] = {file_name: [] for file_name in section.downloads}
    for network, entry in section.files.items():
        if entry.download is not None:
            if entry.download not in made_of:
                raise WeightsError(
                    f"{manifest}: the set {name!r}: {network} names a download it does not have: "
                    f"{entry.download!r}"
                )
            made_of[entry.download].append(network)
    for file_name, networks in made_of.items():
        if not networks or not NAME.fullmatch(file_name):
            raise WeightsError(
                f"{manifest}: the set {name!r}: the download {file_name!r} must be a plain file name that "
                "one of the set's files names as its download"
            )
    return {
        file_name: (download, tuple(made_of[file_name])) for file_name, download in section.downloads.items()
    }


def _names(shipped: Mapping[str, Any], folder: Path) -> list[str]:
    own = sorted(path.parent.name for path in folder.glob("*/manifest.toml"))
    return [*shipped, *(name for name in own if NAME.fullmatch(name) and name not in shipped)]


def _read(manifest: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{manifest} cannot be read: {error}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return ": ".join([".".join(map(str, problem["loc"])), problem["msg"]])
