"""LatentRevisions on the demo weights: what is computed, that seeds and batches keep their word, that words
show."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from LatentRevisions.revision import LatentRevision
from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_tensor
from mead.nn.threads import own_threads
from mead.params import ParamsError
from mead.revision import Progress, check_loss, picture_of, result_of, run
from tests.conftest import DATA, psnr
from training.world import Face, draw


@pytest.fixture(scope="module")
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("demo", "cpu")


def params(prompt: str = "a house at night", **given: Any) -> LatentRevisionsParams:
    return LatentRevisionsParams(prompt=prompt, **given)


def finish(pipeline: LatentRevisionsPipeline, revisions: Sequence[LatentRevision]) -> list[Image.Image]:
    while waiting := [revision for revision in revisions if not revision.finished]:
        pipeline.step(waiting)
    return [pipeline.image(revision) for revision in revisions]


def test_a_set_without_a_learned_start_starts_from_noise(pipeline: LatentRevisionsPipeline) -> None:
    """Though its settings, which it may have from its base, ask for the learned start."""
    bare = copy.copy(pipeline)
    bare.learned_start = None
    assert bare.hyperparameters.start == "learned"
    asked = {"prompt": "a house", "seed": 1}
    started, noise = (
        maker.start(LatentRevisionsParams(**asked, **more))
        for maker, more in ((bare, {}), (pipeline, {"start": "noise"}))
    )
    assert torch.equal(started.latents, noise.latents)
    with pytest.raises(ParamsError, match="fetch full --with start"):
        bare.start(LatentRevisionsParams(**asked, start="learned"))


def test_every_argument_at_once_makes_a_png(tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = LatentRevisions(
        prompt="A beautiful person",
        w0=5,
        img_path=DATA / "face.jpeg",
        img_enc_path=DATA / "chelsea.jpg",
        ne_img_enc_path=DATA / "coffee.jpg",
        text_to_add="queen looking at us",
        w1=2,
        w2=5,
        w3=1,
        output_path=tmp_path / "out",
        iterations=3,
        callback=seen.append,
    ).run()
    assert Path(path).parent == tmp_path / "out"
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (512, 512) and picture.mode == "RGB"
    assert [(progress.step, progress.steps) for progress in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(np.isfinite(progress.loss) and progress.seconds > 0 for progress in seen)
    assert seen[-1].image().size == (128, 128)


def test_a_finished_picture_is_enlarged_and_nothing_else_changes(pipeline: LatentRevisionsPipeline) -> None:
    pictures = {}
    for upscale in (None, 1, 2, 4):
        revision = pipeline.start(params(seed=1, iterations=2, size="64x96", upscale=upscale))
        (small,) = finish(pipeline, [revision])
        pictures[upscale] = result_of(pipeline, revision)
        if upscale == 1:
            assert pictures[upscale].tobytes() == small.tobytes()
        else:
            assert psnr(pictures[upscale].reduce(upscale or 4), small) > 25
    sizes = [picture.size for picture in pictures.values()]
    assert sizes == [(256, 384), (64, 96), (128, 192), (256, 384)]
    assert pictures[None].tobytes() == pictures[4].tobytes()


def test_a_set_without_an_upscaler_makes_small_pictures(pipeline: LatentRevisionsPipeline) -> None:
    """Though its settings, which it may have from its base, ask for larger ones."""
    bare = copy.copy(pipeline)
    bare.upscaler = None
    assert bare.hyperparameters.upscale == 4 and bare.start(params()).upscale == 1
    with pytest.raises(ParamsError, match=r"^upscale: these weights have no upscaler") as caught:
        bare.start(params(upscale=2))
    assert caught.value.out_of_range


@pytest.mark.slow
@pytest.mark.parametrize("start", ["noise", "learned"])
def test_the_same_seed_gives_the_same_file(tmp_path: Path, start: str) -> None:
    def made(seed: int) -> bytes:
        model = LatentRevisions("a red boat", tmp_path, seed=seed, iterations=3, size=(64, 64), start=start)
        return Path(model.run()).read_bytes()

    assert made(7) == made(7)
    assert made(7) != made(8)


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_a_picture_is_the_same_alone_and_in_a_batch(pipeline: LatentRevisionsPipeline) -> None:
    wanted = [
        params("a red circle on a blue background", seed=1, iterations=6),
        params("a boat at sunset", seed=2, iterations=5, img_path=DATA / "coffee.jpg"),
        params("a woman with glasses", seed=3, iterations=6, cutouts=5),
        params("a green tree", seed=4, iterations=4, start="noise"),
    ]
    alone = [finish(pipeline, [pipeline.start(one)])[0] for one in wanted]
    together = finish(pipeline, [pipeline.start(one) for one in wanted])
    for a, b in zip(alone, together, strict=True):
        assert psnr(a, b) >= 40


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"start": "noise", "cutouts": 64},
        {"start": "noise", "size": "384x384", "cutouts": 8},
    ],
)
def test_a_step_is_the_same_on_any_number_of_threads(
    pipeline: LatentRevisionsPipeline, given: dict[str, Any]
) -> None:
    assert pipeline.ignores_threads == (pipeline.precision.dtype == torch.bfloat16)

    def latents(threads: int) -> torch.Tensor:
        revision = pipeline.start(params("a yellow star", seed=1, iterations=2, **given))
        with own_threads(threads):
            for _ in range(2):
                pipeline._step_by_size([revision])
        return revision.latents.detach()

    if pipeline.ignores_threads:
        alone = latents(1)
        assert all(torch.equal(latents(threads), alone) for threads in (3, 8))


@pytest.mark.slow
def test_a_job_may_join_at_any_step_and_in_any_size(pipeline: LatentRevisionsPipeline) -> None:
    late = params("a yellow star", seed=5, iterations=4, size="64x96")
    (alone,) = finish(pipeline, [pipeline.start(late)])
    first = pipeline.start(params(seed=6, iterations=6))
    pipeline.step([first])
    pipeline.step([first])
    joined = finish(pipeline, [first, pipeline.start(late)])
    assert [picture.size for picture in joined] == [(128, 128), (64, 96)]
    assert psnr(alone, joined[1]) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_harms_no_other(pipeline: LatentRevisionsPipeline, value: str) -> None:
    """A job whose latents are not finite makes no picture; what shares a batch with it is as if alone."""
    wanted = [params(seed=seed, iterations=3, size="64x64") for seed in range(3)]
    alone = [finish(pipeline, [pipeline.start(one)])[0] for one in wanted]
    batch = [pipeline.start(one) for one in wanted]
    pipeline.step(batch)
    batch[1].latents.data[0, 0, 0, 0] = float(value)
    while not batch[0].finished:
        pipeline.step(batch)
    for n in (0, 2):
        assert psnr(alone[n], picture_of(pipeline, batch[n])) >= 40
        check_loss(batch[n])
    with pytest.raises(FloatingPointError, match="after step 3 of 3: the latents are not finite"):
        picture_of(pipeline, batch[1])
    if value == "nan":
        with pytest.raises(FloatingPointError, match="step 3 of 3: the loss is nan"):
            check_loss(batch[1])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_networks_that_give_no_finite_picture(pipeline: LatentRevisionsPipeline, value: str) -> None:
    broken = copy.deepcopy(pipeline)
    broken.vqgan.decoder.conv_out.bias.data[0] = float(value)
    revision = broken.start(params(iterations=1, start="noise"))
    with pytest.raises(FloatingPointError, match="the picture is not finite"):
        broken.image(revision)
    if value == "nan":
        with pytest.raises(FloatingPointError, match="step 1 of 1: the loss is nan"):
            run(broken, params(iterations=1, start="noise"))


def test_the_target_weighs_texts_and_pictures(pipeline: LatentRevisionsPipeline) -> None:
    clip = pipeline.perceptor

    def seen(name: str) -> torch.Tensor:
        size = (clip.input_size, clip.input_size)
        picture = ImageOps.fit(read_picture(DATA / name, "img"), size, Image.Resampling.BICUBIC)
        with pipeline.precision.autocast():
            return clip.embed_image(to_tensor(picture))[0]

    said = clip.embed_text(["a queen", "a red hat"])
    given = params(
        "a queen",
        w0=0.5,
        text_to_add="a red hat",
        w1=-0.25,
        img_enc_path=DATA / "face.jpeg",
        w2=1.5,
        ne_img_enc_path=DATA / "coffee.jpg",
        w3=0.75,
        iterations=1,
    )
    expected = 0.5 * said[0] - 0.25 * said[1] + 1.5 * seen("face.jpeg") - 0.75 * seen("coffee.jpg")
    torch.testing.assert_close(pipeline.start(given).target, F.normalize(expected, dim=0))


def test_targets_that_cancel_each_other_out_are_an_error(pipeline: LatentRevisionsPipeline) -> None:
    with pytest.raises(ParamsError, match=r"^w0: .*cancel"):
        pipeline.start(params("a queen", w0=1, text_to_add="a queen", w1=-1))


def test_the_loss_is_the_published_one(pipeline: LatentRevisionsPipeline) -> None:
    revision = pipeline.start(params(seed=1, iterations=1))
    generator = torch.Generator()
    generator.set_state(revision.generator.get_state())
    autocast = pipeline.precision.autocast
    with torch.no_grad():
        with autocast():
            picture = pipeline.vqgan.decode(revision.latents.clamp(-6, 6))
        picture = (picture.float().clamp(-1, 1) + 1) / 2
        maps = revision.cutouts.draw(128, 128, generator)
        crops = revision.cutouts.cut(picture, maps[None], pipeline.perceptor.input_size)
        crops += revision.cutouts.noise(pipeline.perceptor.input_size, generator)
        with autocast():
            seen = pipeline.perceptor.embed_image(crops)
    away = pipeline.perceptor.embed_text(["incoherent, confusing, cropped, watermarks"])[0]
    expected = (-10 * seen @ revision.target + pipeline.hyperparameters.away * seen @ away).mean()
    pipeline.step([revision])
    assert revision.loss == pytest.approx(float(expected), abs=1e-3)


def test_a_starter_picture_is_where_it_starts(pipeline: LatentRevisionsPipeline) -> None:
    starter = ImageOps.fit(read_picture(DATA / "coffee.jpg", "img"), (128, 128))
    begun = pipeline.image(pipeline.start(params(img_path=DATA / "coffee.jpg")))
    other = pipeline.image(pipeline.start(params(img_path=DATA / "chelsea.jpg")))
    assert psnr(begun, starter) > psnr(other, starter) + 3


def test_what_the_prompt_says_is_drawn_into_the_starter_picture(
    pipeline: LatentRevisionsPipeline, tmp_path: Path
) -> None:
    """Before the first step already; the published way starts at the starter's latents."""
    face = replace(Face.sample(np.random.default_rng(8)), hair_colour="red", headwear="none")
    starter, wanted = draw(face), draw(replace(face, hair_colour="blue"))
    starter.save(tmp_path / "face.png")
    plain = copy.copy(pipeline)
    plain.hyperparameters = replace(pipeline.hyperparameters, starter_start="latents")
    params = LatentRevisionsParams(prompt="a person with blue hair", seed=1, img_path=tmp_path / "face.png")
    changed, published = (each.image(each.start(params)) for each in (pipeline, plain))
    assert psnr(published, starter) > 25
    assert psnr(changed, wanted) > psnr(published, wanted) + 3
    wide = params.model_copy(update={"size": (192, 128)})
    assert pipeline.image(pipeline.start(wide)).size == (192, 128)


