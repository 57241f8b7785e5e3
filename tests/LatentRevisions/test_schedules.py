"""Less work for the same picture: steps at half the size, fewer cutouts at first, an early end."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.revision import LatentRevision
from mead.cli.show import read_provenance
from mead.provenance import Weights
from mead.resuming import Origin, latents_file, resume
from mead.revision import finish, start
from tests.conftest import DATA

SMALL: dict[str, Any] = {
    "prompt": "a house at night",
    "seed": 3,
    "size": (64, 64),
    "cutouts": 4,
    "upscale": 1,
}


def with_settings(**settings: Any) -> LatentRevisionsPipeline:
    """The demo set's pipeline with other hyperparameters."""
    pipeline = copy.copy(load_pipeline("demo", "cpu"))
    pipeline.hyperparameters = replace(pipeline.hyperparameters, **settings)
    return pipeline


def begin(pipeline: LatentRevisionsPipeline, **more: Any) -> LatentRevision:
    return start(pipeline, LatentRevisionsParams(**{**SMALL, **more}))


def test_half_the_size_at_first() -> None:
    """All that is known is carried up: latents, anchor, and moments as large as the gradients now are."""
    pipeline = with_settings(half_size=0.5, init_weight=1.0)
    revision = begin(pipeline, start="noise", iterations=4)
    most = revision.most_latents
    assert revision.latents.shape[2:] == (4, 4) and pipeline.image(revision).size == (64, 64)
    pipeline.step([revision])
    pipeline.step([revision])
    assert revision.latents.shape[2:] == revision.first.shape[2:] == (8, 8)
    assert revision.most_latents == most == revision.latents.numel()
    moments = revision.optimiser.state[revision.latents]
    assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == revision.latents.shape
    assert moments["step"] == 2 and pipeline.image(revision).size == (64, 64)
    before = revision.latents.detach().clone()
    (picture,) = finish(pipeline, [revision])
    assert picture.size == (64, 64) and not revision.latents.equal(before)


