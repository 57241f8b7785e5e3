"""Bringing weights in: a set from its mirrors, a checkpoint of one's own. The networks are the demo set's."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from LatentRevisions.hyperparameters import Hyperparameters as LatentRevisionsHyperparameters
from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.mixer import Mixer
from mead import registry
from mead.nn.perceptor import expand
from mead.params import Range
from mead.registry import networks
from mead.weights.building import build_network
from mead.weights.checkpoints import CheckpointError
from mead.weights.disk import DiskFullError
from mead.weights.download import RetryPolicy
from mead.weights.errors import DownloadError, WeightsError
from mead.weights.fetch import fetch, space_needed
from mead.weights.lock import Lock
from mead.weights.own_sets import add_checkpoint
from mead.weights.sets import FOLDER, WeightSet, set_names
from mead.weights.verify import CheckResult, verify
from StyleCLIP.choices import choices
from StyleCLIP.hyperparameters import Hyperparameters as StyleCLIPHyperparameters
from tests import full_size, originals, parity
from tests.mead.weights.test_download import CONFIRM, page
from tests.mirror import Mirror, cut_at, halt_at, mirror, status

HURRIED = RetryPolicy(attempts=3, first_pause=0.001, timeout=20)
PUBLISHED = {
    "clip.pt": ("clip",),
    "vqgan.ckpt": ("vqgan",),
    "e4e.pt": ("stylegan2", "e4e"),
    "ir_se50.pth": ("identity",),
}
LIMIT = 60  # seconds for what another thread or process does


@dataclass
class Said:
    """Keeps what progress was told; `waiting` is set once somebody waits for another process."""

    lines: list[str] = field(default_factory=list)
    waiting: threading.Event = field(default_factory=threading.Event)

    def show(self, name: str, done: int, total: int | None) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)
        if "waiting for it to finish" in line:
            self.waiting.set()


ONLY_DEMO = {"start", "denoiser", "mapper", "face", "sliders"} | {
    name for name in WeightSet.find("demo", FOLDER / "manifest.toml").files if name.startswith("mapper_")
}
"""Networks that are not published, or not like this."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The demo networks, each in the format its like is published in."""
    folder = tmp_path_factory.mktemp("published")
    demo = {
        network: file.read()
        for network, file in WeightSet.find("demo", FOLDER / "manifest.toml").files.items()
    }
    average = demo["e4e"].pop("latent_avg")
    originals.clip(expand(demo["clip"]), folder / "clip.pt")
    originals.vqgan({key: value for key, value in demo["vqgan"].items() if "." in key}, folder / "vqgan.ckpt")
    originals.e4e(demo["e4e"], demo["stylegan2"], average, folder / "e4e.pt")
    originals.identity(demo["identity"], folder / "ir_se50.pth")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty WEIGHTS_DIR."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("WEIGHTS_DIR", str(folder))
    return folder


@pytest.fixture
def server(published: dict[str, bytes]) -> Iterator[Mirror]:
    """A mirror of all that is published."""
    with mirror() as server:
        for name, content in published.items():
            server.add(f"/{name}", content)
        yield server


def describe(
    folder: Path, server: Mirror, *names: str, checksums: bool = True, more: str = "", first: str = ""
) -> Path:
    """Write the manifest of a set "local" of some published files (all when none is named).

    Args:
        checksums: whether it says them.
        more: put before everything else.
        first: path of a mirror that is asked before the right one.
    """
    lines = [more]
    for name in names or PUBLISHED:
        content = server.files[f"/{name}"].content
        mirrors = [server.url(path) for path in (first, f"/{name}") if path]
        lines += [
            f'[downloads."{name}"]',
            f"mirrors = {mirrors}",
            f"size = {len(content)}",
            'licence = "MIT"',
        ]
        if checksums:
            lines.append(f'sha256 = "{hashlib.sha256(content).hexdigest()}"')
        for network in PUBLISHED[name]:
            lines += [f"[files.{network}]", f'download = "{name}"']
    (folder / "local").mkdir(exist_ok=True)
    manifest = folder / "local" / "manifest.toml"
    manifest.write_text("\n".join(lines))
    return manifest


