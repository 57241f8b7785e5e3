"""Masks: what they let change, and that everything else stays the starter's own, in every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.masking import feathered
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from mead.imaging.pictures import PictureError, read_picture
from mead.revision import result_of
from tests.conftest import DATA, psnr

STARTER = DATA / "coffee.jpg"
BOX = (0.25, 0.25, 0.75, 0.75)  # of the mask, in sides


@pytest.fixture(scope="module")
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("demo", "cpu")


def mask_file(
    folder: Path, size: tuple[int, int] = (90, 60), box: tuple[float, ...] = BOX, level: int = 255
) -> Path:
    """A mask that is black but for a box."""
    mask = Image.new("L", size)
    left, top, right, bottom = (round(share * size[k % 2]) for k, share in enumerate(box))
    mask.paste(level, (left, top, right, bottom))
    path = folder / f"{size}-{box}-{level}.png"
    mask.save(path)
    return path


def params(mask: Path, **given: Any) -> LatentRevisionsParams:
    usual = {
        "prompt": "a red star",
        "seed": 1,
        "iterations": 2,
        "img_path": STARTER,
        "size": "64x64",
        "upscale": 1,
    }
    return LatentRevisionsParams(**{**usual, "mask_path": mask, **given})


def made(pipeline: LatentRevisionsPipeline, job: LatentRevisionsParams) -> Image.Image:
    revision = pipeline.start(job)
    while not revision.finished:
        pipeline.step([revision])
    return result_of(pipeline, revision)


def changed(a: Image.Image, b: Image.Image) -> np.ndarray:
    """Where two pictures differ, [H, W]."""
    return np.asarray((np.asarray(a) != np.asarray(b)).any(2))


def black(mask: Path, starter: Path, size: tuple[int, int]) -> np.ndarray:
    """Where a mask, stretched over the starter and cropped with it, is black."""
    whole = read_picture(mask, "mask", mask=True).resize(
        read_picture(starter, "img").size, Image.Resampling.BILINEAR
    )
    return np.asarray(ImageOps.fit(whole, size, Image.Resampling.BILINEAR)) == 0


@pytest.mark.parametrize("upscale", [1, 2, 4])
@pytest.mark.parametrize("size", ["64x64", "96x64"])
def test_outside_the_mask_every_pixel_is_the_starters(
    pipeline: LatentRevisionsPipeline, tmp_path: Path, upscale: int, size: str
) -> None:
    """At the size of the finished picture, as sharp as the starter is."""
    mask = mask_file(tmp_path)
    picture = made(pipeline, params(mask, size=size, upscale=upscale))
    starter = ImageOps.fit(read_picture(STARTER, "img"), picture.size, Image.Resampling.LANCZOS)
    outside = black(mask, STARTER, picture.size)
    different = changed(picture, starter)
    assert not different[outside].any() and 0.5 < outside.mean() < 0.9
    assert different[~outside].mean() > 0.9


def test_a_small_starter_is_enlarged_as_the_picture_is(
    pipeline: LatentRevisionsPipeline, tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    Image.open(STARTER).resize((60, 48)).save(small)
    mask = mask_file(tmp_path)
    picture = made(pipeline, params(mask, img_path=small, upscale=4))
    fitted = ImageOps.fit(read_picture(small, "img"), (64, 64), Image.Resampling.LANCZOS)
    assert pipeline.upscaler is not None
    *_, enlarged = pipeline.upscaler.enlarge(fitted, 4)
    assert enlarged is not None and picture.size == enlarged.size == (256, 256)
    assert not changed(picture, enlarged)[black(mask, small, picture.size)].any()


def test_the_picture_so_far_keeps_the_rest_too(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    starter = ImageOps.fit(read_picture(STARTER, "img"), (64, 64), Image.Resampling.LANCZOS)
    revision = pipeline.start(params(mask, upscale=4))
    for _ in range(2):
        assert not changed(pipeline.image(revision), starter)[black(mask, STARTER, (64, 64))].any()
        pipeline.step([revision])


def test_kept_places_of_the_latents_stay_and_clip_sees_the_composite(
    pipeline: LatentRevisionsPipeline, tmp_path: Path
) -> None:
    revision = pipeline.start(params(mask_file(tmp_path)))
    masked = revision.masked
    assert masked is not None
    free = masked.free.expand_as(revision.latents)
    pipeline.step([revision])
    pipeline.step([revision])
    assert torch.equal(revision.latents[~free], revision.first[~free])
    assert (revision.latents[free] != revision.first[free]).float().mean() > 0.9
    seen = revision.seen(torch.zeros(1, 3, 64, 64))
    assert torch.equal(
        seen[masked.shares.expand_as(seen) == 0], masked.pixels[masked.shares.expand_as(seen) == 0]
    )
    assert (seen[masked.shares.expand_as(seen) == 1] == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (300, 200), (77, 500)])
def test_a_mask_of_any_size_is_stretched_over_the_starter(
    pipeline: LatentRevisionsPipeline, tmp_path: Path, size: tuple[int, int]
) -> None:
    masked = pipeline.start(params(mask_file(tmp_path, size))).masked
    assert masked is not None
    rows, columns = np.nonzero(np.asarray(masked.alpha) > 80)
    # the middle half of the starter, 600 x 400, of which the middle 400 x 400 are seen
    edges = [columns.min() / 64, rows.min() / 64, (columns.max() + 1) / 64, (rows.max() + 1) / 64]
    assert edges == pytest.approx([0.125, 0.25, 0.875, 0.75], abs=0.08)


def test_transparent_is_made_anew(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    white = mask_file(tmp_path)
    hole = Image.new("RGBA", (90, 60), (255, 255, 255, 255))  # opaque white stays
    hole.putalpha(Image.eval(Image.open(white), lambda level: 255 - level))
    hole.save(tmp_path / "hole.png")
    opaque = Image.open(white).convert("RGBA")  # says it by its brightness
    opaque.save(tmp_path / "opaque.png")
    pictures = [
        made(pipeline, params(path)) for path in (white, tmp_path / "hole.png", tmp_path / "opaque.png")
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes() == pictures[2].tobytes()


def test_grey_is_for_partly(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    grey = pipeline.start(params(mask_file(tmp_path, level=102))).masked
    assert grey is not None
    assert grey.alpha.getextrema() == (0, 102) and grey.shares.max() == pytest.approx(0.4)
    over = grey.over(torch.ones(1, 3, 64, 64))[0, :, 32, 32]
    torch.testing.assert_close(over, 0.6 * grey.pixels[0, :, 32, 32] + 0.4)


def test_a_mask_lies_over_the_starter_as_it_is_seen(
    pipeline: LatentRevisionsPipeline, tmp_path: Path
) -> None:
    """Both are turned as their EXIF orientation says."""
    upright = ImageOps.exif_transpose(Image.open(STARTER))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    mask = mask_file(tmp_path, box=(0.3, 0.0, 0.7, 0.4))
    turned_mask = tmp_path / "turned-mask.png"
    Image.open(mask).transpose(Image.Transpose.ROTATE_90).save(turned_mask, exif=exif)
    upright.save(tmp_path / "upright.png")
    expected = made(pipeline, params(mask, img_path=tmp_path / "upright.png"))
    assert made(pipeline, params(mask, img_path=turned)).tobytes() == expected.tobytes()
    assert made(pipeline, params(turned_mask, img_path=turned)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("level", "why"), [(0, "nothing in it is white"), (255, "all of it is white")])
def test_an_empty_or_full_mask_is_an_error(
    pipeline: LatentRevisionsPipeline, tmp_path: Path, level: int, why: str
) -> None:
    Image.new("L", (20, 20), level).save(tmp_path / "plain.png")
    with pytest.raises(PictureError, match=rf"^mask: {why}") as caught:
        pipeline.start(params(tmp_path / "plain.png"))
    assert caught.value.kind == "no_mask"


def test_what_the_crop_leaves_of_a_mask_counts(pipeline: LatentRevisionsPipeline, tmp_path: Path) -> None:
    left = mask_file(tmp_path, box=(0.0, 0.0, 0.1, 1.0))  # 64x64 shows the middle two thirds
    with pytest.raises(PictureError, match="nothing in it is white"):
        pipeline.start(params(left))
    assert pipeline.start(params(left, size="96x64")).masked is not None


def test_a_mask_needs_a_starter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^mask: .*no img"):
        LatentRevisions("a star", tmp_path, mask_path=mask_file(tmp_path))


@pytest.mark.slow
def test_masked_jobs_and_others_do_not_touch_each_other(
    pipeline: LatentRevisionsPipeline, tmp_path: Path
) -> None:
    jobs = [
        params(mask_file(tmp_path), iterations=9),
        params(mask_file(tmp_path, box=(0.5, 0.1, 0.9, 0.9)), iterations=12, seed=2, prompt="a blue house"),
        LatentRevisionsParams(prompt="a tree", seed=3, iterations=12, size="64x64"),
        LatentRevisionsParams(prompt="a tree", seed=4, iterations=7, size="64x64", img_path=STARTER),
    ]
    alone = []
    for job in jobs:
        revision = pipeline.start(job)
        while not revision.finished:
            pipeline.step([revision])
        alone.append(pipeline.image(revision))
    together = [pipeline.start(job) for job in jobs]
    while unfinished := [revision for revision in together if not revision.finished]:
        pipeline.step(unfinished)
    for picture, revision in zip(alone, together, strict=True):
        assert psnr(picture, pipeline.image(revision)) >= 40


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    def file(seed: int) -> bytes:
        given = {"img_path": STARTER, "mask_path": mask_file(tmp_path), "iterations": 3, "size": (64, 64)}
        return Path(LatentRevisions("a red boat", tmp_path, seed=seed, **given).run()).read_bytes()

    assert file(7) == file(7) != file(8)


def test_feathering_stays_inside_and_keeps_narrow_masks() -> None:
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 10:30, 10:30] = 1
    mask[..., 35:37, :] = 1  # narrow
    mask[..., 2:8, 5:15] = 0.5
    soft = feathered(mask, 4)
    assert (soft <= mask).all() and (soft[mask == 0] == 0).all()
    across = soft[0, 0, 20, 10:16].tolist()
    assert across == sorted(across) and 0 < across[0] < 0.3 and across[4] == across[5] == 1
    assert soft[0, 0, 35, 20] > 0.9
    assert 0.4 < soft[0, 0, 4:6, 9:11].mean() <= 0.5
    assert torch.equal(feathered(mask, 0), mask)


def test_at_the_pictures_edge_there_is_no_border() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :10] = 1
    soft = feathered(mask, 3)[0, 0]
    assert soft[0, 0] == soft[10, 0] == 1 and soft[10, 9] < 0.5
