"""A client that openapi-python-client generates from /openapi.json: complete, and it works."""

from __future__ import annotations

import base64
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from caching_config import Settings
from mead.http.app import create_app
from tests.conftest import ROOT, Service

pytest.importorskip("openapi_python_client")

CONFIG = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "api.md").read_text("utf-8"), re.DOTALL)[0]
"""What the generator does not know by itself, as docs/api.md has it."""


def generate(description: dict[str, Any], name: str, folder: Path) -> str:
    """Generate a client package `name` in `folder`; what was said."""
    (folder / "openapi.json").write_text(json.dumps(description))
    (folder / "config.yaml").write_text(f"{CONFIG}\npost_hooks: []\n")
    program = Path(sys.executable).with_name("openapi-python-client")
    files = ["--path", "openapi.json", "--output-path", name, "--config", "config.yaml"]
    done = subprocess.run(
        [program, "generate", *files, "--meta", "none", "--fail-on-warning"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules(name: str) -> list[str]:
    """Import everything of a package; the names of its modules."""
    package = importlib.import_module(name)
    found = [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    for module in found:
        importlib.import_module(module)
    return found


@pytest.mark.slow
def test_all_of_it_is_generated(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = Settings(**{**settings.model_dump(), "api_keys": "first-key"})
    description = create_app(keyed).test_client().get("/openapi.json").json
    assert description
    generate(description, "keyed_client", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = modules("keyed_client")
    operations = {
        operation["operationId"] for path in description["paths"].values() for operation in path.values()
    }
    assert operations <= {name.rpartition(".")[2] for name in found}
    body = importlib.import_module("keyed_client.models.latent_revision_body").LatentRevisionBody
    assert body("a house").iterations == 40 and body("a house").size == "128x128"  # the demo set's own


def test_it_makes_a_picture(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(requests.get(f"{service.url}/openapi.json", timeout=60).json(), "made_client", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    api = importlib.import_module("made_client.api.pictures.latent_revision")
    body = importlib.import_module("made_client.models.latent_revision_body").LatentRevisionBody
    client = importlib.import_module("made_client").Client(base_url=service.url, timeout=120)
    picture = api.sync(client=client, body=body("a red house", iterations=1, size="64x64", seed=7))
    assert base64.b64decode(picture.image).startswith(b"\x89PNG")
    image = importlib.import_module("made_client.api.jobs.image").sync(picture.id, client=client)
    assert image.payload.read() == base64.b64decode(picture.image)
    record = importlib.import_module("made_client.api.jobs.record").sync(picture.id, client=client)
    assert record.status == "succeeded" and record["seed"] == 7
    page = importlib.import_module("made_client.api.jobs.jobs").sync(client=client, limit=1)
    assert [job.id for job in page.jobs] == [picture.id]