def asked(server: Mirror) -> int:
    """How many requests there were so far."""
    return sum(len(file.asked) for file in server.files.values())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_a_set_is_fetched_converted_and_then_like_any_other(folder: Path, server: Mirror) -> None:
    describe(folder, server)
    weights = fetch("local", Said(), retry=HURRIED)
    demo = WeightSet.find("demo")
    assert weights.files.keys() == demo.files.keys() - {*ONLY_DEMO, "upscaler", "directions"}
    for network in ("stylegan2", "e4e", "identity"):
        assert same(weights.read(network), demo.read(network))
    lock = Lock.read(folder / "local")
    assert lock.downloads.keys() == PUBLISHED.keys()
    assert lock.downloads["clip.pt"].url == server.url("/clip.pt")
    assert lock.files["stylegan2"].source == "e4e.pt"
    made = {f"{network}.{kind}" for network in weights.files for kind in ("safetensors", "json")}
    assert {path.name for path in (folder / "local").iterdir()} == {
        *made,
        "manifest.toml",
        "lock.json",
        ".lock",
    }

    results: list[CheckResult] = []
    assert verify("local", results.append)
    assert [result.subject for result in results[-2:]] == ["LatentRevisions", "StyleCLIP"]

    before = asked(server)
    fetch("local", Said(), retry=HURRIED)
    assert asked(server) == before


