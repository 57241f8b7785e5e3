"""Going on after the last step, on the demo weights: as if there had been no end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.revision import LatentRevision
from mead.cli.show import read_provenance
from mead.params import ParamsError
from mead.provenance import Weights
from mead.resuming import Origin, latents_file, resume
from mead.revision import start
from tests.conftest import DATA

SMALL: dict[str, Any] = {
    "prompt": "a house at night",
    "seed": 3,
    "size": (64, 64),
    "cutouts": 2,
    "upscale": 1,
}


@pytest.fixture(scope="module")
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("demo", "cpu")


@pytest.fixture(scope="module")
def here() -> Origin:
    return Origin(model="LatentRevisions", weights=Weights.of("demo"), device="cpu")


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    picture = Image.new("L", (64, 64))
    picture.paste(255, (16, 16, 48, 48))
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def step(pipeline: LatentRevisionsPipeline, revision: LatentRevision) -> LatentRevision:
    while not revision.finished:
        pipeline.step([revision])
    return revision


def in_parts(
    pipeline: LatentRevisionsPipeline, here: Origin, parts: list[int], **more: Any
) -> LatentRevision:
    """A revision that has ended and gone on, each time from a file."""
    total = parts[0]
    revision = step(pipeline, start(pipeline, LatentRevisionsParams(**SMALL, **more, iterations=total)))
    for further in parts[1:]:
        total += further
        content = latents_file(revision, here)
        assert content is not None
        params = LatentRevisionsParams(**SMALL, **more, iterations=total)
        revision = start(pipeline, params, partial(resume, pipeline, content=content, here=here))
        assert revision.step == total - further and not revision.finished
        step(pipeline, revision)
    return revision


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prompts": "at night:2 | the moon:-1", "tv_weight": 3},
        {"img_enc_path": DATA / "face.jpeg", "w2": 3, "init_weight": 1},
        {"masked": True},
    ],
    ids=["learned", "prompts", "towards", "masked"],
)
def test_the_same_as_one_longer_job(
    pipeline: LatentRevisionsPipeline, here: Origin, mask: Path, more: dict[str, Any]
) -> None:
    if more.pop("masked", False):
        more = {"img_path": DATA / "coffee.jpg", "mask_path": mask}
    parts, whole = (in_parts(pipeline, here, steps, **more) for steps in ([2, 1, 2], [5]))
    assert parts.loss == whole.loss and parts.latents.equal(whole.latents)
    assert parts.planned == whole.planned == 5
    assert pipeline.image(parts).tobytes() == pipeline.image(whole).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{"img_path": DATA / "coffee.jpg"}, {"start": "noise"}, {"story": "a red house ^ a red house at night"}],
    ids=["starter", "noise", "story"],
)
def test_a_way_that_depends_on_the_steps_goes_on_at_its_end(
    pipeline: LatentRevisionsPipeline, here: Origin, more: dict[str, Any]
) -> None:
    """However the further steps are divided."""
    ended = in_parts(pipeline, here, [4], **more)
    parts, whole = (in_parts(pipeline, here, steps, **more) for steps in ([4, 1, 2], [4, 3]))
    assert parts.latents.equal(whole.latents) and parts.loss == whole.loss
    assert ended.planned == parts.planned == 4 and parts.steps == 7
    assert parts.noise_level == pytest.approx(pipeline.hyperparameters.noise_last)
    if parts.chapters is not None:
        assert parts.target.equal(parts.chapters.targets[-1])


@pytest.mark.slow
def test_the_class_goes_on(tmp_path: Path) -> None:
    def model(iterations: int, **more: Any) -> LatentRevisions:
        return LatentRevisions(**SMALL, iterations=iterations, output_path=tmp_path, device="cpu", **more)

    seen: list[int] = []
    made = model(2, frames=2, callback=lambda progress: seen.append(progress.step))
    with pytest.raises(RuntimeError, match=r"^resume: .* call that first"):
        made.resume(1)
    first = made.run()
    longer = made.resume(3)
    assert seen == [1, 2, 3, 4, 5] and first != longer
    assert Path(longer).read_bytes() == Path(model(5).run()).read_bytes()
    for wrong in (0, "many", 1996):
        with pytest.raises(ParamsError, match=r"^iterations: "):
            made.resume(wrong)


def test_the_picture_of_a_story_says_that_it_went_on(tmp_path: Path) -> None:
    made = LatentRevisions(**SMALL, story="a red house", iterations=2, output_path=tmp_path, device="cpu")
    assert read_provenance(Path(made.run())).further == 0
    told = read_provenance(Path(made.resume(3)))
    assert (told.steps, told.further, told.parameters["iterations"]) == (5, 3, 2)


def test_what_cannot_go_on_here(pipeline: LatentRevisionsPipeline, here: Origin) -> None:
    params = LatentRevisionsParams(**SMALL, iterations=1)
    content = latents_file(step(pipeline, start(pipeline, params)), here)
    assert content is not None
    sums = dict(here.weights.sha256)
    others = {
        "the weights 'demo' have changed since that job": {
            "weights": here.weights.model_copy(update={"sha256": sums | {"vqgan": "0" * 64}})
        },
        "made with the weights 'full', not 'demo'": {
            "weights": here.weights.model_copy(update={"name": "full"})
        },
        "ran on the device cuda; it cannot go on on cpu": {"device": "cuda"},
        "made by StyleCLIP": {"model": "StyleCLIP"},
    }
    new = pipeline.start(params)
    for why, changes in others.items():
        foreign = latents_file(new, here.model_copy(update=changes))
        assert foreign is not None
        with pytest.raises(ParamsError, match=rf"^from: .*{why}"):
            resume(pipeline, params, foreign, here)
    for damaged in (
        b"",
        content[:7],
        content[:-1],
        b"\xff" * 100,
        content.replace(b'"format\\":1', b'"format\\":2'),
    ):
        with pytest.raises(
            ParamsError, match=r"^from: the latents of that job are damaged, or of another version"
        ):
            resume(pipeline, params, damaged, here)
    larger = params.model_copy(update={"size": (64, 80)})
    with pytest.raises(ParamsError, match=r"^from: "):
        resume(pipeline, larger, content, here)