def test_the_prior_is_told_of_the_starter_picture(pipeline: LatentRevisionsPipeline) -> None:
    """As much as the weights set says."""
    assert pipeline.prior is not None
    given = params(img_path=DATA / "coffee.jpg")
    told = [pipeline.start(given)]
    for share in (0.0, 1.0):
        other = copy.copy(pipeline)
        other.hyperparameters = replace(pipeline.hyperparameters, starter_hint=share)
        told.append(other.start(given))
    own, without, with_it = (revision.hints for revision in told)
    assert own is not None and without is not None and with_it is not None
    assert torch.equal(own, with_it) and not torch.equal(own, without)
    assert torch.equal(without, pipeline.prior.hints(told[1].target))


def test_each_start_has_its_own_learning_rate(pipeline: LatentRevisionsPipeline) -> None:
    def rate(**given: Any) -> float:
        return pipeline.start(params(**given)).optimiser.param_groups[0]["lr"]

    hyper = pipeline.hyperparameters
    assert rate(start="noise") == hyper.learning_rate
    assert rate(start="learned") == hyper.learned_start_rate
    assert rate(img_path=DATA / "coffee.jpg", start="learned") == hyper.starter_rate
    assert len({hyper.learning_rate, hyper.learned_start_rate, hyper.starter_rate}) == 3


