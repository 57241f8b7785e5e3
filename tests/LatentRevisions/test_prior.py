"""The prior: where it pulls latents, and that optimising does not wash a picture out."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.prior import Prior

PROMPTS = "a red circle on a blue background", "a boat on the sea at sunset", "an old man with glasses"


@pytest.fixture(scope="module")
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("demo", "cpu")


def contrast(latents: Tensor) -> float:
    """The mean over channels of how much latents [1, C, h, w] vary over the picture."""
    return latents.std((2, 3)).mean().item()


def pulled(pipeline: LatentRevisionsPipeline, latents: Tensor, sharpen: float) -> Tensor:
    """The denoiser's output for latents, sharpened."""
    prior = pipeline.prior
    assert prior is not None
    moved = latents.clone()
    hints = prior.hints(pipeline.aims.targets(LatentRevisionsParams(prompt=PROMPTS[1], seed=0))[0])
    Prior(prior.denoiser, prior.start, 1.0, sharpen, pipeline.device).pull(moved, hints, 1.0, 0.1)
    return moved


def test_what_differs_from_its_surroundings_differs_more(pipeline: LatentRevisionsPipeline) -> None:
    latents = torch.randn(1, pipeline.vqgan.embed_dim, 6, 8, generator=torch.Generator().manual_seed(0))
    plain, sharper = (pulled(pipeline, latents, sharpen) for sharpen in (0.0, 0.5))
    around = plain[:, :, 1:4, 2:5].mean((2, 3))
    expected = plain[:, :, 2, 3] + 0.5 * (plain[:, :, 2, 3] - around)
    torch.testing.assert_close(sharper[:, :, 2, 3], expected)
    corner = plain[:, :, :2, :2].mean((2, 3))  # what is outside counts for nothing
    expected = plain[:, :, 0, 0] + 0.5 * (plain[:, :, 0, 0] - corner)
    torch.testing.assert_close(sharper[:, :, 0, 0], expected)


def after_steps(pipeline: LatentRevisionsPipeline, prompt: str) -> float:
    """The contrast of the latents after some steps, as a share of that of the first ones."""
    revision = pipeline.start(LatentRevisionsParams(prompt=prompt, seed=5, iterations=20, start="learned"))
    before = contrast(revision.latents)
    while not revision.finished:
        pipeline.step([revision])
    return contrast(revision.latents) / before


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_steps_do_not_wash_the_picture_out(pipeline: LatentRevisionsPipeline, prompt: str) -> None:
    """The published weight decay, and the mean that a denoiser gives, would take contrast from it."""
    prior = pipeline.prior
    assert prior is not None
    other = copy(pipeline)
    other.hyperparameters = replace(pipeline.hyperparameters, weight_decay=0.1)
    other.prior = Prior(prior.denoiser, prior.start, prior.part, 0.0, pipeline.device)
    kept, washed_out = after_steps(pipeline, prompt), after_steps(other, prompt)
    assert kept > 0.995
    assert kept > washed_out + 0.01
