"""A model is added by its folder and one line of the registry: a toy one, in every way in."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, expect

from mead.registry import MODELS, networks, spec_of
from tests.conftest import ROOT, Process, RedisServer, Service
from tests.toy.spec import SPEC

pytestmark = pytest.mark.service

RUN = "tests/toy/run.py"
SHADE = (200, 200, 200)
FORM = {"prompt": "a cloud", "shade": 200, "iterations": 4}


class ToyProcess(Process):
    """A script of the project with the toy model registered."""

    def command(self, script: str) -> list[str]:
        """Run it by `tests/toy/run.py`."""
        return [sys.executable, str(ROOT / RUN), script]


class ToyService(Service):
    """The whole service with the toy model registered."""

    process = ToyProcess


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service, three models at work."""
    folder = tmp_path_factory.mktemp("toys")
    redis_server = RedisServer(folder)
    service = ToyService(folder, redis_server)
    inference = service.start_inference()
    yield service
    assert inference.stop() == 0 and service.caching.stop() == 0
    redis_server.stop()


def colour_of(png: bytes) -> object:
    return Image.open(io.BytesIO(png)).getpixel((8, 8))


def test_by_http_and_redis(toys: Service) -> None:
    answer = requests.post(f"{toys.url}/toy", data=FORM, timeout=120)
    assert answer.status_code == 200, answer.text
    assert colour_of(base64.b64decode(answer.json()["image"])) == SHADE
    record = toys.redis.hgetall(f"job:{answer.json()['id']}")
    assert (record["type"], record["queue"], record["shade"]) == ("toy", "toy_queue", "200")
    wrong = requests.post(f"{toys.url}/toy", data={**FORM, "shade": 256}, timeout=120)
    assert (wrong.status_code, wrong.json()["field"]) == (422, "shade")


def test_in_the_description_metrics_and_log(toys: Service) -> None:
    paths = requests.get(f"{toys.url}/openapi.json", timeout=120).json()["paths"]
    form = paths["/toy"]["post"]["requestBody"]["content"]
    assert form["multipart/form-data"]["schema"]["properties"]["shade"]["maximum"] == 255
    described = requests.get(f"{toys.url}/models", timeout=120).json()["models"][-1]
    assert described["name"] == "Toy" and described["parameters"]["shade"]["default"] == 128
    assert 'mead_workers{queue="toy_queue"} 1.0' in requests.get(f"{toys.url}/metrics", timeout=120).text


def test_on_the_page(toys: Service, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(toys.url)
    page.get_by_role("tab", name="Grey").click()
    page.locator("#toy-prompt").fill("a cloud")
    page.locator("#panel-toy summary").click()
    page.locator("#toy-shade").fill("200")
    page.get_by_role("button", name="Make it grey").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=120_000)
    expect(page.get_by_role("img", name="a cloud")).to_be_visible()
    page.close()


def test_on_the_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / RUN,
        "mead",
        "toy",
        "a cloud",
        "--shade",
        "200",
        "--output_path",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert colour_of(Path(done.stdout.strip()).read_bytes()) == SHADE
    told = subprocess.run(
        [sys.executable, ROOT / RUN, "mead", "serve", "--help"], capture_output=True, text=True
    )
    assert "TOY_QUEUE" in told.stdout and "TOY_THREADS" in told.stdout


def test_in_app_py(door: Callable[..., str], tmp_path: Path) -> None:
    url = door("app.py", tmp_path, ToyProcess)
    answer = requests.post(f"{url}/toy", data=FORM, timeout=120)
    assert colour_of(base64.b64decode(answer.json()["image"])) == SHADE


def test_what_is_registered() -> None:
    assert [(spec.type, spec.route) for spec in MODELS.values()] == [
        ("lr", "latent_revision"),
        ("sc", "styleclip"),
    ]
    assert spec_of(MODELS["sc"].params) is MODELS["sc"]
    with pytest.raises(KeyError, match="ToyParams"):
        spec_of(SPEC.params)
    for network in networks().values():
        network.load_class()


def test_weights_are_verified_without_models_that_have_none() -> None:
    command = [sys.executable, str(ROOT / RUN), "mead", "weights", "verify", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Toy" not in done.stdout + done.stderr