def test_the_published_files_can_be_kept(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    fetch("local", Said(), keep_original=True)
    kept = folder / "local" / "originals" / "ir_se50.pth"
    assert kept.read_bytes() == server.files["/ir_se50.pth"].content
    (folder / "local" / "identity.safetensors").unlink()
    before = asked(server)
    fetch("local", Said(), keep_original=True)
    assert asked(server) == before and kept.exists()


def test_without_a_checksum_the_first_download_is_what_counts(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth", checksums=False)
    fetch("local", Said())
    content = server.files["/ir_se50.pth"].content
    assert Lock.read(folder / "local").downloads["ir_se50.pth"].sha256 == hashlib.sha256(content).hexdigest()

    other = {key: value + 1 for key, value in WeightSet.find("local").read("identity").items()}
    originals.identity(other, folder / "other.pth")
    server.add("/ir_se50.pth", (folder / "other.pth").read_bytes())
    (folder / "local" / "identity.safetensors").unlink()
    said = Said()
    with pytest.raises(DownloadError, match="wrong checksum"):
        fetch("local", said, retry=HURRIED)
    assert any(
        "must be the same file as first downloaded" in line and "lock.json" in line for line in said.lines
    )
    assert not (folder / "local" / "identity.safetensors").exists()

    server.add("/ir_se50.pth", content)
    fetch("local", Said())
    WeightSet.find("local").read("identity")


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("kind", ["page", "cut", "bomb", "other"])
def test_without_a_checksum_nothing_is_pinned_that_is_not_the_network(
    folder: Path, server: Mirror, kind: str
) -> None:
    """The first mirror sends an error page, part of the file, a file that would run code, another network."""
    good = server.files["/ir_se50.pth"].content
    content = {
        "page": b"<!doctype html><title>Quota exceeded</title>",
        "cut": good[: len(good) // 2],
        "bomb": pickle.dumps({"state_dict": Bomb(folder / "ran")}),
        "other": server.files["/e4e.pt"].content,
    }[kind]
    wrong = server.add("/wrong", content)
    describe(folder, server, "ir_se50.pth", checksums=False, first="/wrong")
    said = Said()
    weights = fetch("local", said, retry=HURRIED)
    assert same(weights.read("identity"), WeightSet.find("demo").read("identity"))
    assert Lock.read(weights.folder).downloads["ir_se50.pth"].sha256 == hashlib.sha256(good).hexdigest()
    assert any(f"{wrong}: not the right file" in line for line in said.lines)
    assert not (folder / "ran").exists()


def test_a_published_file_that_is_not_what_the_manifest_says_it_is(folder: Path, server: Mirror) -> None:
    server.add("/ir_se50.pth", server.files["/clip.pt"].content)
    describe(folder, server, "ir_se50.pth")
    with pytest.raises(
        WeightsError, match=r"ir_se50\.pth does not hold identity, only clip \(although its checksum"
    ):
        fetch("local", Said())
    assert not Lock.read(folder / "local").files


def test_a_file_brought_by_hand_needs_no_network(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    by_hand = folder / "local" / "originals" / "ir_se50.pth"
    by_hand.parent.mkdir()
    by_hand.write_bytes(b"not it")
    with pytest.raises(
        WeightsError, match=r"originals/ir_se50\.pth is not the published file: its sha256 is"
    ):
        fetch("local", Said())
    by_hand.write_bytes(server.files["/ir_se50.pth"].content)
    fetch("local", Said())
    WeightSet.find("local").read("identity")
    assert asked(server) == 0 and not by_hand.exists()


def test_an_interrupted_download_is_resumed(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth", "e4e.pt")
    server.files["/e4e.pt"].faults = [cut_at(900_000), *[status(503)] * 3]
    with pytest.raises(DownloadError, match=r"e4e\.pt could not be downloaded \(0\.\d MB of it are kept"):
        fetch("local", Said(), retry=HURRIED)
    WeightSet.find("local").read("identity")  # the one before is ready
    with pytest.raises(
        WeightsError, match=r"e4e\.safetensors is missing; run `python -m mead weights fetch local`"
    ):
        WeightSet.find("local").read("e4e")
    fetch("local", Said(), retry=HURRIED)
    assert int(server.files["/e4e.pt"].asked[-1]["Range"][6:-1]) > 800_000
    assert len(server.files["/ir_se50.pth"].asked) == 1


@pytest.mark.parametrize("damage", ["byte", "end", "lock"])
def test_a_damaged_file_is_named_and_fetched_again(folder: Path, server: Mirror, damage: str) -> None:
    describe(folder, server, "ir_se50.pth")
    fetch("local", Said())
    path = folder / "local" / "identity.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "byte":
        content[-1] ^= 1
    elif damage == "end":
        del content[-1]
    else:
        path = folder / "local" / "lock.json"
        content = bytearray(b"{")
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=str(path)):
        WeightSet.find("local").read("identity")
    if damage == "lock":
        path.unlink()
    fetch("local", Said())
    WeightSet.find("local").read("identity")
    assert len(server.files["/ir_se50.pth"].asked) == 2


def test_two_at_once_fetch_once(folder: Path, server: Mirror) -> None:
    half, go_on = threading.Event(), threading.Event()
    server.files["/ir_se50.pth"].faults = [halt_at(100_000, half, go_on)]
    describe(folder, server, "ir_se50.pth")
    first = threading.Thread(target=fetch, args=("local", Said()))
    said = Said()
    second = threading.Thread(target=fetch, args=("local", said))
    first.start()
    assert half.wait(LIMIT)
    second.start()
    assert said.waiting.wait(LIMIT)
    go_on.set()
    for thread in (first, second):
        thread.join(LIMIT)
    assert f"{folder / 'local'} is in use by another process (pid {os.getpid()})" in said.lines[0]
    assert asked(server) == 1
    WeightSet.find("local").read("identity")


def test_too_little_disk_space_is_reported_before_any_download(folder: Path, server: Mirror) -> None:
    manifest = describe(folder, server)
    text = manifest.read_text()
    manifest.write_text(text.replace("size = ", "size = 9000000"))
    with pytest.raises(
        DiskFullError, match=r"needs .* GB of free disk space and has .*; free some space, or set WEIGHTS_DIR"
    ):
        fetch("local", Said())
    assert asked(server) == 0


def test_the_base_is_fetched_too(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    mine = folder / "mine"
    mine.mkdir()
    (mine / "manifest.toml").write_text('base = "local"\n')
    weights = fetch("mine", Said())
    assert weights.files["identity"].owner == "local"
    assert set_names() == ["demo", "full", "local", "mine"]


def test_the_full_set_is_described() -> None:
    full = WeightSet.find("full", FOLDER / "manifest.toml")
    mappers = {name for name in full.absent if name.startswith("mapper_")}
    assert len(mappers) == 8 and "mapper_afro" in mappers
    assert full.files.keys() | full.absent.keys() == {
        *mappers,
        *networks().keys() - {"denoiser", "mapper", "face", "mapper_*"},
    }
    assert set(full.optional) == {"start", "upscaler", "directions", "sliders", *mappers}
    for name, (published, of) in full.downloads.items():
        assert all(url.startswith("https://") for url in published.mirrors) and published.licence
        if not {"start", "sliders", *mappers}.intersection(of):  # which were published once
            assert len(published.mirrors) >= 2 and published.size and (published.sha256 or name == "fs3.npy")
    assert full.downloads["e4e_ffhq_encode.pt"][1] == ("stylegan2", "e4e")
    needed = [published.size for published, of in full.downloads.values() if not {*of} <= {*full.optional}]
    assert sum(needed) < 3e9
    for weights in (full, WeightSet.find("demo")):
        trained_with = {network: registry.network(network).trained_with for network in weights.files}
        assert {network: file.trained_with for network, file in weights.files.items()} == trained_with
    assert (
        full.settings("LatentRevisions", LatentRevisionsHyperparameters) == LatentRevisionsHyperparameters()
    )
    assert full.settings("StyleCLIP", StyleCLIPHyperparameters) == StyleCLIPHyperparameters()


OPTIONAL = "realesr-general-x4v3.pth"


def with_upscaler(folder: Path, server: Mirror) -> None:
    """Add the published upscaler, with made-up weights, to the set "local"."""
    full_size.write(OPTIONAL, folder / OPTIONAL)
    content = (folder / OPTIONAL).read_bytes()
    with (folder / "local" / "manifest.toml").open("a") as manifest:
        manifest.write(f"""
[downloads."{OPTIONAL}"]
mirrors = ["{server.add(f"/{OPTIONAL}", content)}"]
sha256 = "{hashlib.sha256(content).hexdigest()}"
[files.upscaler]
download = "{OPTIONAL}"
optional = true
""")


def test_an_optional_network_is_fetched_when_asked_for(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    with_upscaler(folder, server)
    weights = fetch("local", Said())
    assert weights.own_files.keys() == {"identity"} and weights.absent.keys() == {"upscaler"}
    assert weights.optional == ["upscaler"] and not server.files[f"/{OPTIONAL}"].asked
    with pytest.raises(WeightsError, match="has no upscaler"):
        weights.read("upscaler")

    weights = fetch("local", Said(), optional=["upscaler"])
    assert weights.own_files.keys() == {"identity", "upscaler"} and not weights.absent
    numbers = full_size.errors("upscaler", build_network("upscaler", weights.read("upscaler")))
    assert numbers["upscaled"] < parity.TOLERANCE
    about = json.loads(weights.files["upscaler"].path.with_suffix(".json").read_text())
    assert about["hyperparameters"] == {"num_feat": 64, "num_conv": 32, "scale": 4}

    before = asked(server)
    fetch("local", Said())
    assert asked(server) == before
    path = weights.files["upscaler"].path
    path.write_bytes(path.read_bytes()[:-1])
    fetch("local", Said())  # which mends what is there
    WeightSet.find("local").read("upscaler")
    assert len(server.files[f"/{OPTIONAL}"].asked) == 2 and len(server.files["/ir_se50.pth"].asked) == 1


def test_an_optional_network_of_the_base_is_fetched_for_both(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    with_upscaler(folder, server)
    (folder / "mine").mkdir()
    (folder / "mine" / "manifest.toml").write_text('base = "local"\n')
    assert WeightSet.find("mine").optional == ["upscaler"]
    fetch("mine", Said(), optional=["upscaler"])
    assert WeightSet.find("mine").files["upscaler"].owner == "local"


def test_a_feed_forward_start_is_fetched_verified_and_used(folder: Path, server: Mirror) -> None:
    """One that fits the networks of the demo set, which provides the others."""
    shapes = {key: tensor.shape for key, tensor in Mixer(128, 8, 16, 24, 2, (32, 48)).state_dict().items()}
    originals.mixer(parity.fill(shapes, "fan_in"), folder / "start.th")
    url = server.add("/start.th", (folder / "start.th").read_bytes())
    (folder / "forward").mkdir()
    (folder / "forward" / "manifest.toml").write_text(f"""
base = "demo"
[downloads."start.th"]
mirrors = ["{url}"]
[files.start]
download = "start.th"
optional = true
trained_with = ["clip", "vqgan"]
""")
    assert fetch("forward", Said()).files["start"].owner == "demo"
    weights = fetch("forward", Said(), optional=["start"])
    assert weights.files["start"].owner == "forward" and "denoiser" not in weights.files
    said: list[CheckResult] = []
    assert verify("forward", said.append), said
    given = {"size": (96, 64), "iterations": 1, "seed": 1, "upscale": 1, "weights": "forward"}
    files = [
        Path(LatentRevisions("a red house", folder / "out", start=start, **given).run()).read_bytes()
        for start in ("learned", "learned", "noise")
    ]
    assert files[0] == files[1] != files[2]


def test_a_start_for_other_networks_is_refused(folder: Path) -> None:
    originals.mixer(parity.load("mixer_small").state_dict, folder / "start.th")
    add_checkpoint(folder / "start.th", "other-start", None, "demo", Said())
    said: list[CheckResult] = []
    assert not verify("other-start", said.append)
    problem = next(result.problem for result in said if result.subject == "LatentRevisions")
    assert "start turns embeddings of 64 numbers into latents of 16 channels; clip gives 128" in str(problem)


def with_directions(folder: Path, server: Mirror) -> None:
    """Add the published global directions, with made-up numbers, to the set "local": two files."""
    with (folder / "local" / "manifest.toml").open("a") as manifest:
        for name in ("fs3.npy", "S_mean_std"):
            full_size.write(name, folder / name)
            wrong = server.add(f"/wrong/{name}", b"<html>not here</html>")
            right = server.add(f"/{name}", (folder / name).read_bytes())
            manifest.write(f'\n[downloads."{name}"]\nmirrors = ["{wrong}", "{right}"]\n')
        manifest.write('[files.directions]\ndownload = "fs3.npy"\nbeside = ["S_mean_std"]\noptional = true\n')


def test_a_network_in_two_files(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    with_directions(folder, server)
    weights = fetch("local", Said())
    assert weights.absent.keys() == {"directions"} and not server.files["/S_mean_std"].asked

    weights = fetch("local", Said(), optional=["directions"])
    numbers = full_size.errors("directions", build_network("directions", weights.read("directions")))
    assert max(numbers.values()) < 1e-3, numbers  # the table is in half precision
    assert not (weights.folder / "originals").exists()
    assert Lock.read(weights.folder).downloads.keys() == {"ir_se50.pth", "fs3.npy", "S_mean_std"}

    before = asked(server)
    fetch("local", Said(), optional=["directions"])
    assert asked(server) == before


def test_when_the_second_file_is_missing_the_first_is_kept(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    with_directions(folder, server)
    content = server.files["/fs3.npy"].content
    server.files["/fs3.npy"].content = b"nothing"
    with pytest.raises(DownloadError, match=r"fs3\.npy could not be downloaded"):
        fetch("local", Said(), optional=["directions"], retry=HURRIED)
    server.files["/fs3.npy"].content = content
    assert "directions" in fetch("local", Said(), optional=["directions"], retry=HURRIED).files
    assert len(server.files["/S_mean_std"].asked) == 1


def test_mappers_and_sliders(folder: Path, server: Mirror) -> None:
    """A mapper behind Google Drive's page, and a slider for each of two files."""
    describe(folder, server, "ir_se50.pth")
    with (folder / "local" / "manifest.toml").open("a") as manifest:
        for name in ("mapper_afro.pt", "age.pt", "gender.npy"):
            full_size.write(name, folder / name)
            url = server.add(f"/{name}", (folder / name).read_bytes())
            if name == "mapper_afro.pt":
                server.files["/download?id=1a%26b&confirm=t&uuid=9-8"] = server.files[f"/{name}"]
                url = server.add("/uc", b"", page(CONFIRM.format("/download")))
            manifest.write(f'\n[downloads."{name}"]\nmirrors = ["{url}"]\n')
        manifest.write('[files.mapper_afro]\ndownload = "mapper_afro.pt"\noptional = true\n')
        manifest.write('[files.sliders]\ndownload = "age.pt"\nbeside = ["gender.npy"]\noptional = true\n')
    weights = fetch("local", Said(), optional=["mapper_afro", "sliders"])
    for network in ("mapper_afro", "sliders"):
        numbers = full_size.errors(network, build_network(network, weights.read(network)))
        assert max(numbers.values()) < parity.TOLERANCE, numbers
    assert choices(weights) == {
        "sliders": {"age": Range(-5, 5), "gender": Range(-5, 5)},
        "mapper": {"afro": None},
    }


def test_directions_of_ones_own(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "fs3.npy"
    full_size.write("fs3.npy", path)
    with pytest.raises(CheckpointError, match=r"fs3\.npy .* put the file S_mean_std .* beside it"):
        add_checkpoint(path, "mine", None, None, Said())
    full_size.write("S_mean_std", tmp_path / "S_mean_std")
    assert add_checkpoint(path, "mine", None, None, Said()) == ["directions"]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps([1, 2], protocol=4))
    with pytest.raises(CheckpointError, match=r"S_mean_std does not hold the means and deviations"):
        add_checkpoint(path, "other", None, None, Said())


def test_what_is_not_optional_cannot_be_asked_for(folder: Path, server: Mirror) -> None:
    describe(folder, server, "ir_se50.pth")
    with_upscaler(folder, server)
    for name in ("identity", "start"):
        with pytest.raises(WeightsError, match=f"no optional '{name}'; there are: upscaler"):
            fetch("local", Said(), optional=["upscaler", name])
    assert asked(server) == 0


def own(folder: Path, published: dict[str, bytes], name: str) -> Path:
    """A published file as someone's own checkpoint."""
    path = folder / f"fine-tuned {name}"
    path.write_bytes(published[name])
    return path


def test_a_checkpoint_of_ones_own(folder: Path, tmp_path: Path, published: dict[str, bytes]) -> None:
    checkpoint = own(tmp_path, published, "vqgan.ckpt")
    assert add_checkpoint(checkpoint, "mine", None, None, Said()) == ["vqgan"]
    mine = WeightSet.find("mine")
    assert checkpoint.exists() and mine.base == "demo" and mine.own_files.keys() == {"vqgan"}
    assert mine.read("vqgan").keys() == WeightSet.find("demo").read("vqgan").keys() - {"norm_groups"}
    # a learned start belongs to its own VQGAN and CLIP
    assert not {"start", "denoiser"} & mine.files.keys()
    settings = mine.settings("LatentRevisions", LatentRevisionsHyperparameters)
    assert (settings.size, settings.cutouts) == ("128x128", 12)
    assert verify("mine", lambda result: None)

    # its settings are for its owner to change, and stay when another network is added
    manifest = mine.folder / "manifest.toml"
    text = manifest.read_text() + "\n[models.LatentRevisions]  # ours\nsize = '64x64'\n"
    manifest.write_text(text)
    assert add_checkpoint(own(tmp_path, published, "e4e.pt"), "mine", "e4e", None, Said()) == ["e4e"]
    mine = WeightSet.find("mine")
    assert manifest.read_text() == text
    assert mine.own_files.keys() == {"vqgan", "e4e"}
    assert mine.settings("LatentRevisions", LatentRevisionsHyperparameters).size == "64x64"


def test_a_set_keeps_the_learned_start_whose_networks_it_does_not_replace(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    add_checkpoint(own(tmp_path, published, "e4e.pt"), "faces", None, "demo", Said())
    faces = WeightSet.find("faces")
    assert faces.own_files.keys() == {"stylegan2", "e4e"}
    assert "start" in faces.files
    assert faces.settings("LatentRevisions", LatentRevisionsHyperparameters).start == "learned"
    # a mapper belongs to its own StyleGAN2, e4e and CLIP, a face classifier to its own e4e
    assert not {"mapper", "face"} & faces.files.keys()


@pytest.mark.parametrize("name", ["demo", "full", "../mine", ".mine", "a b", "", "mine/", "café"])
def test_a_name_that_cannot_be(folder: Path, tmp_path: Path, published: dict[str, bytes], name: str) -> None:
    with pytest.raises(WeightsError, match="cannot be the name of your own set"):
        add_checkpoint(own(tmp_path, published, "ir_se50.pth"), name, None, None, Said())
    assert list(folder.iterdir()) == []


def test_what_cannot_be_converted_leaves_nothing(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    checkpoint = own(tmp_path, published, "ir_se50.pth")
    with pytest.raises(WeightsError, match=r"fine-tuned ir_se50\.pth does not hold vqgan, only identity"):
        add_checkpoint(checkpoint, "mine", "vqgan", None, Said())
    with pytest.raises(WeightsError, match="there is no set 'none-such'"):
        add_checkpoint(checkpoint, "mine", None, "none-such", Said())
    checkpoint.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"fine-tuned ir_se50\.pth.*system"):
        add_checkpoint(checkpoint, "mine", None, None, Said())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        add_checkpoint(tmp_path / "nowhere", "mine", None, None, Said())
    assert list(folder.iterdir()) == [] and not (tmp_path / "ran").exists()


def test_of_several_networks_all_are_converted_or_none(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    """The second network of the file is another than ours; what was there before still fits its lock."""
    good = own(tmp_path, published, "e4e.pt")
    add_checkpoint(good, "mine", None, "demo", Said())
    before = {path.name: path.read_bytes() for path in (folder / "mine").iterdir()}
    content = torch.load(good, weights_only=False)
    content["state_dict"]["decoder.input.input"] += 1
    del content["latent_avg"]
    torch.save(content, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match=r"half\.pt holds e4e without its average latent codes"):
        add_checkpoint(tmp_path / "half.pt", "mine", None, None, Said())
    assert {path.name: path.read_bytes() for path in (folder / "mine").iterdir()} == before
    WeightSet.find("mine").read("stylegan2")


def test_what_a_killed_conversion_left_is_cleared(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    (folder / "mine" / ".converting-abc").mkdir(parents=True)
    (folder / "mine" / ".converting-abc" / "identity.safetensors").write_bytes(bytes(1000))
    add_checkpoint(own(tmp_path, published, "ir_se50.pth"), "mine", None, None, Said())
    assert {path.name for path in (folder / "mine").iterdir()} == {
        "identity.safetensors",
        "identity.json",
        "manifest.toml",
        "lock.json",
        ".lock",
    }


def test_the_other_network_of_a_kind_is_named(folder: Path, tmp_path: Path) -> None:
    vqgan = WeightSet.find("demo", FOLDER / "manifest.toml").read("vqgan")
    both = {
        f"{part}.{key}": vqgan[key] for part in ("cond_stage_model", "first_stage_model") for key in vqgan
    }
    both["cond_stage_model.decoder.conv_out.weight"] = both["cond_stage_model.decoder.conv_out.weight"] + 1
    both["cond_stage_model.quantize.embedding.weight"] = vqgan["quantize.embedding.weight"] + 1
    torch.save({"state_dict": both}, tmp_path / "last.ckpt")
    said = Said()
    add_checkpoint(tmp_path / "last.ckpt", "mine", None, None, said)
    assert same(WeightSet.find("mine").read("vqgan"), vqgan)
    assert any("not from state_dict.cond_stage_model" in line for line in said.lines)


@pytest.mark.parametrize("name", ['a "b" \\ c.pt', "two\nlines.pt", "\x1b[2J.pt", "caf\udce9.pt"])
def test_any_name_of_a_checkpoint_makes_a_manifest(
    folder: Path, tmp_path: Path, published: dict[str, bytes], name: str
) -> None:
    (tmp_path / name).write_bytes(published["ir_se50.pth"])
    add_checkpoint(tmp_path / name, "mine", None, None, Said())
    assert WeightSet.find("mine").description.startswith("Converted from ")


def test_the_base_of_a_set_is_not_replaced(folder: Path, tmp_path: Path, published: dict[str, bytes]) -> None:
    checkpoint = own(tmp_path, published, "ir_se50.pth")
    add_checkpoint(checkpoint, "mine", None, "demo", Said())
    with pytest.raises(
        WeightsError, match=r"mine/manifest\.toml has another base than 'full'; change it there"
    ):
        add_checkpoint(checkpoint, "mine", None, "full", Said())
    add_checkpoint(checkpoint, "mine", None, "demo", Said())


def test_a_set_based_on_itself(folder: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (folder / name).mkdir()
        (folder / name / "manifest.toml").write_text(f'base = "{base}"')
    with pytest.raises(WeightsError, match="base: 'a' is itself based on 'b'"):
        WeightSet.find("a")


@pytest.mark.parametrize("kind", ["file", "folder", "loop"])
def test_no_link_leads_out_of_a_set_of_ones_own(folder: Path, tmp_path: Path, kind: str) -> None:
    """The folder itself may be a link: it is its owner's."""
    (tmp_path / "elsewhere").mkdir()
    (folder / "mine").symlink_to(tmp_path / "elsewhere")
    path = folder / "mine" / "sub" / "clip.safetensors"
    (folder / "mine" / "manifest.toml").write_text("[files.clip]\npath = 'sub/clip.safetensors'")
    path.parent.mkdir()
    path.write_bytes(b"")
    assert WeightSet.find("mine").files["clip"].path == path
    path.unlink()
    if kind == "folder":
        path.parent.rmdir()
        path.parent.symlink_to("/etc")
    else:
        path.symlink_to("/etc/hostname" if kind == "file" else path)
    with pytest.raises(WeightsError, match=f"the file of 'clip' is '{path}'; it must be in"):
        WeightSet.find("mine")


def test_a_lock_names_no_file_elsewhere(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "manifest.toml").write_text("")
    record = {"sha256": "0" * 64, "size": 1, "modified": 1, "verified": "2026-01-01T00:00:00Z"}
    (folder / "mine" / "lock.json").write_text(json.dumps({"files": {"../../clip": record}}))
    with pytest.raises(WeightsError, match=r"the file of '\.\./\.\./clip'"):
        WeightSet.find("mine")


def test_a_folder_or_a_pipe_is_no_file_of_a_set(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "manifest.toml").write_text(f"[files.clip]\nsize = 0\nsha256 = '{'0' * 64}'")
    os.mkfifo(folder / "mine" / "clip.safetensors")
    with pytest.raises(WeightsError, match=r"clip\.safetensors is not a regular file"):
        WeightSet.find("mine").read("clip")


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("base = ", "cannot be read"),
        ("bases = 'demo'", "bases: Extra inputs are not permitted"),
        ("[files.vqgan]\ndownload = 'a.ckpt'", "files.vqgan.download: there is no download 'a.ckpt'"),
        ("[downloads.'a.ckpt']\nmirrors = []", "downloads.a.ckpt.mirrors: List should have at least 1"),
        ("[downloads.'a.ckpt']\nmirrors = ['http://a']\nsha256 = 'abc'", "downloads.a.ckpt.sha256"),
        (
            "[downloads.'../a']\nmirrors = ['http://a']\n[files.clip]\ndownload = '../a'",
            "must be a plain file name",
        ),
        ("[files.clip]\npath = '../demo/clip.safetensors'", "must be in the set's folder"),
        ("[files.clip]\npath = '/etc/hostname'", "the file of 'clip' is '/etc/hostname'"),
        ("[files.clip]\npath = 'a\\u0000b'".replace("'", '"'), "must be in the set's folder"),
        ("[files.'../../clip']\nsize = 1", "the file of '../../clip' is "),
        ("a = " + "[" * 100_000, "cannot be read"),
    ],
)
def test_a_manifest_of_ones_own_that_cannot_be_understood(folder: Path, manifest: str, says: str) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "manifest.toml").write_text(manifest)
    with pytest.raises(WeightsError) as caught:
        WeightSet.find("mine")
    assert says in str(caught.value) and str(folder / "mine" / "manifest.toml") in str(caught.value)


@pytest.mark.slow
def test_verifying_names_the_file_with_one_changed_byte(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    """Also where its size and its time of modification are what they were."""
    add_checkpoint(own(tmp_path, published, "e4e.pt"), "mine", None, "demo", Said())
    path = folder / "mine" / "stylegan2.safetensors"
    content, stamp = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))
    results: list[CheckResult] = []
    assert not verify("mine", results.append)
    (problem,) = [result for result in results if result.problem]
    assert problem.subject == str(path) and "wrong checksum" in str(problem.problem)
    assert "StyleCLIP" not in [result.subject for result in results]


@pytest.mark.slow
def test_verifying_names_networks_that_do_not_fit(
    folder: Path, tmp_path: Path, published: dict[str, bytes]
) -> None:
    """A generator of faces with fewer layers than the base's e4e has codes for."""
    tensors = WeightSet.find("demo").read("stylegan2")
    last = max(int(key.split(".")[1]) for key in tensors if key.startswith("to_rgbs."))
    gone = (f"to_rgbs.{last}.", f"convs.{2 * last}.", f"convs.{2 * last + 1}.")
    noises = (f"noises.noise_{2 * last + 1}", f"noises.noise_{2 * last + 2}")
    smaller = {key: value for key, value in tensors.items() if not key.startswith(gone) and key not in noises}
    originals.stylegan2(smaller, tmp_path / "smaller.pt")
    add_checkpoint(
        tmp_path / "smaller.pt", "misfit", None, "demo", Said()
    )  # a name of its own: a process loads a set once
    results: list[CheckResult] = []
    assert not verify("misfit", results.append)
    (problem,) = [result for result in results if result.problem]
    assert problem.subject == "StyleCLIP" and "e4e" in str(problem.problem)


def test_a_copied_folder_is_all_that_another_machine_needs(
    folder: Path, tmp_path: Path, server: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folder, server, "ir_se50.pth")
    fetch("local", Said())
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)  # other times of modification do not matter
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("WEIGHTS_DIR", str(elsewhere))
    WeightSet.find("local").read("identity")
    fetch("local", Said())
    assert asked(server) == 1


@pytest.mark.slow
def test_when_a_file_was_verified_is_noted(folder: Path) -> None:
    assert verify("demo", lambda result: None)
    lock = json.loads((folder / "demo" / "lock.json").read_text())
    assert lock["files"].keys() == WeightSet.find("demo").files.keys()
    assert all(file.last_verified for file in WeightSet.find("demo").files.values())


def test_the_disk_space_needed() -> None:
    """Each file beside its conversion, and the conversions before it; all of both when they are kept."""
    full = WeightSet.find("full", FOLDER / "manifest.toml")
    sizes = [published.size for published, of in full.downloads.values() if not {*of} <= {*full.optional}]
    assert space_needed(sizes, keep_original=False) == sum(sizes[:3]) + sizes[2]
    assert space_needed(sizes, keep_original=True) == 2 * sum(sizes)
