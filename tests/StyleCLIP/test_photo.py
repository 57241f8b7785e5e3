"""The edited face back in its photo: which face, what stays as it was, the ways a photo may come."""

from __future__ import annotations

import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from mead.imaging.colours import CHROMATICITIES, screen_profile
from mead.imaging.pasting import mask_of
from mead.imaging.pictures import PictureError, read_picture
from mead.params import ParamsError
from mead.revision import finish, result_of, run
from StyleCLIP.align import cut_out
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision
from StyleCLIP.StyleCLIP import StyleCLIP, StyleCLIPPipeline, load_pipeline
from StyleCLIP.views import Views
from tests.conftest import DATA
from tests.StyleCLIP.test_faces import PLACES, group, person
from tests.StyleCLIP.test_styleclip import girl

__all__ = ["girl"]

GLASSES = "a person with glasses"


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    return load_pipeline("demo", "cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of three."""
    path = tmp_path_factory.mktemp("photo") / "group.png"
    group(*PLACES).save(path)
    return path


def params(path: Path, **given: Any) -> StyleCLIPParams:
    plain = {"prompt": GLASSES, "seed": 1, "iterations": 2, "refine": 0, "img_path": path}
    return StyleCLIPParams(**{**plain, **given})


def differs(before: Image.Image, after: Image.Image) -> np.ndarray:
    """Which pixels differ, [H, W]."""
    assert before.size == after.size
    return (np.asarray(before) != np.asarray(after)).any(2)


def outside_of_faces(revision: StyleRevision, *numbers: int) -> np.ndarray:
    """The pixels outside the masks of these faces, [H, W]."""
    assert revision.photo is not None
    width, height = revision.photo.picture.size
    masks = [mask_of(revision.photo.squares[number - 1], width, height) for number in numbers]
    return np.max(masks, axis=0) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("face", "edited"), [("largest", 2), (1, 1), (3, 3), ("2", 2)])
def test_one_face_of_a_group(pipeline: StyleCLIPPipeline, photo: Path, face: Any, edited: int) -> None:
    revision = pipeline.start(params(photo, face=face, output="photo"))
    assert revision.steps == 2 and len(revision.faces) == 3
    (result,) = finish(pipeline, [revision])
    changed = differs(read_picture(photo, "img"), result)
    assert not changed[outside_of_faces(revision, edited)].any()
    assert changed.mean() > 0.001
    x, y, side, _ = PLACES[edited - 1]
    rows, columns = np.nonzero(changed)
    assert abs(columns.mean() - x) < side / 3 and abs(rows.mean() - y) < side / 3


