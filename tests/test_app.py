"""app.py where the networks fail: the demo weights, broken. And where they have more than the demo set's."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from flask.testing import FlaskClient
from safetensors.torch import save_file
from torch.nn import functional as F

import app
from caching_config import Settings
from LatentRevisions import LatentRevisions
from mead.weights.own_sets import add_checkpoint
from mead.weights.sets import WeightSet
from tests.conftest import DATA
from tests.test_full_weights import Silent


@pytest.fixture
def http(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of an app whose generator gives what is not a number."""
    broken = copy.deepcopy(LatentRevisions.load_pipeline("demo", "cpu"))
    broken.vqgan.decoder.conv_out.bias.data.fill_(float("nan"))
    monkeypatch.setattr(LatentRevisions, "load_pipeline", lambda weights, device: broken)
    return app.create_app(settings.model_copy(update={"device": "cpu"})).test_client()


@pytest.mark.slow
def test_pictures_of_several_seeds(settings: Settings) -> None:
    http = app.create_app(settings.model_copy(update={"device": "cpu"})).test_client()
    form = {**FORM, "upscale": "1", "seed": "3"}
    answer = http.post("/latent_revision", data={**form, "n": "2"}).json
    assert answer["ids"][0] == answer["id"] and len(set(answer["ids"])) == 2
    alone = [http.post("/latent_revision", data={**form, "seed": seed}).json["image"] for seed in ("3", "4")]
    assert answer["images"] == alone and answer["image"] == alone[0] != alone[1]


FORM = {"prompt": "a house", "iterations": "2", "size": "64x64", "start": "noise"}
WHY = "step 1 of 2: the loss is nan"


def test_a_loss_that_is_not_finite(http: FlaskClient) -> None:
    answer = http.post("/latent_revision", data=FORM)
    assert (answer.status_code, answer.json["message"]) == (500, WHY)


def test_a_loss_that_is_not_finite_ends_the_stream(http: FlaskClient) -> None:
    answer = http.post("/latent_revision", data=FORM, headers={"Accept": "text/event-stream"})
    kind, data = answer.text.strip().rpartition("\n\n")[2].splitlines()
    told = json.loads(data.removeprefix("data: "))
    assert (kind, told["status"], told["message"]) == ("event: end", "failed", WHY)


@pytest.fixture
def edits(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of an app whose weights have global directions, made-up ones."""
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path / "weights"))
    table = F.normalize(torch.randn(1120, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    save_file({"table": table, "deviation": torch.full((1120,), 0.2)}, tmp_path / "directions.safetensors")
    assert add_checkpoint(tmp_path / "directions.safetensors", "with-directions", None, "demo", Silent())
    return app.create_app(
        settings.model_copy(update={"device": "cpu", "weights": "with-directions"})
    ).test_client()


EDIT = {"prompt": "a person with blue hair", "method": "global", "seed": "1"}


def test_an_edit_by_a_global_direction(edits: FlaskClient) -> None:
    first, again, opposite = (
        edits.post("/styleclip", data=EDIT | {"neutral": "a person", "alpha": alpha, "beta": "auto"})
        for alpha in ("3", "3.0", "-3")
    )
    assert (first.status_code, first.json["status"]) == (200, "success")
    assert first.json["image"] == again.json["image"] != opposite.json["image"]
    answer = edits.post("/styleclip", data=EDIT | {"iterations": "3", "beta": "0.1"})
    assert answer.json["notes"] == ["iterations has no effect: nothing is optimised"]


def test_edits_by_name_need_no_prompt(settings: Settings) -> None:
    http = app.create_app(settings).test_client()
    made = [
        http.post("/styleclip", data={"seed": "1", "upscale": "1", **form})
        for form in (
            {"mapper": "glasses"},
            {"sliders": "glasses:3"},
            {"sliders": "glasses:3", "strength": "0"},
        )
    ]
    assert [answer.status_code for answer in made] == [200] * 3
    assert len({answer.json["image"] for answer in made}) == 3
    refused = http.post("/styleclip", data={"seed": "1"})
    assert (refused.status_code, refused.json["message"]) == (
        400,
        "prompt: must be given, or sliders or mapper",
    )


@pytest.mark.parametrize(
    ("given", "status", "field", "message"),
    [
        ({"beta": "1"}, 422, "beta", "beta: no channel is as relevant to these words as 1; 0."),
        ({"beta": "2"}, 422, "beta", 'must be "auto" or from 0 to 1'),
        ({"beta": "some"}, 400, "beta", 'must be "auto" or a number from 0 to 1'),
        ({"alpha": "-10.5"}, 422, "alpha", "must be at least -10"),
        ({"method": "magic"}, 400, "method", "'optimisation', 'global' or 'mapper'"),
        ({"neutral": "a person with blue hair"}, 422, "neutral", "must differ from the prompt"),
    ],
)
def test_an_edit_that_cannot_be_made(
    edits: FlaskClient, given: dict[str, str], status: int, field: str, message: str
) -> None:
    answer = edits.post("/styleclip", data=EDIT | given)
    assert (answer.status_code, answer.json["field"]) == (status, field)
    assert message in answer.json["message"]


def test_without_directions_the_answer_names_the_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path / "weights"))
    add_checkpoint(WeightSet.find("demo").files["clip"].path, "own-clip", None, "demo", Silent())
    http = app.create_app(settings.model_copy(update={"weights": "own-clip"})).test_client()
    answer = http.post("/styleclip", data=EDIT)
    assert (answer.status_code, answer.json["field"]) == (422, "method")
    assert "`python -m mead weights fetch full --with directions`" in answer.json["message"]


def test_without_a_learned_start_the_answer_names_the_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless there is a starter picture, which needs none."""
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path / "weights"))
    vqgan = WeightSet.find("demo").files["vqgan"].path
    add_checkpoint(vqgan, "own-vqgan", None, "demo", Silent())
    http = app.create_app(settings.model_copy(update={"weights": "own-vqgan"})).test_client()
    asked = FORM | {"start": "learned", "iterations": "1"}
    answer = http.post("/latent_revision", data=asked)
    assert (answer.status_code, answer.json["field"]) == (422, "start")
    assert "`python -m mead weights fetch full --with start`" in answer.json["message"]
    with (DATA / "coffee.jpg").open("rb") as starter:
        answer = http.post("/latent_revision", data=asked | {"img": (starter, "coffee.jpg")})
    assert answer.json["notes"] == ["start has no effect: the optimisation starts from img"]