def test_growing_keeps_what_the_optimiser_would_do() -> None:
    """Latents that are the same all over go on as before: a larger picture has smaller gradients for each."""
    pipeline = with_settings(half_size=0.5)
    revision = begin(pipeline, start="noise", iterations=4)
    with torch.no_grad():
        revision.latents.fill_(1.0)
    revision.latents.grad = torch.full_like(revision.latents, 0.4)
    revision.optimiser.step()
    once = revision.latents.detach()[0, 0, 0, 0].item()
    revision.grow()
    assert torch.allclose(revision.latents, torch.tensor(once))
    revision.latents.grad = torch.full_like(revision.latents, 0.1)
    revision.optimiser.step()
    rate = revision.optimiser.param_groups[0]["lr"]
    decayed = once * (1 - rate * pipeline.hyperparameters.weight_decay)
    assert torch.allclose(revision.latents, torch.tensor(decayed - rate), atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [{}, {"img_path": DATA / "coffee.jpg"}, {"start": "noise", "size": (80, 64)}],
    ids=["learned", "starter", "noise"],
)
def test_only_from_noise(more: dict[str, Any]) -> None:
    revision = begin(with_settings(half_size=0.5), **more)
    width, height = more.get("size", (64, 64))
    halved = more.get("start") == "noise"
    assert revision.latents.shape[2:] == (height // (16 if halved else 8), width // (16 if halved else 8))


def test_going_on_with_what_began_at_half_the_size() -> None:
    pipeline = with_settings(half_size=0.5)
    here = Origin(model="LatentRevisions", weights=Weights.of("demo"), device="cpu")
    ended = begin(pipeline, start="noise", iterations=4)
    finish(pipeline, [ended])
    content = latents_file(ended, here)
    assert content is not None
    params = LatentRevisionsParams(**SMALL, start="noise", iterations=6)
    longer = resume(pipeline, params, content, here)
    assert longer.latents.equal(ended.latents) and longer.step == 4 and longer.half == 0
    finish(pipeline, [longer])
    assert longer.step == 6


def test_more_and_more_cutouts() -> None:
    pipeline = with_settings(first_cutouts=2)
    revision = begin(pipeline, cutouts=6, iterations=5)
    seen = []
    while not revision.finished:
        seen.append(revision.cutouts.hyperparameters.cutouts)
        pipeline.step([revision])
    assert seen == [2, 3, 4, 5, 6]
    assert begin(pipeline, cutouts=1).cutouts.hyperparameters.cutouts == 1  # no more than asked for


@pytest.mark.slow
def test_an_early_end(tmp_path: Path) -> None:
    """A loss that cannot fall: all the weight is on staying where it starts."""
    made = LatentRevisions(
        **SMALL, init_weight=1000, iterations=60, patience=2, frames=3, output_path=tmp_path, device="cpu"
    )
    steps: list[tuple[int, int]] = []
    made.callback = lambda progress: steps.append((progress.step, progress.steps))
    path = made.run()
    last, total = steps[-1]
    assert 4 <= last == total < 60 and steps[0] == (1, 60)
    provenance = read_provenance(Path(path))
    assert provenance.steps == last and provenance.parameters["patience"] == 2
    assert provenance.parameters["iterations"] == 60 and provenance.further == 0
    made.timelapse(tmp_path / "lapse.webp")
    whole = LatentRevisions(**SMALL, init_weight=1000, iterations=last, output_path=tmp_path, device="cpu")
    assert Image.open(whole.run()).tobytes() == Image.open(path).tobytes()
    again = LatentRevisions(
        **SMALL, init_weight=1000, iterations=60, patience=2, output_path=tmp_path, device="cpu"
    )
    assert Path(again.run()).read_bytes() == Path(path).read_bytes()


@pytest.mark.slow
def test_who_asks_for_steps_gets_them_all(tmp_path: Path) -> None:
    pipeline = with_settings(patience=2, iterations=30, learned_start_init_weight=1000)
    own, asked, none = begin(pipeline), begin(pipeline, iterations=9), begin(pipeline, patience=0)
    finish(pipeline, [own, asked])
    assert own.finished and own.step < 30 and asked.step == 9 and none.patience == 0
    settled = own.step
    own.take_more(5)
    finish(pipeline, [own])
    assert own.step == own.planned == settled + 5
    made = LatentRevisions(
        **SMALL, init_weight=1000, iterations=60, patience=2, output_path=tmp_path, device="cpu"
    )
    ended = read_provenance(Path(made.run())).steps
    further = read_provenance(Path(made.resume(3)))
    assert further.steps == ended + 3 == further.parameters["iterations"] and not further.further
    assert "patience" not in further.parameters


def test_no_early_end_while_a_schedule_runs() -> None:
    pipeline = load_pipeline("demo", "cpu")
    story = begin(pipeline, story="a red house", iterations=6, patience=1, init_weight=1000)
    noise = begin(pipeline, start="noise", iterations=6, patience=1, init_weight=1000)
    finish(pipeline, [story])
    finish(pipeline, [noise])
    assert story.step == noise.step == 6


@pytest.mark.slow
def test_further_steps_shrink() -> None:
    """So that the picture comes to rest; as many as the set takes by itself do not."""
    pipeline = with_settings(iterations=2, step_decay=2.0)
    revision, whole = begin(pipeline, iterations=4), begin(with_settings(), iterations=4)
    rate = whole.optimiser.param_groups[0]["lr"]
    rates, moved = [], []
    while not revision.finished:
        rates.append(revision.optimiser.param_groups[0]["lr"] / rate)
        before = revision.latents.detach().clone()
        pipeline.step([revision])
        moved.append((revision.latents.detach() - before).square().mean().sqrt().item())
        if revision.step == 2:
            with_settings().step([whole])
            with_settings().step([whole])
            assert whole.latents.equal(revision.latents)
    assert rates == pytest.approx([1, 1, 4 / 9, 4 / 16])
    with_settings().step([whole])
    with_settings().step([whole])
    assert not whole.latents.equal(revision.latents) and moved[3] < moved[2] < moved[1]

    further = begin(pipeline, iterations=3)
    while not further.finished:
        pipeline.step([further])
    again = pipeline.resume(LatentRevisionsParams(**SMALL, iterations=4), further.state())
    pipeline.step([again])
    assert again.finished and again.latents.equal(revision.latents)


def test_steps_from_noise_and_of_stories_do_not_shrink() -> None:
    """Their schedule says when the picture comes to rest."""
    pipeline = with_settings(iterations=1, step_decay=2.0)
    for more in ({"start": "noise"}, {"story": "a house by day"}):
        revision = begin(pipeline, iterations=4, **more)
        assert [revision.size_of(step) for step in (1, 4)] == [1, 1]