def test_init_weight_keeps_a_picture_near_its_start(pipeline: LatentRevisionsPipeline) -> None:
    def moved(**given: Any) -> float:
        revision = pipeline.start(params(seed=4, iterations=8, start="learned", **given))
        first = revision.latents.detach().clone()
        finish(pipeline, [revision])
        return float((revision.latents.detach() - first).square().mean())

    assert moved(init_weight=100.0) < 0.7 * moved(init_weight=0.0)


def test_tv_weight_smooths_a_picture(pipeline: LatentRevisionsPipeline) -> None:
    def variation(**given: Any) -> float:
        revision = pipeline.start(params(seed=4, iterations=8, img_path=DATA / "coffee.jpg", **given))
        (picture,) = finish(pipeline, [revision])
        levels = np.asarray(picture, float)
        return float(np.abs(np.diff(levels, axis=0)).mean() + np.abs(np.diff(levels, axis=1)).mean())

    assert variation(tv_weight=1000.0) < 0.95 * variation(tv_weight=0.0)


def test_without_a_learned_start_asking_for_it_is_an_error(pipeline: LatentRevisionsPipeline) -> None:
    hyper = replace(pipeline.hyperparameters, start="noise")
    bare = LatentRevisionsPipeline(pipeline.vqgan, pipeline.perceptor, None, None, hyper, pipeline.device)
    with pytest.raises(ParamsError, match=r"^start: "):
        bare.start(params(start="learned"))
    side = 128 // pipeline.vqgan.factor
    assert bare.start(params()).latents.shape == (1, pipeline.vqgan.embed_dim, side, side)


