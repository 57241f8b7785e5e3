"""`from` at /styleclip: a finished edit with another strength or output, on the demo weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.provenance import Weights
from mead.queue.jobs import Jobs
from mead.resuming import Origin
from mead.weights.notes import notes_on
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import load_pipeline
from tests.colours import ColourPipeline, make_engine
from tests.conftest import DATA, running
from tests.mead.http.test_continuation import picture, refusal
from tests.StyleCLIP.test_faces import PLACES, group

FORM: dict[str, Any] = {"mapper": "glasses", "seed": 1, "upscale": 1, "refine": 0}


@pytest.fixture
def edits(jobs: Jobs, storage: FolderStorage, settings: Settings) -> Iterator[None]:
    """A worker's engines, at work: a real one of StyleCLIP, and another."""
    jobs.heartbeat("me", settings.queues, 600)
    pipelines = {
        "StyleCLIP": (load_pipeline("demo", "cpu"), settings.queues[1], {"params": StyleCLIPParams}),
        "LatentRevisions": (ColourPipeline(), settings.queues[0], {}),
    }
    one, other = (
        make_engine(
            pipeline,
            jobs,
            storage,
            queue=queue,
            origin=Origin(model=name, weights=Weights.of("demo"), device="cpu"),
            latents_ttl=3600,
            notes_on=partial(notes_on, weights="demo"),
            **changes,
        )
        for name, (pipeline, queue, changes) in pipelines.items()
    )
    with running(one.run), running(other.run):
        yield


def made(http: FlaskClient, img: Path | None = None, **form: Any) -> str:
    """The id of an edit that has succeeded."""
    files = {} if img is None else {"img": (io.BytesIO(img.read_bytes()), img.name)}
    answer = http.post("/styleclip", data={**form, **files})
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json["id"]
    return job_id


@pytest.mark.slow
def test_a_finished_edit_with_another_strength(
    http: FlaskClient, edits: None, jobs: Jobs, storage: FolderStorage
) -> None:
    face = DATA / "face.jpeg"
    first = made(http, face, **FORM, frames=3)
    none, half, whole = (made(http, **{"from": first, "strength": strength}) for strength in (0, 0.5, 1))
    assert picture(http, whole) == picture(http, first)
    assert picture(http, half) == picture(http, made(http, face, **FORM, strength=0.5))
    again = made(http, **{"from": half, "strength": 0}, mapper="glasses")  # what is as it was may be sent
    assert picture(http, again) == picture(http, none) != picture(http, half)
    record = http.get(f"/jobs/{half}").json
    assert record["continues"] == first and record["strength"] == 0.5 and record["mapper"] == "glasses"
    assert record["steps"] == record["total_steps"] == http.get(f"/jobs/{first}").json["steps"]
    assert record["files"] == ["img"] and "frames" not in record and "latents" not in record
    assert http.get(f"/jobs/{none}").json["notes"] == ["the edit has no effect: its strength is 0"]

    pasted = made(http, **{"from": half, "output": "photo"})
    record = http.get(f"/jobs/{pasted}").json
    size = Image.open(face).size
    assert (record["output"], record["strength"]) == ("photo", 0.5)
    assert max(size) < 1024 and "notes" not in record  # it was kept as it was sent
    assert Image.open(io.BytesIO(picture(http, pasted))).size == size
    assert storage.sweep(jobs.outcomes, 600, 600, 3600) == 0


@pytest.mark.slow
def test_what_is_wrong_is_told_at_once(
    http: FlaskClient, edits: None, jobs: Jobs, storage: FolderStorage
) -> None:
    first = made(http, DATA / "face.jpeg", **FORM)
    before = sorted(storage.uploads.glob("*"))
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"strength": "3"}, 422, "strength", "must be at most 2"),
        ({"strength": "much"}, 400, "strength", "must be a number"),
        ({"output": "gif"}, 400, "output", "must be 'face', 'photo' or 'pair'"),
        ({"upscale": "3"}, 422, "upscale", "must be 1, 2 or 4"),
        ({"mapper": "beard"}, 422, "mapper", "only strength, output and upscale can"),
        ({"frames": "3"}, 422, "frames", "only strength, output and upscale can"),
        ({"iterations": "3"}, 422, "iterations", "cannot change as a job goes on"),
        ({"n": "2"}, 422, "n", "cannot change as a job goes on"),
        ({"img": (io.BytesIO(b"x"), "a.png")}, 422, "img", "cannot change as a job goes on"),
        ({"colour": "red"}, 400, "colour", "unknown field"),
    ]
    for form, status, field, why in cases:
        assert why in refusal(http.post("/styleclip", data={"from": first, **form}), status, field)
    assert sorted(storage.uploads.glob("*")) == before

    gone = http.post("/styleclip", data={"from": "0" * 32, "strength": 0.5})
    assert refusal(gone, 404) == f"from: there is no job {'0' * 32}"
    drawn = http.post("/latent_revision", data={"prompt": "#ff8000"}).json["id"]
    assert "was not made by StyleCLIP" in refusal(http.post("/styleclip", data={"from": drawn}), 422)
    failed = http.post("/styleclip", data={**FORM, "face": 9, "img": (DATA / "face.jpeg").open("rb")})
    assert failed.status_code == 422
    refused = http.post("/styleclip", data={"from": failed.json["id"]})
    assert "it is failed" in refusal(refused, 409)
    for latents in storage.latents.iterdir():
        latents.unlink()
    assert "its latents were kept for" in refusal(http.post("/styleclip", data={"from": first}), 409)


@pytest.mark.slow
def test_several_faces_are_one_photo(http: FlaskClient, edits: None, tmp_path: Path) -> None:
    path = tmp_path / "group.png"
    group(*PLACES).save(path)
    first = made(http, path, **FORM, output="photo", face="all")
    refused = http.post("/styleclip", data={"from": first, "output": "face"})
    assert "several faces are one photo" in refusal(refused, 422, "face")
    none = made(http, **{"from": first, "strength": 0})
    shown = Image.open(io.BytesIO(picture(http, none))).convert("RGB")
    assert shown.tobytes() == Image.open(path).convert("RGB").tobytes()
    assert len(http.get(f"/jobs/{none}").json["faces"]) == len(PLACES)
