"""What a picture says of how it was made: all of it, always the same, and nothing private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.imaging.encoding import add_texts, png_bytes, write_picture
from mead.installation import version
from mead.params import JobParams
from mead.provenance import Provenance, chunks_of
from mead.weights.sets import WeightSet
from StyleCLIP.params import StyleCLIPParams
from tests.conftest import DATA

GIVEN = LatentRevisionsParams(
    prompt="ein „Haus“\nin Rot",
    seed=7,
    w0=0.5,
    prompts="at night:2 | blurry:-1",
    img_path=Path("/secret/start.png"),
    mask_path=Path("/secret/mask.png"),
    size=(64, 96),
)


def test_it_has_every_parameter_and_the_weights() -> None:
    said = json.loads(chunks_of(GIVEN, 40, "LatentRevisions", "demo")["mead"])
    assert said["model"] == "LatentRevisions" and said["steps"] == 40 and said["version"] == version()
    parameters = GIVEN.model_dump(mode="json", exclude_none=True, exclude={"n", "img_path", "mask_path"})
    assert said["parameters"] == parameters and parameters["w1"] == 0 and parameters["size"] == "64x96"
    assert said["pictures"] == ["img", "mask"]
    files = WeightSet.find("demo").files
    assert said["weights"] == {"name": "demo", "sha256": {name: file.sha256 for name, file in files.items()}}
    assert Provenance.model_validate(said) == Provenance.of("LatentRevisions", GIVEN, 40, "demo")


def test_the_text_for_people() -> None:
    text = chunks_of(GIVEN, 40, "LatentRevisions", "demo")["parameters"]
    prompt, line = text.rsplit("\n", 1)
    assert prompt == GIVEN.prompt
    assert line.startswith("Steps: 40, Seed: 7, Model: LatentRevisions, Weights: demo, w0: 0.5, ")
    assert 'prompts: "at night:2 | blurry:-1"' in line and line.endswith(f"Version: mead {version()}")


@pytest.mark.parametrize(
    "params", [GIVEN, StyleCLIPParams(prompt="a smile", img_path=Path("/secret/face.jpeg"))]
)
def test_no_path_is_in_it(params: JobParams) -> None:
    assert "secret" not in str(chunks_of(params, 1, "X", "demo"))


def test_a_png_carries_the_chunks_and_no_others(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "teal")
    plain = png_bytes(picture)
    add_texts(picture, {**chunks_of(GIVEN, 40, "LatentRevisions", "demo"), "comment": "private"})
    write_picture(picture, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as read:
        read.load()
        assert read.info == {key: picture.info[key] for key in ("parameters", "mead")}
        assert read.tobytes() == picture.tobytes()
    assert png_bytes(Image.new("RGB", (8, 8), "teal")) == plain and b"tEXt" not in plain


@pytest.mark.slow
def test_the_class_writes_it_and_the_same_job_is_the_same_file(tmp_path: Path) -> None:
    files = []
    for folder in ("one", "another"):
        model = LatentRevisions(
            "a red boat", tmp_path / folder, DATA / "coffee.jpg", seed=3, iterations=2, size=(64, 64)
        )
        path = Path(model.run())
        files.append(path.read_bytes())
        assert path.stem.encode() not in files[-1] and b"coffee" not in files[-1]
    assert files[0] == files[1]
    with Image.open(path) as picture:
        said = Provenance.model_validate_json(picture.info["mead"])
    assert said == Provenance.of("LatentRevisions", model.params, 2, "demo")
