"""The published kind of learned start, with a made-up mixer that fits the demo networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from LatentRevisions.mixer import Mixer
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from mead.imaging.tensors import to_tensor
from tests import parity
from tests.conftest import DATA

SIDE = 64  # of the mixer's pictures


@pytest.fixture(scope="module")
def mixer() -> Mixer:
    vqgan, clip = load_pipeline("demo", "cpu").vqgan, load_pipeline("demo", "cpu").perceptor
    network = Mixer(clip.embed_dim, SIDE // vqgan.factor, vqgan.embed_dim, 24, 2, (32, 48))
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    return Mixer.from_state_dict(parity.fill(shapes, "fan_in")).requires_grad_(False)


@pytest.fixture
def pipeline(mixer: Mixer) -> LatentRevisionsPipeline:
    pipeline = copy.copy(load_pipeline("demo", "cpu"))
    pipeline.learned_start, pipeline.prior = mixer, None
    return pipeline


def started(pipeline: LatentRevisionsPipeline, prompt: str = "a red house", **given: Any) -> torch.Tensor:
    given = {"size": f"{SIDE}x{SIDE}", "start": "learned", "seed": 1, **given}
    return pipeline.start(LatentRevisionsParams(prompt=prompt, **given)).latents.detach()


def drawn(pipeline: LatentRevisionsPipeline, mixer: Mixer, embedding: torch.Tensor) -> torch.Tensor:
    """What the mixer makes of an embedding [d], in the format that the pipeline computes in."""
    codes = pipeline.vqgan.codes
    with torch.no_grad(), pipeline.precision.autocast():
        return mixer(embedding[None]).float().clamp(codes.min(), codes.max())


def test_a_prompt_alone_is_drawn_as_published(pipeline: LatentRevisionsPipeline, mixer: Mixer) -> None:
    (embedding,) = pipeline.perceptor.encode_text(["a red house"])
    assert embedding.norm() > 2
    wanted = drawn(pipeline, mixer, embedding)
    assert wanted.std() > 0.1
    for given in ({}, {"w0": 0.3}, {"seed": 2}):
        assert parity.error(started(pipeline, **given), wanted) < 0.02
    assert parity.error(started(pipeline, "a boat at night"), wanted) > 0.1


def test_latents_are_within_the_codebook(pipeline: LatentRevisionsPipeline, mixer: Mixer) -> None:
    wild = copy.copy(pipeline)
    wild.learned_start = copy.deepcopy(mixer)
    wild.learned_start.final_proj.weight.data *= 100
    latents, codes = started(wild), pipeline.vqgan.codes
    assert latents.min() == codes.min() and latents.max() == codes.max()


def test_any_mix_of_targets_is_as_long_as_the_prompt(pipeline: LatentRevisionsPipeline, mixer: Mixer) -> None:
    given = {"text_to_add": "a red hat", "w1": -2, "img_enc_path": DATA / "coffee.jpg", "w2": 3}
    target = pipeline.start(LatentRevisionsParams(prompt="a queen", **given)).target
    (said,) = pipeline.perceptor.encode_text(["a queen"])
    assert F.cosine_similarity(target, said, dim=0) < 0.9
    wanted = drawn(pipeline, mixer, said.norm() * target)
    assert parity.error(started(pipeline, "a queen", **given), wanted) < 0.02


@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 96), (32, 32), (80, 48)])
def test_another_size_shows_the_middle_of_the_same_picture(
    pipeline: LatentRevisionsPipeline, width: int, height: int
) -> None:
    codes, _ = pipeline.vqgan.quantise(started(pipeline))
    with torch.no_grad():
        picture = Image.fromarray((pipeline._decode(codes)[0].permute(1, 2, 0) * 255).round().byte().numpy())
    longer = max(width, height)
    left, top = (longer - width) // 2, (longer - height) // 2
    middle = picture.resize((longer, longer), Image.Resampling.BICUBIC).crop(
        (left, top, left + width, top + height)
    )
    with torch.no_grad(), pipeline.precision.autocast():
        wanted = pipeline.vqgan.encode(to_tensor(middle) * 2 - 1).float()
    latents = started(pipeline, size=f"{width}x{height}")
    assert latents.shape == wanted.shape
    assert (latents - wanted).square().mean() < 0.1 * wanted.var()


def test_only_what_a_mask_lets_change_is_drawn(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    mask.save(tmp_path / "mask.png")
    given = {"img_path": DATA / "coffee.jpg", "mask_path": tmp_path / "mask.png"}
    latents, kept = started(pipeline, **given), started(pipeline, img_path=DATA / "coffee.jpg")
    half = latents.shape[3] // 2
    assert torch.equal(latents[..., :half], started(pipeline)[..., :half])
    assert torch.equal(latents[..., half + 1 :], kept[..., half + 1 :])  # the mask is soft next to it


def test_a_story_goes_on_with_it(pipeline: LatentRevisionsPipeline) -> None:
    """Where the weights set says so."""
    assert pipeline.hyperparameters.story_start == "learned"
    given = {"prompt": "a green tree", "story": "a red tree", "iterations": 4, "seed": 1, "size": (64, 64)}
    revision = pipeline.start(LatentRevisionsParams(start="learned", **given))
    while not revision.finished:
        pipeline.step([revision])
    assert revision.step == 4 and revision.latents.isfinite().all()
