"""Sets of weights: a file that is not what the manifest says is named, with what to do."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from LatentRevisions.hyperparameters import Hyperparameters as LatentRevisionsHyperparameters
from mead.registry import networks
from mead.weights.errors import WeightsError
from mead.weights.sets import FOLDER, WeightSet, weights_dir
from StyleCLIP.hyperparameters import Hyperparameters as StyleCLIPHyperparameters


@dataclass(frozen=True)
class Hyperparameters:
    steps: int = 100
    rate: float = 0.5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small" / "vqgan.safetensors"
    path.parent.mkdir()
    save_file({"weight": torch.arange(6.0).view(2, 3), "ids": torch.tensor([1, 2])}, path)
    return path


@pytest.fixture
def manifest(file: Path) -> Path:
    """A manifest whose set "small" has one file and settings of one model."""
    return write_manifest(file)


def write_manifest(file: Path) -> Path:
    """Describe `file` as it is now."""
    path = file.parent.parent / "manifest.toml"
    content = file.read_bytes()
    path.write_text(f"""
[small]
description = "For tests."

[small.files.vqgan]
path = "small/vqgan.safetensors"
sha256 = "{hashlib.sha256(content).hexdigest()}"
size = {len(content)}
licence = "MIT"
loads = "LatentRevisions.vqgan.VQGAN"

[small.models.Painter]
steps = 7

[bare]
description = "Has nothing."
""")
    return path


def refused(manifest: Path, file: Path) -> str:
    """What is said of the set's one file, whose name is in it."""
    with pytest.raises(WeightsError, match=re.escape(str(file))) as caught:
        WeightSet.find("small", manifest).read("vqgan")
    return str(caught.value)


def test_reads_what_the_manifest_describes(manifest: Path) -> None:
    weights = WeightSet.find("small", manifest)
    assert weights.files["vqgan"].licence == "MIT"
    tensors = weights.read("vqgan")
    assert torch.equal(tensors["weight"], torch.arange(6.0).view(2, 3))
    assert torch.equal(tensors["ids"], torch.tensor([1, 2]))


def test_a_missing_file(manifest: Path, file: Path) -> None:
    file.unlink()
    assert "is missing; restore it with `git checkout -- weights`" in refused(manifest, file)


@pytest.mark.parametrize("left", [0, 9, -1])
def test_a_file_that_is_cut_off(manifest: Path, file: Path, left: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:left])
    said = refused(manifest, file)
    assert (
        f"{len(content[:left])} bytes instead of {len(content)}" in said
        and "restore it with `git checkout -- weights`" in said
    )


def test_a_file_with_one_changed_byte(manifest: Path, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    said = refused(manifest, file)
    assert "sha256" in said and "restore it with `git checkout -- weights`" in said


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip, as torch.save writes", b"\xff" * 64])
def test_a_file_that_is_no_safetensors(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "is not a safetensors file" in refused(write_manifest(file), file)


def test_an_unknown_set_is_named_with_those_there_are(manifest: Path) -> None:
    with pytest.raises(WeightsError, match=r"no set 'none-such' in .*manifest\.toml; there are small, bare"):
        WeightSet.find("none-such", manifest)


@pytest.mark.parametrize("name", ["small", "bare"])
def test_a_network_the_set_does_not_have(manifest: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"the set '{name}' has no clip"):
        WeightSet.find(name, manifest).read("clip")


def test_settings_that_are_not_given_are_the_published_ones(manifest: Path) -> None:
    assert WeightSet.find("small", manifest).settings("Painter", Hyperparameters) == Hyperparameters(
        steps=7, rate=0.5
    )
    assert WeightSet.find("bare", manifest).settings("Painter", Hyperparameters) == Hyperparameters()


def test_a_renamed_setting_is_known_by_its_old_name_too(manifest: Path) -> None:
    text = manifest.read_text()
    for name in ("starts", "start_candidates"):
        manifest.write_text(f"{text}\n[small.models.LatentRevisions]\n{name} = 9\n")
        found = WeightSet.find("small", manifest).settings("LatentRevisions", LatentRevisionsHyperparameters)
        assert found == LatentRevisionsHyperparameters(start_candidates=9)
    manifest.write_text(f"{text}\n[small.models.LatentRevisions]\nstarts = 'all'\n")
    with pytest.raises(WeightsError, match="starts = 'all' of LatentRevisions; it must be of type int"):
        WeightSet.find("small", manifest).settings("LatentRevisions", LatentRevisionsHyperparameters)


def test_an_unknown_setting_is_named(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("steps", "stops"))
    with pytest.raises(WeightsError, match=r"'small' has unknown settings \['stops'\] of Painter"):
        WeightSet.find("small", manifest).settings("Painter", Hyperparameters)


def test_the_demo_set_is_whole() -> None:
    demo = WeightSet.find("demo")
    names = {"mapper_*" if name.startswith("mapper_") else name for name in demo.files}
    assert names == networks().keys()
    for network in demo.files:
        demo.read(network)
    assert sum(file.size or 0 for file in demo.files.values()) <= 40_000_000
    demo.settings("LatentRevisions", LatentRevisionsHyperparameters)
    demo.settings("StyleCLIP", StyleCLIPHyperparameters)


def test_the_folder_of_weights_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)
    assert weights_dir() == FOLDER
    for given, meant in (("", FOLDER), (str(tmp_path), tmp_path), ("~/w", Path.home() / "w")):
        monkeypatch.setenv("WEIGHTS_DIR", given)
        assert weights_dir() == meant.resolve()
    monkeypatch.setenv("WEIGHTS_DIR", "~no-such-user/weights")
    with pytest.raises(WeightsError, match=r"^WEIGHTS_DIR: '~no-such-user/weights' is not a usable path: "):
        weights_dir()
