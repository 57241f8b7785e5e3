"""The sets of weights: what the manifest says of them, checking and loading their files.

Only safetensors files are read, which hold tensors and nothing that could run.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from mead.perceptor import Perceptor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent.parent / "weights"
S = TypeVar("S")


class WeightsError(RuntimeError):
    """Weights that are not there or not whole; the message names the file and says what to do."""


class UnknownSetError(WeightsError, ValueError):
    """The manifest has no such set."""


@dataclass(frozen=True)
class WeightFile:
    """One file of a set, as the manifest describes it."""

    path: Path
    sha256: str
    size: int  # bytes
    licence: str
    loads: str  # the class it is loaded as

    def read(self) -> dict[str, torch.Tensor]:
        """Check the file and return its tensors.

        Raises:
            WeightsError: when it is missing, cut off, changed or no safetensors file.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            raise WeightsError(f"{self.path} is missing; `git checkout -- weights` brings it back") from None
        if len(content) != self.size:
            raise WeightsError(
                f"{self.path} has {len(content):,} bytes instead of {self.size:,}; fetch it again"
            )
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise WeightsError(
                f"{self.path} is not the file the manifest names (sha256 differs); fetch it again"
            )
        try:
            return load(content)
        except SafetensorError as error:
            raise WeightsError(f"{self.path} is no safetensors file: {error}") from error


@dataclass(frozen=True)
class WeightSet:
    """A section of the manifest: files by network name, and settings by model."""

    name: str
    files: Mapping[str, WeightFile]
    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def find(cls, name: str, manifest: Path = FOLDER / "manifest.toml") -> WeightSet:
        """Read the section `name` of the manifest.

        Raises:
            UnknownSetError: when there is no such section.
        """
        sets = tomllib.loads(manifest.read_text("utf-8"))
        if name not in sets:
            raise UnknownSetError(
                f"weights: there is no set {name!r} in {manifest}; there are {', '.join(sets)}"
            )
        section = sets[name]
        files = {
            network: WeightFile(manifest.parent / entry.pop("path"), **entry)
            for network, entry in section.get("files", {}).items()
        }
        return cls(name, files, section.get("models", {}))

    def read(self, network: str) -> dict[str, torch.Tensor]:
        """The tensors of a network of this set.

        Raises:
            WeightsError: when the set does not have it, or its file is not whole.
        """
        if network not in self.files:
            raise WeightsError(f"weights: the set {self.name!r} has no {network}")
        return self.files[network].read()

    def settings(self, model: str, kind: type[S]) -> S:
        """The set's settings of a model, as the dataclass `kind`, whose defaults are the published ones.

        Raises:
            WeightsError: for a setting the model does not have.
        """
        given = dict(self.models.get(model, {}))
        unknown = given.keys() - {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown:
            raise WeightsError(
                f"weights: the set {self.name!r} has unknown settings {sorted(unknown)} of {model}"
            )
        return kind(**given)


@functools.cache
def load_perceptor(weights: str, device: str) -> Perceptor:
    """The CLIP of a set, on a device, shared by both models."""
    return Perceptor.from_state_dict(WeightSet.find(weights).read("clip")).to(device)
