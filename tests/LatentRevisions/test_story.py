"""Stories: whose turn it is, how the targets blend, and that a job follows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.revision import LatentRevision
from LatentRevisions.story import Chapters
from tests.conftest import psnr


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
def test_a_story_is_the_same_alone_and_in_a_batch(pipeline: LatentRevisionsPipeline) -> None:
    alone, again, other = started(pipeline), started(pipeline), started(pipeline, story=None, seed=2)
    while not alone.finished:
        pipeline.step([alone])
    while not again.finished:
        pipeline.step([other, again])
    assert psnr(pipeline.image(alone), pipeline.image(again)) >= 40
