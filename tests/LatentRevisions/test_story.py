"""Stories: whose turn it is, how the targets blend, and that a job follows them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.revision import LatentRevision
from LatentRevisions.story import Chapters
from tests.conftest import DATA, psnr
from training.pictures import tensor
from training.reader import Reader


@pytest.fixture(scope="module")
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("demo", "cpu")


def started(pipeline: LatentRevisionsPipeline, **given: Any) -> LatentRevision:
    usual = {"prompt": "a red tree", "story": "a blue house ^ a boat at night", "seed": 1, "size": "64x64"}
    return pipeline.start(LatentRevisionsParams(**{**usual, "iterations": 6, **given}))


def test_each_target_has_an_equal_share_and_blends_over_a_tenth_of_it() -> None:
    targets = torch.eye(3)
    chapters = Chapters(targets, 60)
    for step in range(60):
        now, done = divmod(step, 20)
        target = chapters.target(step)
        assert target.norm() == pytest.approx(1)
        if now == 0 or done >= 2:
            assert torch.equal(target, targets[now])
        else:
            expected = F.normalize(torch.lerp(targets[now - 1], targets[now], done / 2), dim=0)
            torch.testing.assert_close(target, expected)
    assert [step for step in range(61) if chapters.begins(step)] == [20, 40]
    assert [chapters.done(steps) for steps in (1, 10, 20, 21, 60)] == pytest.approx([0.05, 0.5, 1, 0.05, 1])


def test_latents_arrive_as_the_target_has_taken_over() -> None:
    chapters = Chapters(torch.eye(2), 40)
    place = 0.0  # of the way
    for step, expected in ((20, 0.5), (21, 1.0)):
        place += (1 - place) * chapters.approach(step)
        assert place == pytest.approx(expected)
    assert Chapters(torch.eye(3), 6).approach(2) == 1  # the blend is shorter than a step


def test_there_may_be_more_texts_than_steps() -> None:
    chapters = Chapters(torch.eye(5), 2)
    assert [int(chapters.target(step).argmax()) for step in range(2)] == [0, 2]
    assert all(0 < chapters.done(steps) <= 1 for steps in (1, 2))


def test_the_target_is_of_the_text_whose_turn_it_is(pipeline: LatentRevisionsPipeline) -> None:
    revision = started(pipeline, prompts="grass:2")
    said = pipeline.perceptor.embed_text(["a red tree", "a blue house", "a boat at night", "grass"])
    expected = F.normalize(5 * said[:3] + 2 * said[3], dim=1)
    torch.testing.assert_close(revision.target, expected[0])
    for step in range(6):
        pipeline.step([revision])
        if step % 2:
            torch.testing.assert_close(revision.target, expected[step // 2])
            assert revision.towards.target is revision.target


def test_without_a_story_the_target_stays(pipeline: LatentRevisionsPipeline) -> None:
    revision = started(pipeline, story=None)
    target = revision.target
    pipeline.step([revision])
    assert revision.target is target and revision.chapters is None


@pytest.mark.slow
def test_each_text_starts_in_the_scene_of_the_one_before(pipeline: LatentRevisionsPipeline) -> None:
    revision = started(
        pipeline, prompt="a red circle on a blue background", story="a yellow star", size="128x128"
    )
    reader = Reader.load()
    for _ in range(6):
        pipeline.step([revision])
    (reading,) = reader.read(tensor([pipeline.image(revision)]))
    assert (reading["star"], reading["background"], reading["circle"]) == ("yellow", "blue", "none")


def test_a_set_may_leave_the_latents_where_they_are(pipeline: LatentRevisionsPipeline) -> None:
    published = copy.copy(pipeline)
    published.hyperparameters = replace(pipeline.hyperparameters, story_start="latents")
    revision = started(published)
    anchor = revision.anchor.first
    for _ in range(6):
        before = revision.latents.detach().clone()
        published.step([revision])
        assert (revision.latents - before).abs().mean() < 0.1
    assert revision.anchor.first is anchor and revision.coming is None


@pytest.mark.slow
def test_a_story_keeps_what_a_mask_keeps(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    mask = Image.new("L", (40, 40))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "mask.png")
    revision = started(pipeline, img_path=DATA / "coffee.jpg", mask_path=tmp_path / "mask.png")
    assert revision.masked is not None
    while not revision.finished:
        pipeline.step([revision])
    picture = np.asarray(pipeline.image(revision))
    kept = np.asarray(revision.masked.alpha) == 0
    assert (picture[kept] == np.asarray(revision.masked.starter)[kept]).all() and kept.any()


@pytest.mark.slow
def test_a_story_is_the_same_alone_and_in_a_batch(pipeline: LatentRevisionsPipeline) -> None:
    alone, again, other = started(pipeline), started(pipeline), started(pipeline, story=None, seed=2)
    while not alone.finished:
        pipeline.step([alone])
    while not again.finished:
        pipeline.step([other, again])
    assert psnr(pipeline.image(alone), pipeline.image(again)) >= 40
