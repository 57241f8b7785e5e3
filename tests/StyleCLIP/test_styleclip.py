"""StyleCLIP on the demo weights: that it is the uploaded face that is edited, that seeds and batches keep
their word."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mead.imaging.pictures import PictureError
from mead.nn.threads import own_threads
from mead.params import ParamsError
from mead.revision import Progress, check_loss, picture_of, result_of
from StyleCLIP.align import align, find_face
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision, ramp
from StyleCLIP.StyleCLIP import StyleCLIP, StyleCLIPPipeline, load_pipeline
from tests.conftest import DATA, psnr
from training.world import Face, Landscape, draw
from training.world.colours import gradient


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    return load_pipeline("demo", "cpu")


@pytest.fixture
def girl(tmp_path: Path) -> Path:
    """A drawn girl with brown hair and brown eyes."""
    rng = np.random.default_rng(0)
    looks = {"gender": "female", "hair_colour": "brown", "hair_style": "long", "eye_colour": "brown"}
    plain = {
        "glasses": False,
        "headwear": "none",
        "expression": "smile",
        "background": "white",
        "age": "adult",
    }
    face = replace(Face.sample(rng), **looks, **plain, skin="light")
    path = tmp_path / "girl.png"
    draw(face).save(path)
    return path


def finish(pipeline: StyleCLIPPipeline, revisions: Sequence[StyleRevision]) -> list[Image.Image]:
    while waiting := [revision for revision in revisions if not revision.finished]:
        pipeline.step(waiting)
    return [pipeline.image(revision) for revision in revisions]


def params(prompt: str = "A girl with purple eyes", **given: Any) -> StyleCLIPParams:
    return StyleCLIPParams(prompt=prompt, **given)


def test_a_set_without_a_mapper_starts_at_the_inversion(pipeline: StyleCLIPPipeline) -> None:
    """Though its settings, which it may have from its base, ask for the learned start."""
    bare = copy.copy(pipeline)
    bare.mapper = None
    assert bare.hyperparameters.start == "learned"
    assert torch.equal(bare.start(params()).latents, pipeline.start(params(start="inversion")).latents)
    with pytest.raises(ParamsError, match="no learned start"):
        bare.start(params(start="learned"))


def test_a_photo_becomes_a_png(tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = StyleCLIP(
        prompt="A girl with purple eyes",
        uid="edited",
        output_path=tmp_path / "out",
        img_path=DATA / "face.jpeg",
        iterations=3,
        callback=seen.append,
    ).run()
    assert path == str(tmp_path / "out" / "edited.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (512, 512)
    assert seen[-1].image().size == (128, 128)
    assert [progress.step for progress in seen] == [1, 2, 3]


def test_a_finished_face_is_enlarged_as_asked(pipeline: StyleCLIPPipeline) -> None:
    for upscale, side in ((None, 512), (1, 128), (2, 256), (4, 512)):
        revision = pipeline.start(params(iterations=1, upscale=upscale))
        assert result_of(pipeline, revision).size == (side, side)
        assert pipeline.image(revision).size == (128, 128)
    bare = copy.copy(pipeline)
    bare.upscaler = None
    assert bare.start(params()).upscale == 1
    with pytest.raises(ParamsError, match=r"^upscale: these weights have no upscaler"):
        bare.start(params(upscale=4))


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    def made(uid: str) -> bytes:
        model = StyleCLIP("a smiling man", uid, tmp_path, DATA / "face.jpeg", seed=3, iterations=3)
        return Path(model.run()).read_bytes()

    assert made("a") == made("b")


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_a_picture_is_the_same_alone_and_in_a_batch(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    wanted = [
        params("a woman with blue hair", seed=1, iterations=4, img_path=girl),
        params("a man with glasses", seed=2, iterations=3, img_path=DATA / "face.jpeg"),
        params("a queen", seed=3, iterations=4),
        params("a sad boy", seed=4, iterations=3, img_path=girl),
    ]
    alone = [finish(pipeline, [pipeline.start(one)])[0] for one in wanted]
    together = finish(pipeline, [pipeline.start(one) for one in wanted])
    for a, b in zip(alone, together, strict=True):
        assert psnr(a, b) >= 40


@pytest.mark.parametrize("given", [{}, {"start": "inversion"}, {"space": "s"}])
def test_a_step_is_the_same_on_any_number_of_threads(
    pipeline: StyleCLIPPipeline, given: dict[str, Any]
) -> None:
    assert pipeline.ignores_threads == (pipeline.precision.dtype == torch.bfloat16)

    def latents(threads: int) -> torch.Tensor:
        revision = pipeline.start(params("a queen", seed=1, iterations=3, **given))
        with own_threads(threads):
            for _ in range(3):
                pipeline._optimise([revision])
        return revision.latents.detach()

    if pipeline.ignores_threads:
        alone = latents(1)
        assert all(torch.equal(latents(threads), alone) for threads in (3, 8))


def test_it_starts_with_the_uploaded_face(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    inverted = pipeline.image(pipeline.start(params(img_path=girl, start="inversion")))
    average = pipeline.image(pipeline.start(params(start="inversion")))
    with Image.open(girl) as original:
        assert psnr(inverted, original) > psnr(average, original) + 3


def test_strength_shows_as_much_of_the_edit(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    given = {"img_path": girl, "iterations": 2, "refine": 0, "seed": 1}
    inverted = pipeline.image(pipeline.start(params(start="inversion", img_path=girl, refine=0)))
    none, half, whole, left_out = finish(
        pipeline,
        [pipeline.start(params("a woman with blue hair", **given, **more)) for more in STRENGTHS],
    )
    assert none.tobytes() == inverted.tobytes() and whole.tobytes() == left_out.tobytes()
    assert psnr(inverted, whole) < min(psnr(inverted, half), psnr(half, whole))


STRENGTHS: list[dict[str, float]] = [{"strength": 0}, {"strength": 0.5}, {"strength": 1}, {}]


def test_weights_of_losses_are_a_jobs_own(pipeline: StyleCLIPPipeline) -> None:
    hyper = pipeline.hyperparameters
    for given, expected in (
        ({}, [hyper.l2, hyper.identity]),
        ({"l2": 0, "identity": 2.5}, [0, 2.5]),
    ):
        _, l2, identity = pipeline.start(params(start="inversion", **given)).objective
        assert [l2.factor, identity.factor] == expected


def test_what_is_not_finite_harms_no_other(pipeline: StyleCLIPPipeline) -> None:
    """A job whose codes are not finite makes no picture; what shares a batch with it is as if alone."""
    wanted = [params(seed=seed, iterations=3, start="inversion") for seed in range(3)]
    alone = [finish(pipeline, [pipeline.start(one)])[0] for one in wanted]
    batch = [pipeline.start(one) for one in wanted]
    pipeline.step(batch)
    batch[1].latents.data[0, 0, 0] = float("nan")
    while not batch[0].finished:
        pipeline.step(batch)
    for n in (0, 2):
        assert psnr(alone[n], picture_of(pipeline, batch[n])) >= 40
        check_loss(batch[n])
    with pytest.raises(FloatingPointError, match="step 3 of 3: the loss is nan"):
        check_loss(batch[1])
    with pytest.raises(FloatingPointError, match="the latents are not finite"):
        picture_of(pipeline, batch[1])
    with pytest.raises(FloatingPointError, match="the picture is not finite"):
        pipeline.image(batch[1])


EYES = (slice(54, 68), slice(40, 88))
HAIR = (slice(16, 28), slice(46, 82))
CORNER = (slice(100, 110), slice(0, 10))


def excess(picture: Image.Image, place: tuple[slice, slice], channels: list[int]) -> float:
    """How much more of some colour channels a place has than of the others, on average."""
    part = np.asarray(picture, float)[place]
    others = [channel for channel in range(3) if channel not in channels]
    return float(part[..., channels].mean() - part[..., others].mean())


@pytest.mark.slow
def test_words_show_in_the_face(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    """Purple eyes are more purple than those of the drawing and of the photo, and the background stays."""
    faces = (girl, DATA / "face.jpeg")
    wanted = [params("A girl with purple eyes", seed=1, img_path=face) for face in faces]
    starts = [pipeline.start(params(img_path=face, start="inversion")) for face in faces]
    before = [pipeline.image(start) for start in starts]
    after = finish(pipeline, [pipeline.start(one) for one in wanted])
    for old, new in zip(before, after, strict=True):
        assert excess(new, EYES, [0, 2]) > excess(old, EYES, [0, 2]) + 10
        corners = [np.asarray(picture, float)[CORNER] for picture in (old, new)]
        assert np.abs(corners[1] - corners[0]).mean() < 20


@pytest.mark.slow
def test_brown_hair_becomes_blue_and_eyes_stay_brown(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    before = pipeline.image(pipeline.start(params(img_path=girl, start="inversion")))
    after = finish(pipeline, [pipeline.start(params("a woman with blue hair", seed=1, img_path=girl))])[0]
    assert excess(before, HAIR, [2]) < -20 and excess(after, HAIR, [2]) > 60
    assert abs(excess(after, EYES, [2]) - excess(before, EYES, [2])) < 20


def test_a_learned_start_is_another_and_the_face_is_still_the_reference(
    pipeline: StyleCLIPPipeline, girl: Path
) -> None:
    asked = "a woman with blue hair"
    learned = pipeline.start(params(asked, img_path=girl, refine=0))
    inverted = pipeline.start(params(asked, img_path=girl, start="inversion", refine=0))
    assert pipeline.hyperparameters.start == "learned"
    assert not torch.equal(learned.codes, inverted.codes)
    assert torch.equal(learned.features, inverted.features)
    assert (learned.learning_rate, inverted.learning_rate) == (
        pipeline.hyperparameters.learned_start_rate,
        pipeline.hyperparameters.learning_rate,
    )


def test_without_a_mapper_asking_for_a_learned_start_is_an_error(
    pipeline: StyleCLIPPipeline, girl: Path
) -> None:
    bare = with_hyperparameters(pipeline, start="inversion")
    bare.mapper = None
    with pytest.raises(ParamsError, match=r"^start: "):
        bare.start(params(img_path=girl, start="learned"))
    started = bare.start(params(img_path=girl, refine=0))
    assert started.learning_rate == pipeline.hyperparameters.learning_rate


def with_hyperparameters(pipeline: StyleCLIPPipeline, **changes: Any) -> StyleCLIPPipeline:
    return StyleCLIPPipeline(
        pipeline.generator,
        pipeline.encoder,
        pipeline.average[0],
        pipeline.identity,
        pipeline.perceptor,
        pipeline.mapper,
        pipeline.classifier,
        replace(pipeline.hyperparameters, **changes),
        pipeline.device,
    )


@pytest.mark.parametrize("side", [64, 128, 700])
def test_a_drawn_face_is_used_whole(pipeline: StyleCLIPPipeline, girl: Path, side: int) -> None:
    Image.open(girl).resize((side, side), Image.Resampling.LANCZOS).save(girl)
    whole = Image.open(girl).resize((256, 256), Image.Resampling.LANCZOS)
    assert psnr(pipeline.aligned(girl), whole) > 40


def test_a_drawn_face_within_a_border_is_cut_out(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    face = Image.open(girl).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (600, 400), "navy")
    page.paste(face, (40, 90))
    page.save(girl)
    x, y = np.asarray(pipeline.aligned(girl), float).mean((0, 1)), np.asarray(face, float).mean((0, 1))
    assert np.abs(x - y).max() < 60  # 116 if the middle square were taken


def test_a_photo_is_aligned(pipeline: StyleCLIPPipeline) -> None:
    """Whatever a classifier of drawn faces says of it."""
    photo = Image.open(DATA / "face.jpeg")
    assert psnr(pipeline.aligned(DATA / "face.jpeg"), align(photo, find_face(photo), 256)) > 30


def test_a_picture_without_a_face(pipeline: StyleCLIPPipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boat = Landscape.sample(rng)
    while "boat" not in {thing.kind for thing in boat.things}:
        boat = Landscape.sample(rng)
    pictures = {
        "boat": draw(boat),
        "grey": Image.new("RGB", (200, 100), "grey"),
        "gradient": gradient(300, [(250, 220, 190), (60, 90, 200)]),
        "noise": Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)),
        "pixel": Image.new("RGB", (1, 1), "white"),
        "strip": Image.new("RGB", (3000, 2), "white"),
        "turned": Image.open(DATA / "chelsea.jpg").rotate(90, expand=True),
    }
    paths = [DATA / "coffee.jpg", DATA / "chelsea.jpg"]
    for name, picture in pictures.items():
        paths.append(tmp_path / f"{name}.png")
        picture.save(paths[-1])
    for path in paths:
        with pytest.raises(PictureError, match=r"^img: found no face .* give a photo") as caught:
            pipeline.start(params(img_path=path))
        assert (caught.value.kind, caught.value.field) == ("no_face", "img"), path


def test_a_set_without_a_classifier_finds_people(pipeline: StyleCLIPPipeline, tmp_path: Path) -> None:
    bare = copy.copy(pipeline)
    bare.classifier = None
    assert bare.aligned(DATA / "face.jpeg") == pipeline.aligned(DATA / "face.jpeg")
    with pytest.raises(PictureError, match=r"^img: "):
        bare.aligned(DATA / "chelsea.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["inversion", "learned"])
def test_the_loss_is_the_published_one(pipeline: StyleCLIPPipeline, girl: Path, start: str) -> None:
    revision = pipeline.start(params(img_path=girl, start=start))
    prompt = pipeline.perceptor.embed_text(["A girl with purple eyes"])
    other = F.normalize(revision.features.flip(1), dim=1)
    moved = revision.codes + 0.5

    def loss(embeddings: Tensor, codes: Tensor, features: Tensor) -> float:
        return float(revision.objective({"embeddings": embeddings, "codes": codes, "features": features}))

    assert loss(prompt, revision.codes, revision.features) == pytest.approx(0, abs=1e-5)
    assert loss(-prompt, revision.codes, revision.features) == pytest.approx(2, abs=1e-5)
    hyper = pipeline.hyperparameters
    l2 = hyper.l2 if start == "inversion" else hyper.learned_start_l2
    distance = l2 * 0.25 * moved.numel()
    identity = hyper.identity * (1 - float(revision.features[0] @ other[0]))
    assert loss(prompt, moved, revision.features) == pytest.approx(distance, rel=1e-4)
    assert loss(prompt, revision.codes, other) == pytest.approx(identity, rel=1e-3, abs=1e-5)


def test_the_learning_rate_rises_and_falls_as_published() -> None:
    assert ramp(0.0) == 0
    assert ramp(0.025) == pytest.approx(0.5)
    assert ramp(0.05) == ramp(0.5) == ramp(0.75) == pytest.approx(1)
    assert ramp(0.875) == pytest.approx(0.5)
    assert ramp(1.0) == pytest.approx(0)


def test_nothing_is_left_to_chance_without_a_picture(pipeline: StyleCLIPPipeline) -> None:
    revision = pipeline.start(params(start="inversion"))
    assert torch.equal(revision.codes, pipeline.average)
