"""What manifests say: the sets of weights, their files and where to download them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from mead.weights.errors import WeightsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What sets, networks and published files may be called."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _one_clip_and_others(names: list[str]) -> list[str]:
    if not names or names[0] != "clip":
        raise ValueError('the first must be "clip"')
    for name in names[1:]:
        if not re.fullmatch(r"clip-[A-Za-z0-9._-]+", name) or names.count(name) > 1:
            raise ValueError(f"{name!r} must be another CLIP, named clip-NAME, and be there once")
    return names


class StrictModel(BaseModel):
    """Part of a manifest or a lock. Unknown fields are errors, so that typing mistakes are found."""

    model_config = ConfigDict(extra="forbid")


class Download(StrictModel):
    """A published file."""

    mirrors: list[str] = Field(min_length=1)
    """URLs, in the order in which they are tried."""
    sha256: Annotated[list[Sha256], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = []
    """Accepted checksums (some files were published twice); empty if none is known."""
    size: int = Field(0, ge=0)
    """Approximate size in bytes; the checksum decides."""
    licence: str = ""


class FileEntry(StrictModel):
    """A network's file."""

    path: str | None = None
    """Relative to the manifest; NETWORK.safetensors in the set's folder if left out."""
    sha256: Sha256 | None = None
    size: int | None = None
    """Bytes. For converted files this and sha256 are in the lock instead."""
    licence: str = ""
    loads: str = ""
    """No longer used: the class it is loaded as."""
    trained_with: list[str] = []
    """Networks it was trained with; it does not work with others in their place."""
    download: str | None = None
    """The published file it is converted from; one file may hold several networks."""
    beside: list[str] = []
    """Published files that are read with it, if a network's tensors are in several."""
    optional: bool = False
    """Whether it is only fetched when asked for, with `fetch --with`."""


class Section(StrictModel):
    """A set of weights."""

    description: str = ""
    draws: str = ""
    """What it can draw, in a sentence."""
    examples: dict[str, list[str]] = {}
    """Prompts that work, by model."""
    base: str | None = None
    """The set that provides the networks and settings this one does not have."""
    downloads: dict[str, Download] = {}
    """By file name."""
    files: dict[str, FileEntry] = {}
    """By network."""
    perceptors: Annotated[list[str], AfterValidator(_one_clip_and_others)] | None = None
    """Its CLIPs, "clip" first, of whose losses LatentRevisions takes the mean; if left out, the base's, or
    else "clip" alone."""
    models: dict[str, dict[str, Any]] = {}
    """Settings by model: fields of `Settings` in that model's settings.py."""

    @classmethod
    def parse(cls, content: dict[str, Any], name: str, manifest: Path) -> Section:
        """The set `name`, as `manifest` describes it.

        Raises:
            WeightsError: naming the manifest, the set and the field that is wrong.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise WeightsError(f"{manifest}: the set {name!r}: {first_problem(error)}") from error

    def networks_by_download(self) -> dict[str, tuple[str, ...]]:
        """Which networks each published file holds, or a part of, by file name.

        Raises:
            ValueError: for a file whose download is not described, and a download that no file uses.
        """
        networks: dict[str, list[str]] = {file_name: [] for file_name in self.downloads}
        for network, entry in self.files.items():
            named = {"download": [entry.download] if entry.download else [], "beside": entry.beside}
            for field, file_name in ((field, name) for field, names in named.items() for name in names):
                if file_name not in networks:
                    raise ValueError(f"files.{network}.{field}: there is no download {file_name!r}")
                networks[file_name].append(network)
        for file_name, its_networks in networks.items():
            if not NAME.fullmatch(file_name):
                raise ValueError(f"downloads: {file_name!r} must be a plain file name")
            if not its_networks:
                raise ValueError(f"downloads: no file of the set has download = {file_name!r}")
        # what others need beside them is fetched first
        beside = {name for entry in self.files.values() for name in entry.beside}
        in_order = sorted(networks, key=lambda file_name: file_name not in beside)
        return {file_name: tuple(networks[file_name]) for file_name in in_order}


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest's content.

    Raises:
        WeightsError: naming the file, if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as "field: message"."""
    problem = error.errors()[0]
    return ": ".join([".".join(map(str, problem["loc"])), problem["msg"]])
