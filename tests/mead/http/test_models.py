"""What the service says of itself, and of a form before a job is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from pydantic import SecretStr
from urllib3.filepost import encode_multipart_formdata

import app as app_without_queue
from caching_config import Settings
from mead.http.app import create_app
from mead.resuming import FIELD
from mead.webhooks.form import WebhookForm
from mead.weights.sets import WeightSet

UNKNOWN = "the demo weights have not learned: cat, astronaut"


@pytest.fixture
def http(settings: Settings) -> FlaskClient:
    """A client of the API; nothing here needs a worker."""
    return create_app(settings).test_client()


def models_at(http: FlaskClient) -> dict[str, Any]:
    answer = http.get("/models")
    assert answer.status_code == 200
    assert isinstance(answer.json, dict)
    return answer.json


def test_models(http: FlaskClient) -> None:
    body = models_at(http)
    assert body["status"] == "success" and body["weights"] == "demo"
    assert body["draws"] == WeightSet.find("demo").draws and "faces" in body["draws"]
    latent_revisions, styleclip = body["models"]
    assert (latent_revisions["type"], latent_revisions["route"]) == ("lr", "/latent_revision")
    w0 = latent_revisions["parameters"]["w0"]
    assert (w0["minimum"], w0["maximum"], w0["default"]) == (-1000, 1000, 5)
    assert styleclip["required"] == ["img"]
    assert "a boat on the sea at sunset" in latent_revisions["examples"]


def test_what_the_weights_set_offers_by_name(http: FlaskClient) -> None:
    latent_revisions, styleclip = models_at(http)["models"]
    assert latent_revisions["choices"] == {}
    assert styleclip["choices"]["sliders"]["age"] == {"minimum": -3, "maximum": 3}
    assert styleclip["choices"]["mapper"]["beard"] is None
    assert styleclip["parameters"]["mapper"]["enum"] == list(styleclip["choices"]["mapper"])
    assert "default" not in styleclip["parameters"]["prompt"]


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({"sliders": "age:3 | smile:-1"}, 200, None),
        ({"mapper": "beard"}, 200, None),
        ({}, 400, "prompt: must be given, or sliders or mapper"),
        ({"method": "global"}, 400, 'prompt: must be given for the method "global"'),
        ({"mapper": "beard", "method": "global"}, 422, 'prompt: must be given for the method "global"; with'),
        ({"sliders": "age:1", "method": "global"}, 422, 'prompt: must be given for the method "global"; sl'),
        ({"prompt": "a", "neutral": "a", "method": "global"}, 422, "neutral: must differ from the prompt"),
        ({"mapper": "afro"}, 422, 'mapper: there is no "afro"; there are bald, beard, curly_hair, glasses'),
        ({"method": "mapper"}, 422, "mapper: must be named; there are bald, beard"),
        ({"sliders": "wisdom:1"}, 422, 'sliders: there is no "wisdom"; there are age, beard, crown'),
        ({"sliders": "age:4"}, 422, "sliders: age goes from -3 to 3 with these weights, not to 4"),
    ],
)
def test_edits_by_name(http: FlaskClient, form: dict[str, str], status: int, message: str | None) -> None:
    body, content_type = encode_multipart_formdata({**form, "img": ("photo.jpg", b"")})
    answer = http.post("/styleclip/notes", data=body, content_type=content_type)
    assert answer.status_code == status and answer.json is not None
    assert message is None or answer.json["message"].startswith(message)


def test_defaults_are_those_of_the_weights_set(http: FlaskClient, settings: Settings) -> None:
    def defaults(http: FlaskClient) -> list[Any]:
        fields = models_at(http)["models"][0]["parameters"]
        return [fields[name].get("default") for name in ("iterations", "size", "cutouts", "start", "seed")]

    assert defaults(http) == [40, "128x128", 12, "learned", None]
    full = create_app(settings.model_copy(update={"weights": "full"})).test_client()
    assert defaults(full)[:2] == [100, "512x512"] and defaults(full)[3] == "noise"


def test_the_settings_limits_are_in_it(settings: Settings) -> None:
    low = create_app(settings.model_copy(update={"max_iterations": 7})).test_client()
    assert models_at(low)["models"][0]["parameters"]["iterations"]["maximum"] == 7


def test_the_description_says_it_too(http: FlaskClient) -> None:
    description = http.get("/openapi.json").json
    assert description is not None
    forms = {
        path: operations["post"]["requestBody"]["content"]["multipart/form-data"]
        for path, operations in description["paths"].items()
        if path in ("/latent_revision", "/styleclip")
    }
    for model in models_at(http)["models"]:
        fields = forms[model["route"]]["schema"]["properties"].items()
        others = {*WebhookForm.model_fields, FIELD}
        own = {name: field for name, field in fields if name not in others}
        assert own == model["parameters"]
        for prompt in model["examples"]:
            assert {"value": {"prompt": prompt}} in forms[model["route"]]["examples"].values()
    assert models_at(http)["draws"] in description["info"]["description"]


def test_models_take_no_fields(http: FlaskClient) -> None:
    refused = http.get("/models?type=lr")
    assert (refused.status_code, refused.json["field"]) == (400, "type")


def test_they_need_a_key_where_others_do(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_keys": (SecretStr("first-key-1"),)}))
    http, key = app.test_client(), {"X-API-Key": "first-key-1"}
    form = {"prompt": "a cat astronaut"}
    assert http.get("/models").status_code == 401
    assert http.post("/latent_revision/notes", data=form).status_code == 401
    assert http.get("/models", headers=key).status_code == 200
    assert http.post("/latent_revision/notes", data=form, headers=key).json["notes"] == [UNKNOWN]


def notes(http: FlaskClient, route: str = "latent_revision", **form: Any) -> list[str]:
    # as clients send it: Flask's test client leaves out a line's end after an empty file
    body, content_type = encode_multipart_formdata(form)
    answer = http.post(f"/{route}/notes", data=body, content_type=content_type)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None and answer.json["status"] == "success"
    found: list[str] = answer.json["notes"]
    return found


def test_notes_on_a_form(http: FlaskClient) -> None:
    assert notes(http, prompt="a red house") == []
    assert notes(http, prompt="a cat astronaut", w1="", text_to_add="") == [UNKNOWN]
    assert notes(http, "styleclip", prompt="a cat astronaut") == [UNKNOWN]
    form = {"prompt": "a red house", "img_enc": ("photo.jpg", b"")}
    assert notes(http, **form) == ["img_enc has no effect: its weight w2 is 0"]
    assert notes(http, prompt="a red house", img_enc=("photo.jpg", b""), w2="1") == []


def test_how_many_tokens_are_read(http: FlaskClient) -> None:
    form = {"prompt": "a red house", "prompts": "a tree:2 | a boat on the sea:-1"}
    answer = http.post("/latent_revision/notes", data=form).json
    assert answer["tokens"] == {"prompt": 3, "prompts": 5} and answer["most_tokens"] == 38


def test_a_form_that_would_be_refused_has_no_notes(http: FlaskClient) -> None:
    for form, status, field in (
        ({}, 400, "prompt"),
        ({"prompt": "a cat", "w0": "much"}, 400, "w0"),
        ({"prompt": "a cat", "w0": "1001"}, 422, "w0"),
        ({"prompt": "a cat " * 50}, 422, "prompt"),
        ({"prompt": "a cat", "colour": "red"}, 400, "colour"),
    ):
        refused = http.post("/latent_revision/notes", data=form)
        assert (refused.status_code, refused.json["field"]) == (status, field)


def test_a_set_that_is_not_here(settings: Settings) -> None:
    http = create_app(settings.model_copy(update={"weights": "nowhere"})).test_client()
    assert http.get("/healthz").status_code == 200
    for path in ("/models", "/openapi.json"):  # the page says it in words
        refused = http.get(path)
        assert refused.status_code == 503 and "weights set" in refused.json["message"]
        assert "Retry-After" not in refused.headers  # it would not help
        assert "/" not in refused.json["message"]  # no path of this machine


def test_without_a_queue(settings: Settings) -> None:
    http = app_without_queue.create_app(settings).test_client()
    assert notes(http, prompt="a cat astronaut") == [UNKNOWN]
    assert models_at(http)["models"][1]["required"] == []  # without img, the average face is edited


@pytest.mark.slow
def test_the_answers_of_app_py(door: Callable[..., str], tmp_path: Path) -> None:
    url = door("app.py", tmp_path)
    form = {"prompt": "a cat astronaut", "iterations": 1, "size": "64x64"}
    answer = requests.post(f"{url}/latent_revision", data=form, timeout=300)
    assert answer.json()["notes"] == [UNKNOWN]
    events = requests.post(
        f"{url}/latent_revision", data=form, headers={"Accept": "text/event-stream"}, timeout=300
    ).text
    assert events.count(UNKNOWN) == events.count("event: ") == 2
