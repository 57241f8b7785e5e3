"""What an inversion wears that its photo does not show is taken off; what the photo shows stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIPPipeline, load_pipeline
from StyleCLIP.worn import Worn, nearer, spot
from tests.conftest import DATA
from training.camera import before, crop
from training.pictures import tensor
from training.reader import Reader
from training.world import Face, draw


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    return load_pipeline("demo", "cpu")


def woman(**looks: object) -> Face:
    face = Face.sample(np.random.default_rng(3))
    plain = {"gender": "female", "age": "adult", "skin": "light", "hair_style": "short", "glasses": False}
    return replace(face, **{**plain, "beard": False, "headwear": "none", "earrings": False, **looks})


@pytest.mark.parametrize(
    ("worn", "looks"), [("crown", {"headwear": "crown"}), ("earrings", {"earrings": True})]
)
def test_what_the_photo_shows_stays_and_what_it_does_not_goes(
    pipeline: StyleCLIPPipeline, worn: str, looks: dict[str, object]
) -> None:
    plain, wearing = tensor([draw(woman()), draw(woman(**looks))]).split(1)
    with torch.no_grad():
        codes = pipeline.invert(draw(woman(**looks)))
    assert torch.equal(pipeline.worn.taken_off(codes, wearing), codes)
    off = pipeline.worn.off[worn]
    taken = pipeline.worn.taken_off(codes, plain) - codes
    assert 0.3 < float((taken * off).sum() / off.square().sum() / taken.shape[1]) < 1.01


def test_light_and_tint_do_not_count() -> None:
    bare = torch.zeros(1, 3, 32, 32)
    ring = bare.clone()
    ring[:, :2, 10:16, 10:16] = 0.8  # yellow
    tint = torch.tensor([0.3, -0.1, 0.2]).view(1, 3, 1, 1)
    shine = bare.clone()
    shine[:, :, 12:16, 10:16] = 0.5  # white, where the ring would be
    for light in (0.0, tint, shine):
        assert nearer(bare, ring, bare + light)
        assert not nearer(ring, bare, bare + light)
        assert nearer(ring, bare, ring + light)
    assert not nearer(bare, bare, ring)
    assert spot(bare, ring) == pytest.approx(127.5 * 0.8 * 2 / 3)


def test_the_photo_wears_nothing(pipeline: StyleCLIPPipeline) -> None:
    """e4e sees a shimmer of a crown, earrings and a moustache on it."""
    params = StyleCLIPParams(img_path=DATA / "face.jpeg", prompt="x", seed=0, start="inversion")
    face = pipeline.start(params).face
    (read,) = Reader.load().read(tensor([pipeline.picture(face)]))
    assert {read[name] for name in ("hat", "crown", "glasses", "earrings", "beard")} == {"none"}
    assert (read["hair_colour"], read["skin"], read["expression"]) == ("brown", "light", "smile")
    without = pipeline.invert(pipeline.aligned(DATA / "face.jpeg")) + sum(pipeline.worn.off.values())
    assert spot(pipeline.spaces.synthesise(face), pipeline.spaces.synthesise(without)) < 40


def test_a_photo_can_be_given_what_was_taken_off(pipeline: StyleCLIPPipeline) -> None:
    params = StyleCLIPParams(img_path=DATA / "face.jpeg", prompt="a queen", seed=0)
    (read,) = Reader.load().read(tensor([pipeline.image(pipeline.start(params))]))
    assert read["crown"] == "crown"


def test_only_what_is_drawn_nearly_is_refined(pipeline: StyleCLIPPipeline, tmp_path: Path) -> None:
    face = woman(hair_style="long", hair_colour="brown")
    picture, _ = before(face, crop(np.random.default_rng(0), 256, test=True))
    steps = []
    for name, shown in {
        "drawn": draw(face),
        "in front of a photo": Image.fromarray(picture.astype(np.uint8)),
    }.items():
        shown.save(tmp_path / f"{name}.png")
        params = StyleCLIPParams(img_path=tmp_path / f"{name}.png", sliders="age:1", seed=0)
        steps.append(pipeline.start(params).refine)
    assert steps == [pipeline.hyperparameters.refine, 0]


def test_a_set_without_the_sliders_leaves_faces_as_they_are(pipeline: StyleCLIPPipeline) -> None:
    sliders = pipeline.edits.sliders
    codes = torch.zeros(1, 12, 96)
    for worn in (Worn("crown:40", None, _never), Worn("", sliders, _never), Worn("scarf:9", sliders, _never)):
        assert worn.taken_off(codes, torch.zeros(1, 3, 128, 128)) is codes


def _never(codes: Tensor) -> Tensor:
    raise AssertionError("there is nothing to draw")
