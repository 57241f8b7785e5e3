"""The web page: what it is made of."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from flask.testing import FlaskClient
from pydantic import SecretStr

import app as app_without_queue
from caching_config import Settings
from mead.http.app import create_app
from mead.http.page import ASSETS, FOLDER

MOST_BYTES = 150_000  # of everything that a browser may load
FILES = [path for path in FOLDER.iterdir() if path.suffix in ASSETS]
PARTS = {path.name: path.read_text("utf-8") for path in FILES if path.suffix != ".webp"}


class Tags(HTMLParser):
    """All tags of a page with their attributes, and the JSON in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.service: dict[str, Any] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Read what the scripts are told."""
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and attributes.get("id") == "service" and not self.service:
            self.service = json.loads(data)


def page_of(http: FlaskClient, path: str = "/") -> Tags:
    return Tags(http.get(path).text)


def test_it_is_served_without_a_key(settings: Settings) -> None:
    http = create_app(settings.model_copy(update={"api_keys": (SecretStr("first-key-1"),)})).test_client()
    for path in ("/", "/queue", *(f"/page/{path.name}" for path in FILES)):
        answer = http.get(path)
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert http.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    for path in ("/page/__init__.py", "/page/index.html", "/page/no.js", "/page/"):
        assert http.get(path).status_code == 404, path


def test_it_needs_nothing_from_elsewhere_and_nothing_inline(settings: Settings) -> None:
    http = create_app(settings).test_client()
    pages = {path: http.get(path).text for path in ("/", "/queue")}
    for name, text in {**PARTS, **pages}.items():
        code = re.sub(r"(^|\s)// .*", "", text, flags=re.MULTILINE)  # without comments
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+", code))
        assert addresses <= {"http://www.w3.org"}, name  # the name of SVG, which nobody fetches
    for text in pages.values():
        for tag, attributes in Tags(text).found:
            runs = tag == "script" and attributes.get("type") != "application/json"
            assert tag != "style" and not (runs and "src" not in attributes)
            assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_it_is_small(settings: Settings) -> None:
    index = create_app(settings).test_client().get("/").data
    assert len(index) + sum(path.stat().st_size for path in FILES) <= MOST_BYTES
    assert max(text.count("\n") for text in PARTS.values()) < 300


def test_it_is_told_what_the_models_are(settings: Settings) -> None:
    http = create_app(settings).test_client()
    service = page_of(http).service
    models = http.get("/models").get_json()
    assert service["models"] == models["models"] and service["draws"] == models["draws"]
    assert not service["needs_key"] and service["job_ttl"] == settings.job_ttl
    assert service["latents_ttl"] == settings.latents_ttl
    assert {"GET /jobs/{job_id}/events", "DELETE /jobs/{job_id}", "GET /queues"} <= set(service["routes"])
    for model in service["models"]:
        form = service["forms"][model["type"]]
        placed = [field["name"] for _, fields in form["sections"] for field in fields]
        sources = [field.get("weight_of") for _, fields in form["sections"] for field in fields]
        assert {*placed, *filter(None, sources), *form["first"]} <= model["parameters"].keys()
        assert set(model["required"]) <= set(form["first"])


def test_without_weights_it_says_so(settings: Settings) -> None:
    answer = create_app(settings.model_copy(update={"weights": "none-such"})).test_client().get("/")
    assert answer.status_code == 200 and Tags(answer.text).service["models"] == []


def test_on_app_py(settings: Settings) -> None:
    http = app_without_queue.create_app(settings).test_client()
    service = page_of(http).service
    assert not [route for route in service["routes"] if "/jobs" in route]
    assert service["models"][1]["required"] == []  # sliders and mappers need no prompt
    assert http.get("/queue").status_code == 404
