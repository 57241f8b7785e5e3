"""Webhooks from end to end: a real service, and the receiver that the page on the API shows."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mead.cli.local_redis import free_port
from mead.client import Client
from tests.conftest import ROOT, RedisServer, Service, eventually

pytestmark = pytest.mark.service

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
FORM = {"iterations": 1, "size": "64x64", "upscale": 1, "seed": 7}


class Example(subprocess.Popen[str]):
    """The receiver of docs/api.md as a process; `url` leads to it."""

    def __init__(self, folder: Path) -> None:
        page = (ROOT / "docs" / "api.md").read_text("utf-8")
        block = re.search(r"```python\n(# WEBHOOK_SECRET.*?)```", page, re.DOTALL)
        assert block is not None
        (folder / "receiver.py").write_text(block[1])
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/hook?token=in-the-query"
        environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)}
        super().__init__(
            [sys.executable, folder / "receiver.py"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        eventually(lambda: self.poll() is not None or self._listens())
        assert self.poll() is None

    def _listens(self) -> bool:
        try:
            return requests.get(self.url, timeout=30).status_code == 501  # it knows POST only
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with Example(tmp_path_factory.mktemp("receiver")) as process:
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that signs webhooks and may send them to this machine."""
    folder = tmp_path_factory.mktemp("service")
    redis_server = RedisServer(folder)
    service = Service(folder, redis_server, WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW="127.0.0.0/8")
    inference = service.start_inference()
    yield service
    assert inference.stop() == 0 and service.caching.stop() == 0
    redis_server.stop()
    for log in folder.glob("*.log"):
        text = log.read_text()
        assert SECRET not in text and SECRET.removeprefix("whsec_") not in text and "in-the-query" not in text


def test_the_client_and_the_receiver_of_the_page(telling: Service, example: Example) -> None:
    with Client(telling.url) as client:
        job = client.submit("a red house", webhook=example.url, webhook_events_filter=["completed"], **FORM)
        assert example.stdout is not None
        assert example.stdout.readline() == f"{job.id} succeeded /jobs/{job.id}/image\n"
        eventually(lambda: job.record()["webhook_status"] == "delivered")


def test_the_command_line(telling: Service, example: Example) -> None:
    command = [sys.executable, "-m", "mead", "submit", "generate", "a red house", "--webhook", example.url]
    options = [part for name, value in FORM.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MEAD_URL": telling.url}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True)
    assert example.stdout is not None
    assert example.stdout.readline().startswith(f"{done.stdout.strip()} succeeded ")


@pytest.mark.parametrize("wrong", ["signature", "body", "old", "none"])
def test_the_receiver_of_the_page_refuses_what_is_not_genuine(example: Example, wrong: str) -> None:
    sent_at = str(int(time.time()) - (3600 if wrong == "old" else 0))
    body = b'{"id": "a", "status": "succeeded"}'
    key = bytes(32) if wrong == "signature" else bytes(range(32))
    digest = hmac.digest(key, b".".join([b"message", sent_at.encode(), body]), hashlib.sha256)
    headers = {
        "webhook-id": "message",
        "webhook-timestamp": sent_at,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    if wrong == "none":
        headers = {}
    sent = body.replace(b"a", b"b", 1) if wrong == "body" else body
    assert requests.post(example.url, sent, headers=headers, timeout=30).status_code == 401
