"""Two published files at full size, from a mirror that fails, over conversion, to the published numbers.

`python -m benchmarks.full_weights` does the same with all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mead.weights.building import build_network
from mead.weights.download import RetryPolicy
from mead.weights.errors import WeightsError
from mead.weights.fetch import fetch
from mead.weights.sets import WeightSet
from tests import full_size, parity
from tests.mirror import cut_at, length_of, mirror, redirect_to, status


class Silent:
    """Shows nothing."""

    def show(self, name: str, done: int, total: int | None) -> None:
        pass

    def say(self, line: str) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is not kept: it gets larger than a gigabyte."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_from_a_bad_mirror_to_the_published_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(folder))
    files = {name: folder / name for name in ("ViT-B-32.pt", "vqgan_imagenet_f16_16384.ckpt")}
    with mirror() as server:
        mirrors = {}
        for name, path in files.items():
            full_size.write(name, path)
            content = full_size.mapped(path)
            half = len(content) // 2
            real = server.add(f"/real/{name}", content, cut_at(half // 2), status(503), cut_at(half))
            longer = length_of(len(content) + 10)
            server.files[f"/real/{name}"].faults.append(longer)
            wrong = server.add(f"/wrong/{name}", bytes(1000))
            moved = server.add(f"/moved/{name}", b"", *[redirect_to(real)] * 9)
            mirrors[name] = [wrong, server.url("/gone"), moved]
        full_size.describe(folder / "local", files, mirrors)
        weights = fetch("local", Silent(), retry=RetryPolicy(attempts=3, first_pause=0.01))
        assert not list(weights.folder.glob("originals"))
    for network in ("clip", "vqgan"):
        numbers = full_size.errors(network, build_network(network, weights.read(network)))
        assert len(numbers) == 2 and max(numbers.values()) < parity.TOLERANCE, numbers

    path = weights.files["vqgan"].path
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(WeightsError, match=rf"{path} has a wrong checksum \(sha256\)"):
        WeightSet.find("local").read("vqgan")