@pytest.mark.slow
def test_all_faces_of_a_group(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    revision = pipeline.start(params(photo, face="all", output="photo"))
    assert revision.steps == 6 and revision.photo is not None
    seen = []
    (result,) = finish(pipeline, [revision], lambda progress: seen.append(progress.step))
    assert seen == [1, 2, 3, 4, 5, 6]
    changed = differs(read_picture(photo, "img"), result)
    assert not changed[outside_of_faces(revision, 1, 2, 3)].any()
    for number in (1, 2, 3):
        assert changed[~outside_of_faces(revision, number)].any()


@pytest.mark.slow
def test_each_of_all_faces_is_edited_as_it_would_be_alone(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    """But for the random crops, which go on from face to face."""
    bare = copy.copy(pipeline)
    bare.views = Views(pipeline.perceptor.input_size, replace(pipeline.hyperparameters, cutouts=0))
    everyone = bare.start(params(photo, face="all", output="photo"))
    finish(bare, [everyone])
    assert everyone.photo is not None
    for number in (1, 2, 3):
        alone = bare.start(params(photo, face=number, output="photo"))
        finish(bare, [alone])
        edits = [*everyone.photo.edited, (everyone.before, bare.image(everyone))]
        assert edits[number - 1] == (alone.before, bare.image(alone))


@pytest.mark.slow
def test_a_job_of_several_faces_is_the_same_in_a_batch(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    wanted = [params(photo, face="all", output="photo"), params(DATA / "face.jpeg", iterations=4, seed=2)]
    alone = [run(pipeline, one) for one in wanted]
    batch = [pipeline.start(one) for one in wanted]
    while waiting := [revision for revision in batch if not revision.finished]:
        pipeline.step(waiting)
    for picture, revision in zip(alone, batch, strict=True):
        other = np.asarray(result_of(pipeline, revision), int)
        assert np.abs(np.asarray(picture, int) - other).mean() < 0.5


@pytest.mark.slow
def test_a_face_chosen_and_shown_alone(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    revision = pipeline.start(params(photo, face=1, upscale=1))
    assert finish(pipeline, [revision])[0].size == (128, 128) and len(revision.faces) == 3


@pytest.mark.slow
def test_before_and_after_side_by_side(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    pair, after = (run(pipeline, params(photo, output=output)) for output in ("pair", "photo"))
    before = read_picture(photo, "img")
    assert pair.size == (2 * before.width, before.height)
    assert pair.crop((0, 0, *before.size)) == before
    assert pair.crop((before.width, 0, *pair.size)) == after


def test_the_picture_so_far_is_the_face(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    """Whole photos would take long to write."""
    assert pipeline.image(pipeline.start(params(photo, face="all", output="pair"))).size == (128, 128)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_photo(photo: Path, tmp_path: Path) -> None:
    def made(uid: str) -> bytes:
        model = StyleCLIP(
            GLASSES, uid, tmp_path, photo, seed=3, iterations=2, output="photo", face=2, device="cpu"
        )
        path = model.run()
        assert [face.number for face in model.faces] == [1, 2, 3]
        return Path(path).read_bytes()

    assert made("a") == made("b")


def test_without_output_and_face_nothing_else_is_looked_for(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    revision = pipeline.start(params(photo))
    assert revision.photo is None and revision.faces == ()
    assert params(photo).model_dump(mode="json").keys() & {"output", "face"} == set()


@pytest.mark.slow
@pytest.mark.parametrize("upscale", [1, 4])
def test_a_large_face_is_enlarged_before_it_is_pasted(
    pipeline: StyleCLIPPipeline, tmp_path: Path, upscale: int
) -> None:
    path = tmp_path / "large.png"
    person().resize((1000, 1000), Image.Resampling.LANCZOS).save(path)
    revision = pipeline.start(params(path, output="photo", upscale=upscale))
    while not revision.finished:
        pipeline.step([revision])
    parts = list(revision.enlarge(pipeline.image(revision)))
    assert parts[:-1] == [None] * (len(parts) - 1)  # other jobs go on meanwhile
    result = parts[-1]
    assert result is not None and result.size == (1000, 1000)
    assert not differs(read_picture(path, "img"), result)[outside_of_faces(revision, 1)].any()


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_turned_by_exif_is_edited_upright(
    pipeline: StyleCLIPPipeline, tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "turned.png"
    upright = group(PLACES[1])
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(turns[orientation]).save(path, exif=exif)
    assert not differs(read_picture(path, "img"), upright).any()
    revision = pipeline.start(params(path, output="photo"))
    (result,) = finish(pipeline, [revision])
    assert not result.getexif() and result.size == upright.size
    changed = differs(upright, result)
    assert changed.any() and not changed[outside_of_faces(revision, 1)].any()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode(pipeline: StyleCLIPPipeline, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.tiff"
    group(PLACES[1]).convert(mode).save(path)
    revision = pipeline.start(params(path, output="photo"))
    (result,) = finish(pipeline, [revision])
    assert result.mode == "RGB"
    changed = differs(read_picture(path, "img"), result)
    assert changed.any() and not changed[outside_of_faces(revision, 1)].any()


def test_colours_are_converted_to_srgb(pipeline: StyleCLIPPipeline, tmp_path: Path) -> None:
    """A photo with a wide profile comes back without it, in the same colours."""
    path = tmp_path / "wide.png"
    profile = screen_profile("RGB", CHROMATICITIES[12], 1 / 2.2)
    group(PLACES[1]).save(path, icc_profile=profile)
    result = run(pipeline, params(path, output="photo"))
    assert "icc_profile" not in result.info
    with Image.open(path) as saved:
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(saved, ImageCms.ImageCmsProfile(BytesIO(profile)), srgb)
    assert shown is not None
    assert np.abs(np.asarray(shown, int)[:100, :100] - np.asarray(result, int)[:100, :100]).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", [(60, 300, 300, 0), (600, 650, 300, 0), (600, 350, 60, 0), (600, 350, 300, 120)], ids=str
)
def test_near_the_edge_small_and_turned(
    pipeline: StyleCLIPPipeline, tmp_path: Path, place: tuple[float, float, float, float]
) -> None:
    path = tmp_path / "photo.png"
    group(place).save(path)
    revision = pipeline.start(params(path, output="photo"))
    changed = differs(read_picture(path, "img"), finish(pipeline, [revision])[0])
    assert changed.any() and not changed[outside_of_faces(revision, 1)].any()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "count"), [(4, "are 3 faces"), (100, "are 3 faces")])
def test_a_face_that_is_not_there(pipeline: StyleCLIPPipeline, photo: Path, number: int, count: str) -> None:
    with pytest.raises(ParamsError, match=rf"^face: there {count} in the photo") as caught:
        pipeline.start(params(photo, face=number))
    assert (caught.value.field, caught.value.out_of_range) == ("face", True)
    with pytest.raises(ParamsError, match=r"^face: there is 1 face in the photo"):
        pipeline.start(params(DATA / "face.jpeg", face=2))


@pytest.mark.slow
def test_a_photo_without_a_face(pipeline: StyleCLIPPipeline) -> None:
    with pytest.raises(PictureError, match=r"^img: found no face") as caught:
        pipeline.start(params(DATA / "coffee.jpg", output="photo", face="all"))
    assert caught.value.kind == "no_face"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "photo"}, "output: there is no photo to paste the face into; give img"),
        ({"face": "all"}, 'face: several faces are one photo; give img, and set output to "photo"'),
        (
            {"face": "all", "img_path": DATA / "face.jpeg"},
            'face: several faces are one photo; set output to "photo"',
        ),
        ({"face": 0}, "face: must be 1 (the leftmost) to 100"),
        ({"face": "101"}, "face: must be 1 (the leftmost) to 100"),
        ({"face": "the tall one"}, 'face: must be "largest", "all" or a number from the left'),
        ({"face": True}, 'face: must be "largest", "all" or a number from the left'),
        ({"output": "gif"}, "output: must be 'face', 'photo' or 'pair'"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        StyleCLIP(GLASSES, **given)
    assert str(caught.value).startswith(message)


def test_a_face_without_a_photo_has_no_effect() -> None:
    assert StyleCLIPParams(prompt="a face", face=2).without_effect() == {"face": "there is no img"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ({"mapper": "beard"}, True),
        ({"mapper": "glasses"}, False),
        ({"mapper": "glasses", "sliders": "age:1 | crown:2"}, True),
        ({"mapper": "glasses", "sliders": "age:0 | crown:2"}, False),
        ({"mapper": "beard", "strength": 0}, False),
        ({"mapper": "beard", "output": "face"}, False),
        ({"prompt": "a queen with a crown", "method": "global", "beta": 0.05}, False),
        ({"prompt": "blue hair", "method": "global", "beta": 0.05}, True),
    ],
)
def test_what_may_not_suit_a_person(pipeline: StyleCLIPPipeline, given: dict[str, Any], noted: bool) -> None:
    asked = {"seed": 1, "refine": 0, "output": "photo", "img_path": DATA / "face.jpeg", **given}
    revision = pipeline.start(StyleCLIPParams(**asked))
    assert bool(revision.notes) == noted
    if noted:
        assert revision.notes[0].endswith("a photo of a person; with them, these do: glasses, crown")
        again = pipeline.resume(StyleCLIPParams(**asked), revision.state())
        assert again.notes == revision.notes


@pytest.mark.slow
def test_a_drawn_face_takes_any_edit(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    given: dict[str, Any] = {"mapper": "beard", "refine": 0, "output": "photo", "face": "all"}
    assert pipeline.start(StyleCLIPParams(img_path=girl, **given)).notes == ()
    others = copy.copy(pipeline)
    others.hyperparameters = replace(pipeline.hyperparameters, suits_people="")
    assert others.start(StyleCLIPParams(img_path=DATA / "face.jpeg", **given)).notes == ()


@pytest.mark.slow
def test_another_strength_afterwards(photo: Path, tmp_path: Path) -> None:
    """Of all faces, each with its own codes."""
    given: dict[str, Any] = {"mapper": "glasses", "refine": 0, "seed": 1, "output": "photo", "face": "all"}
    made = StyleCLIP(img_path=photo, output_path=tmp_path, **given)
    whole = read_picture(Path(made.run()), "img")
    none, half, again = (read_picture(Path(made.at_strength(s)), "img") for s in (0, 0.5, 1))
    assert np.array_equal(np.asarray(none), np.asarray(read_picture(photo, "img")))
    assert np.array_equal(np.asarray(again), np.asarray(whole))
    for x, y, side, _ in PLACES:
        rows, columns = (slice(int(at - side / 2), int(at + side / 2)) for at in (y, x))
        before, between, after = (np.asarray(one, float)[rows, columns] for one in (none, half, whole))
        way = np.abs(between - before).mean() / np.abs(after - before).mean()
        assert 0.25 < way < 0.75


@pytest.mark.slow
def test_a_small_edit_at_half_strength_is_half_of_it(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    given: dict[str, Any] = {"sliders": "smile:0.4", "refine": 0, "seed": 1, "output": "photo", "face": "all"}
    none = np.asarray(read_picture(photo, "img"), float)
    half, whole = (
        np.asarray(run(pipeline, StyleCLIPParams(img_path=photo, strength=s, **given)), float)
        for s in (0.5, 1.0)
    )
    for x, y, side, _ in PLACES:
        rows, columns = (slice(int(at - side / 2), int(at + side / 2)) for at in (y, x))
        moved = [np.abs(one - none)[rows, columns].mean() for one in (half, whole)]
        assert 0.3 * moved[1] < moved[0] < 0.8 * moved[1], moved


@pytest.mark.slow
def test_of_drawn_faces_what_is_replaced_is_pasted_as_the_edit_shows_it(
    pipeline: StyleCLIPPipeline, girl: Path
) -> None:
    drawn, photographed = (
        pipeline.start(StyleCLIPParams(mapper="beard", img_path=path, refine=0, output="photo"))
        for path in (girl, DATA / "face.jpeg")
    )
    assert drawn.photo is not None and photographed.photo is not None
    assert drawn.photo.is_drawn(0) and not photographed.photo.is_drawn(0)
    before, after = Image.new("RGB", (128, 128)), Image.new("RGB", (128, 128), (200, 100, 50))
    parts = drawn.photo.finished(before, after, lambda picture: iter([picture.resize((512, 512))]))
    (shown,) = (part for part in parts if part is not None)
    middle = np.asarray(cut_out(shown, drawn.photo.squares[0], 128), int)[40:90, 40:90]
    assert np.abs(middle - (200, 100, 50)).max() <= 1
