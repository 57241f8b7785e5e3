"""app.py where the networks fail: the demo weights, broken."""

from __future__ import annotations

import copy
import json

import pytest
from flask.testing import FlaskClient

import app
from caching_config import Settings
from LatentRevisions import LatentRevisions


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
