"""The API's description: complete, true, and shown without any other site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser
from pydantic import SecretStr

import app as app_without_queue
from caching_config import Settings
from LatentRevisions.params import LatentRevisionsParams
from mead.cli.local_redis import free_port
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.http.openapi import openapi_of
from mead.installation import version
from mead.queue.jobs import Jobs
from mead.worker.worker import Worker
from StyleCLIP.params import StyleCLIPParams
from tests.colours import ColourPipeline, ColourRevision, make_engine
from tests.conftest import Process, answers, running
from tests.mead.http.browsing import faults

TESTS = Path(__file__).parent
PARTS_OF_PAGES = ("/docs/", "/page/")


class AnyPrompt(ColourPipeline):
    """Makes any prompt into a colour, in a few steps."""

    def start(self, params: LatentRevisionsParams) -> ColourRevision:
        """Never raises."""
        colour = f"#{zlib.crc32(params.prompt.encode()) & 0xFFFFFF:06x}"
        return super().start(params.model_copy(update={"prompt": colour, "iterations": 5}))


@pytest.fixture
def at_work(settings: Settings, jobs: Jobs, storage: FolderStorage) -> Iterator[None]:
    """A worker that does every job."""
    engines = [
        make_engine(AnyPrompt(), jobs, storage, params=params, queue=queue)
        for params, queue in (
            (LatentRevisionsParams, settings.queues[0]),
            (StyleCLIPParams, settings.queues[1]),
        )
    ]
    with running(Worker("me", engines, jobs, storage, ttl=settings.worker_ttl).run):
        yield


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[str]:
    """The address of a caching server."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"REDIS_URL": settings.redis_url, "DATA_DIR": str(settings.data_dir), "PORT": str(port)}
    process = Process("caching_server.py", environment, tmp_path / "caching.log")
    process.wait_until(lambda: answers(url + "/healthz"))
    yield url
    process.stop()


def description(settings: Settings) -> dict[str, Any]:
    body = create_app(settings).test_client().get("/openapi.json").json
    assert isinstance(body, dict)
    return body


def test_every_route_is_described(settings: Settings) -> None:
    for app in (create_app(settings), app_without_queue.create_app(settings)):
        with app.app_context():
            paths = openapi_of(app, settings)["paths"]
        described = {(path, method) for path, methods in paths.items() for method in methods}
        served = {
            (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
            for rule in app.url_map.iter_rules()
            if not rule.rule.startswith(PARTS_OF_PAGES)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
        assert described == served
        for methods in paths.values():
            for operation in methods.values():
                assert operation["summary"] and operation["responses"]


def test_the_version_is_that_of_the_project(settings: Settings) -> None:
    assert description(settings)["info"]["version"] == version()


def test_forms_are_described_by_the_models_that_check_them(settings: Settings) -> None:
    body = description(settings)["paths"]["/latent_revision"]["post"]["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    names = {name.removesuffix("_path") for name in LatentRevisionsParams.model_fields}
    assert set(form["properties"]) == names | {"from", "webhook", "webhook_events_filter"}
    assert form["required"] == ["prompt"] and not form["additionalProperties"]
    assert form["properties"]["w0"]["maximum"] == 1000 and form["properties"]["w0"]["default"] == 5
    size = form["properties"]["size"]["pattern"]
    assert re.search(size, "256x192") and not re.search(size, "250x192") and not re.search(size, "1040x16")
    for field in ("img", "img_enc", "ne_img_enc"):
        assert form["properties"][field]["format"] == "binary"
    styleclip = description(settings)["paths"]["/styleclip"]["post"]["requestBody"]["content"]
    schema = styleclip["multipart/form-data"]["schema"]
    assert schema["required"] == ["img"]
    assert [way["required"] for way in schema["anyOf"]] == [["prompt"], ["sliders"], ["mapper"]]
    limits = {"max_iterations": 7, "max_side": 256, "max_cutouts": 9}
    low = description(settings.model_copy(update=limits))
    described = low["paths"]["/styleclip"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert described["properties"]["iterations"]["maximum"] == 7
    body = low["paths"]["/latent_revision"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = body["schema"]["properties"]
    assert fields["cutouts"]["maximum"] == 9
    size = fields["size"]["pattern"]
    assert re.search(size, "256x256") and not re.search(size, "272x16")


def test_keys_are_described_where_they_are_needed(settings: Settings) -> None:
    assert "securitySchemes" not in description(settings)["components"]
    locked = description(settings.model_copy(update={"api_keys": (SecretStr("a-secret-key"),)}))
    assert set(locked["components"]["securitySchemes"]) == {"bearer", "key"}
    asking = locked["paths"]["/latent_revision"]["post"]
    assert asking["security"] and "401" in asking["responses"]
    assert "security" not in locked["paths"]["/healthz"]["get"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: str, at_work: None, tmp_path: Path) -> None:
    """Every route, with good and bad requests made from the description, alone and one after another."""
    deadline = time.monotonic() + 60
    while not answers(server + "/readyz"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "--config-file", str(TESTS / "schemathesis.toml")]
    options = ["--max-examples", "4", "--seed", "1", "--generation-deterministic", "--no-shrink"]
    options += ["--request-timeout", "60", "--no-color"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [*command, "run", f"{server}/openapi.json", *options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found and int(found[1]) == int(found[2]) > 200, done.stdout[-2000:]


def test_the_page_needs_no_other_site(server: str) -> None:
    """Everything the page names lies on this server, and the browser is told to load nothing else."""
    page = requests.get(server + "/docs", timeout=60)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(parts) == 5
    for part in parts:
        if not part.startswith("data:"):
            assert requests.get(f"{server}/{part}", timeout=60).status_code == 200
    assert requests.get(server + "/docs/nothing.js", timeout=60).status_code == 404


@pytest.mark.slow
def test_the_page_opens_in_a_browser(server: str, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server + "/docs")
    page.get_by_text("/latent_revision").first.click()
    page.get_by_text("What the picture should show, in words.").first.wait_for(timeout=60_000)
    assert not {"color-contrast", "landmark-one-main"} & {name for name, _ in faults(page)}
    page.screenshot(path=os.environ.get("DOCS_SCREENSHOT", tmp_path / "docs.png"))
    page.close()
    assert wrong == []
    assert all(url.startswith((server, "data:", "blob:")) for url in asked) and len(asked) >= 5
