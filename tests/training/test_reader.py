"""The reader: it reads unseen drawings, is not lenient on what is spoilt, and its training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import training.run
from training.pictures import tensor
from training.reader import (
    LARGE,
    NONE,
    PARTS,
    ROUND,
    UNREADABLE,
    WEIGHTS,
    Reader,
    blur,
    fair,
    spoil,
    targets,
    train,
    waves,
)
from training.world import SIDE, Drawing, draw, sample
from training.world.attributes import FIELDS, labels

SMALL = [field for field in FIELDS if field not in LARGE | ROUND]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    """Half of them of combinations that no training sees."""
    rng = np.random.default_rng(2)
    return [type(sample(rng)).sample(rng, test=k % 2 == 0) for k in range(120)]


@pytest.fixture(scope="module")
def pictures(drawings: list[Drawing]) -> torch.Tensor:
    return tensor(map(draw, drawings))


def shown(readings: list[dict[str, str]], drawings: list[Drawing]) -> float:
    """The share of what is there that is read right."""
    pairs = [
        (value, reading[field])
        for reading, drawing in zip(readings, drawings, strict=True)
        for field, value in labels(drawing).items()
        if value != NONE
    ]
    return sum(value == seen for value, seen in pairs) / len(pairs)


def test_reads_unseen_drawings(reader: Reader, drawings: list[Drawing], pictures: torch.Tensor) -> None:
    assert shown(reader.read(pictures), drawings) > 0.96
    assert shown(reader.read(fair(pictures, torch.Generator().manual_seed(1))), drawings) > 0.9


def test_is_not_lenient_on_what_is_spoilt(
    reader: Reader, drawings: list[Drawing], pictures: torch.Tensor
) -> None:
    views, wanted = spoil(pictures, targets(drawings), torch.Generator().manual_seed(2))
    columns = [k for k, field in enumerate(FIELDS) if field in SMALL]
    seen = [
        reading[list(FIELDS)[k]]
        for reading, row in zip(reader.read(views), wanted.tolist(), strict=True)
        for k in columns
        if row[k] == 0
    ]
    assert sum(value != NONE for value in seen) / len(seen) < 0.03


def test_sees_nothing_in_a_plain_colour_or_in_clouds_of_it(reader: Reader) -> None:
    rng = torch.Generator().manual_seed(3)
    plain = (2 * torch.rand((20, 3, 1, 1), generator=rng) - 1).expand(-1, -1, SIDE, SIDE)
    clouds = (0.5 * waves(20, 3, 5, rng)).clamp(-1, 1)
    for reading in reader.read(torch.cat([plain, clouds])):
        assert sum(reading[field] != NONE for field in SMALL) <= 1, reading


def test_reads_a_picture_the_same_in_any_batch(reader: Reader, pictures: torch.Tensor) -> None:
    assert reader.read(pictures[:70])[65:70] == reader.read(pictures[65:70])


def test_spoiling_takes_away_what_it_says(drawings: list[Drawing], pictures: torch.Tensor) -> None:
    before = targets(drawings)
    views, after = spoil(pictures, before, torch.Generator().manual_seed(4))
    assert views.shape == pictures.shape and views.abs().max() <= 1
    changed = after != before
    assert ((after == 0) | (after == UNREADABLE))[changed].all()
    large = [k for k, field in enumerate(FIELDS) if field in LARGE]
    assert (after[:, large] != 0)[before[:, large] != 0].all()  # a blurred colour is never "not there"
    in_parts = {field for fields in PARTS.values() for field in fields}
    assert set(FIELDS) >= in_parts | LARGE | ROUND


def test_blurs_each_picture_by_its_own_amount(pictures: torch.Tensor) -> None:
    three = pictures[:3]
    blurred = blur(three, torch.tensor([0.01, 2.0, 8.0]))
    torch.testing.assert_close(blurred[0], three[0], atol=1e-4, rtol=0)
    rough = blurred.diff(dim=-1).abs().mean((1, 2, 3)) / three.diff(dim=-1).abs().mean((1, 2, 3))
    assert rough[0] > rough[1] > rough[2]
    torch.testing.assert_close(blurred.mean(), three.mean(), atol=0.02, rtol=0)


def test_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.run, "RUNS", tmp_path)
    first = train(1e-6, 4)  # one step: it is past its time after the first
    saved = torch.load(tmp_path / "reader.pt", weights_only=True)
    assert saved["step"] == 1
    second = train(saved["seconds"] / 60 + 1e-6, 4)
    assert torch.load(tmp_path / "reader.pt", weights_only=True)["step"] == 2
    assert not torch.equal(first["stem.0.weight"], second["stem.0.weight"])
    Reader().load_state_dict(second)


def test_its_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 1.5e6
