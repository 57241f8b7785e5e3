"""A finished edit with another strength or output, from a file of its latents: as if asked for at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from mead.imaging.pictures import read_picture
from mead.params import UPLOAD_SIDE, ParamsError, check
from mead.provenance import Weights
from mead.resuming import KEY, Origin, latents_file, resume
from mead.revision import finish, result_of, start
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision
from StyleCLIP.StyleCLIP import StyleCLIPPipeline, load_pipeline
from tests.StyleCLIP.test_faces import PLACES, group
from tests.StyleCLIP.test_styleclip import girl

__all__ = ["girl"]

HERE = Origin(model="StyleCLIP", weights=Weights.of("demo"), device="cpu")


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    return load_pipeline("demo", "cpu")


def params(**given: Any) -> StyleCLIPParams:
    plain = {"seed": 1, "upscale": 1, "refine": 0}
    if "prompt" in given and "method" not in given:
        plain["iterations"] = 2
    return check(StyleCLIPParams, {**plain, **given})


def made(pipeline: StyleCLIPPipeline, given: StyleCLIPParams) -> tuple[Image.Image, StyleRevision]:
    """The picture of a job, and its finished revision."""
    revision = start(pipeline, given)
    (picture,) = finish(pipeline, [revision])
    return picture, revision


def anew(pipeline: StyleCLIPPipeline, revision: StyleRevision, given: StyleCLIPParams) -> StyleRevision:
    """What goes on with a file of the finished revision's latents."""
    content = latents_file(revision, HERE)
    assert content is not None
    again = resume(pipeline, given, content, HERE)
    assert again.finished and again.steps == revision.steps == again.planned
    return again


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a face with glasses"},
        {"prompt": "a face with glasses", "space": "s", "sliders": "age:2"},
        {"prompt": "a face with glasses", "refine": 2},
        {"prompt": "a face with glasses", "method": "global"},
        {"prompt": "a face with glasses", "method": "global", "sliders": "age:2"},
        {"mapper": "glasses"},
        {"sliders": "age:3 | smile:-1"},
    ],
    ids=["w+", "s with sliders", "refined", "global", "global with sliders", "mapper", "sliders"],
)
def test_the_same_as_with_that_strength(
    pipeline: StyleCLIPPipeline, girl: Path, given: dict[str, Any]
) -> None:
    given = {**given, "img_path": girl}
    whole, revision = made(pipeline, params(**given))
    pictures = {}
    for strength in (0, 0.5, 1):
        asked = params(**given, strength=strength)
        again = anew(pipeline, revision, asked)
        pictures[strength] = result_of(pipeline, again).tobytes()
        assert pictures[strength] == made(pipeline, asked)[0].tobytes()
        once_more = anew(pipeline, again, params(**given))
        assert result_of(pipeline, once_more).tobytes() == whole.tobytes()
    assert len(set(pictures.values())) == 3 and pictures[1] == whole.tobytes()
    if not given.get("refine"):
        inversion = pipeline.start(params(**given)).face
        assert pictures[0] == pipeline.picture(inversion).tobytes()


def test_the_average_face(pipeline: StyleCLIPPipeline) -> None:
    _, revision = made(pipeline, params(mapper="glasses"))
    again = result_of(pipeline, anew(pipeline, revision, params(mapper="glasses", strength=0)))
    assert again.tobytes() == pipeline.picture(pipeline.average).tobytes()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A group of three."""
    path = tmp_path / "group.png"
    group(*PLACES).save(path)
    return path


@pytest.mark.slow
def test_all_faces_of_a_photo(pipeline: StyleCLIPPipeline, photo: Path) -> None:
    given: dict[str, Any] = {"mapper": "glasses", "img_path": photo, "face": "all"}
    whole, revision = made(pipeline, params(**given, output="photo"))
    half = params(**given, output="photo", strength=0.5)
    again = anew(pipeline, revision, half)
    assert result_of(pipeline, again).tobytes() == made(pipeline, half)[0].tobytes() != whole.tobytes()
    assert again.faces == revision.faces and len(again.faces) == 3 and again.notes == ()
    pair = result_of(pipeline, anew(pipeline, again, params(**given, output="pair")))
    left, right = pair.crop((0, 0, *whole.size)), pair.crop((whole.width, 0, *pair.size))
    assert left.tobytes() == read_picture(photo, "img").tobytes() and right.tobytes() == whole.tobytes()


@pytest.mark.slow
def test_another_output(pipeline: StyleCLIPPipeline, photo: Path, girl: Path) -> None:
    second: dict[str, Any] = {"mapper": "glasses", "img_path": photo, "face": 2}
    pasted, revision = made(pipeline, params(**second, output="photo"))
    alone, _ = made(pipeline, params(**second))
    again = anew(pipeline, revision, params(**second))
    assert result_of(pipeline, again).tobytes() == alone.tobytes()
    back = anew(pipeline, again, params(**second, output="photo"))
    assert result_of(pipeline, back).tobytes() == pasted.tobytes() and back.notes == ()

    given: dict[str, Any] = {"mapper": "glasses", "img_path": girl}
    _, revision = made(pipeline, params(**given))
    again = anew(pipeline, revision, params(**given, output="photo"))
    picture, before = result_of(pipeline, again), read_picture(girl, "img")
    assert max(before.size) < UPLOAD_SIDE and again.notes == ()  # it was not shrunk
    differs = (np.asarray(picture) != np.asarray(before)).any(2)
    assert picture.size == before.size and 0.005 < differs.mean() < 0.5
    assert again.faces == ()  # nobody has looked for all of them


def test_a_photo_that_may_have_been_larger(pipeline: StyleCLIPPipeline, girl: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(girl).resize((UPLOAD_SIDE, UPLOAD_SIDE)).save(large)
    given: dict[str, Any] = {"mapper": "glasses", "img_path": large}
    again = anew(pipeline, made(pipeline, params(**given))[1], params(**given, output="photo"))
    size = f"{UPLOAD_SIDE}x{UPLOAD_SIDE}"
    assert again.notes == (f"the photo has the size in which it was kept for the face alone, {size} pixels",)


@pytest.mark.parametrize(
    "changes",
    [
        {"after": None},
        {"after": torch.zeros(1, 12, 95), "before": torch.zeros(1, 12, 95)},
        {"before": torch.zeros(2, 12, 96)},
        {"before": torch.zeros(0, 12, 96), "after": torch.zeros(0, 12, 96)},
        {"squares": torch.zeros(2)},
        {"found": torch.zeros(3, 1, dtype=torch.int64)},
        {"steps": torch.zeros(2)},
    ],
)
def test_a_damaged_file(pipeline: StyleCLIPPipeline, changes: dict[str, torch.Tensor | None]) -> None:
    given = params(mapper="glasses")
    content = latents_file(made(pipeline, given)[1], HERE)
    assert content is not None
    state = {name: value for name, value in (load(content) | changes).items() if value is not None}
    damaged = save(state, {KEY: HERE.model_dump_json()})
    with pytest.raises(ParamsError, match=r"^from: the latents of that job are damaged"):
        resume(pipeline, given, damaged, HERE)