@pytest.mark.slow
def test_words_show_in_the_picture(pipeline: LatentRevisionsPipeline) -> None:
    """Red words give more red than blue words, and night is darker than day."""
    prompts = [
        "a red square on a red background",
        "a blue square on a blue background",
        "a landscape at night",
        "a landscape by day",
    ]
    revisions = [pipeline.start(params(one, seed=1, iterations=12)) for one in prompts]
    red, blue, night, day = (np.asarray(picture, float) for picture in finish(pipeline, revisions))
    assert red[..., 0].mean() - red[..., 2].mean() > 40
    assert blue[..., 2].mean() - blue[..., 0].mean() > 40
    assert day[:64].mean() - night[:64].mean() > 40  # the sky


@pytest.mark.slow
def test_colours_show_from_noise_too(pipeline: LatentRevisionsPipeline) -> None:
    prompts = ["a red square on a red background", "a blue square on a blue background"]
    revisions = [pipeline.start(params(one, seed=1, iterations=25, start="noise")) for one in prompts]
    red, blue = (np.asarray(picture, float) for picture in finish(pipeline, revisions))
    assert (red[..., 0] - red[..., 2]).mean() - (blue[..., 0] - blue[..., 2]).mean() > 60


def test_a_second_object_costs_nothing(pipeline: LatentRevisionsPipeline) -> None:
    assert load_pipeline("demo", "cpu") is pipeline
