"""The faces of a photo by HTTP: /faces, jobs that choose one, and the whole photo that comes back."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr

from app import create_app as create_trial_app
from caching_config import Settings
from mead.http.app import create_app
from mead.imaging.pictures import read_picture
from mead.limits import check_steps
from mead.queue.jobs import Jobs
from mead.storage import Storage
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import load_pipeline
from tests.colours import make_engine
from tests.conftest import DATA, ROOT, end_of, running
from tests.StyleCLIP.test_faces import PLACES, group

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def http(settings: Settings, jobs: Jobs) -> FlaskClient:
    """A client of the API; an inference server seems to be there."""
    jobs.heartbeat("me", settings.queues, 600)
    return create_app(settings).test_client()


@pytest.fixture
def engine(settings: Settings, jobs: Jobs, storage: Storage) -> Iterator[None]:
    """StyleCLIP at work, on the demo weights."""
    made = make_engine(
        load_pipeline("demo", "cpu"),
        jobs,
        storage,
        params=StyleCLIPParams,
        queue=settings.queues[1],
        check_steps=partial(check_steps, settings=settings.model_copy(update={"max_job_pixels": 2_000_000})),
    )
    with running(made.run):
        yield


@cache
def photo_file() -> bytes:
    """A group of three, 1200 x 700."""
    file = io.BytesIO()
    group(*PLACES).save(file, "PNG")
    return file.getvalue()


@cache
def large_file() -> bytes:
    """A picture of one colour, 5000 x 6000."""
    file = io.BytesIO()
    Image.new("P", (5000, 6000)).save(file, "GIF")
    return file.getvalue()


def photo() -> tuple[io.BytesIO, str]:
    """A group of three, to be sent."""
    return io.BytesIO(photo_file()), "photo"


def plain() -> tuple[io.BytesIO, str]:
    """A picture of one colour, too large to stay whole, to be sent."""
    return io.BytesIO(large_file()), "plain"


@pytest.mark.slow
def test_the_faces_of_a_photo(http: FlaskClient, storage: Storage, client: redis.Redis) -> None:
    answer = http.post("/faces", data={"img": photo()})
    assert answer.status_code == 200
    body = answer.json
    assert body is not None and (body["width"], body["height"]) == (1200, 700)
    assert [face["number"] for face in body["faces"]] == [1, 2, 3]
    for face, (x, y, _, _) in zip(body["faces"], PLACES, strict=True):
        left, upper, right, lower = face["box"]
        assert left < x < right and upper < y < lower and -180 <= face["angle"] <= 180
    assert not list(storage.root.glob("uploads/*")) and not client.keys("job:*")  # nothing is kept
    nobody = http.post("/faces", data={"img": ((DATA / "coffee.jpg").open("rb"), "coffee.jpg")})
    assert nobody.json == {"status": "success", "width": 600, "height": 400, "faces": []}


@pytest.mark.parametrize(
    ("form", "status", "field"),
    [
        ({}, 400, "img"),
        ({"img": "a text"}, 400, "img"),
        ({"img": (io.BytesIO(b"no picture"), "a.jpg")}, 415, "img"),
        ({"img": photo(), "prompt": "a smile"}, 400, "prompt"),
        ({"img": photo(), "mask": (io.BytesIO(b"mask"), "mask.png")}, 400, "mask"),
        ({"img": plain()}, 413, "img"),
    ],
)
def test_forms_that_are_refused(http: FlaskClient, form: dict[str, Any], status: int, field: str) -> None:
    answer = http.post("/faces", data=form, content_type="multipart/form-data")
    assert answer.status_code == status, answer.text
    body = answer.json
    assert body is not None and body["field"] == field and body["status"] == "error"


def test_faces_are_behind_the_door(settings: Settings) -> None:
    http = create_app(settings).test_client()
    assert http.get("/faces").status_code == 405
    assert http.post("/faces", headers={"Origin": "https://evil.example"}).status_code == 403
    locked = create_app(settings.model_copy(update={"api_keys": (SecretStr("a-secret-key"),)})).test_client()
    assert locked.post("/faces", data={"img": photo()}).status_code == 401
    assert locked.post("/faces", headers={"X-API-Key": "a-secret-key"}).status_code == 400


@pytest.mark.slow
def test_the_server_itself_loads_neither_pytorch_nor_opencv() -> None:
    code = (
        "from mead.http.app import create_app; from mead.settings import Settings; import sys\n"
        "http = create_app(Settings(redis_url='redis://127.0.0.1:1')).test_client()\n"
        "answer = http.post('/faces', data={'img': (open(sys.argv[1], 'rb'), 'photo')})\n"
        "assert len(answer.json['faces']) == 1, answer.text\n"
        "assert not {'torch', 'cv2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(DATA / "face.jpeg")], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_face_finder_that_was_killed_is_started_again(http: FlaskClient) -> None:
    def mine() -> set[int]:
        """The face finders that this process has started."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                parent = (entry.parent / "stat").read_text().rpartition(") ")[2].split()[1]
                if int(parent) == os.getpid() and b"face_finder_process" in entry.read_bytes():
                    found.add(int(entry.parent.name))
            except OSError:
                continue
        return found

    others = mine()
    assert http.post("/faces", data={"img": photo()}).status_code == 200
    (process,) = mine() - others
    os.kill(process, signal.SIGKILL)
    assert http.post("/faces", data={"img": photo()}).status_code == 200


def test_weights_that_cannot_be_used(settings: Settings) -> None:
    http = create_app(settings.model_copy(update={"weights": "none"})).test_client()
    answer = http.post("/faces", data={"img": photo()})
    assert answer.status_code == 503 and "weights" in answer.text


@pytest.mark.slow
def test_the_trial_server_lists_faces_too(settings: Settings) -> None:
    answer = create_trial_app(settings).test_client().post("/faces", data={"img": photo()})
    assert answer.json is not None and len(answer.json["faces"]) == 3


@pytest.mark.parametrize(
    ("given", "size"),
    [({}, (1024, 597)), ({"output": "photo"}, (1200, 700)), ({"face": "2"}, (1200, 700))],
)
def test_a_photo_stays_whole_where_that_is_wanted(
    http: FlaskClient, storage: Storage, given: dict[str, str], size: tuple[int, int]
) -> None:
    form = {"prompt": "a smile", "img": photo(), **given}
    assert http.post("/styleclip", data=form, headers=ASYNC).status_code == 202
    (stored,) = storage.uploads.iterdir()
    with Image.open(stored) as picture:
        assert picture.size == size


def test_a_photo_that_is_too_large_to_stay_whole(http: FlaskClient) -> None:
    form = {"prompt": "a smile", "img": plain()}
    refused = http.post("/styleclip", data={**form, "output": "pair"})
    assert refused.status_code == 413 and "more than 25,000,000 pixels" in refused.text
    form["img"] = plain()
    assert http.post("/styleclip", data=form, headers=ASYNC).status_code == 202


def test_without_the_new_fields_a_record_is_as_before(http: FlaskClient, client: redis.Redis) -> None:
    form = {"prompt": "a smile", "img": photo(), "output": "face", "face": "largest"}
    accepted = http.post("/styleclip", data=form, headers=ASYNC).json
    assert accepted is not None
    record = client.hgetall(f"job:{accepted['id']}")
    assert not {"output", "face", "faces"} & record.keys()
    assert not {"output", "face", "faces"} & http.get(f"/jobs/{accepted['id']}").json.keys()


@pytest.mark.slow
def test_an_edit_back_in_the_photo(
    http: FlaskClient, engine: None, jobs: Jobs, client: redis.Redis, tmp_path: Path
) -> None:
    """The waiting answer, the events and the record say which faces there are."""
    form = {
        "prompt": "a person with glasses",
        "iterations": "2",
        "refine": "0",
        "output": "photo",
        "face": "all",
    }
    body = http.post("/styleclip", data={**form, "img": photo()}).json
    assert body is not None and [face["number"] for face in body["faces"]] == [1, 2, 3]
    path = tmp_path / "result.png"
    path.write_bytes(base64.b64decode(body["image"]))
    assert read_picture(path, "img").size == (1200, 700)
    record = http.get(f"/jobs/{body['id']}").json
    assert record["faces"] == body["faces"] and record["total_steps"] == 6
    assert (record["output"], record["face"]) == ("photo", "all")
    assert json.loads(client.hget(f"job:{body['id']}", "faces")) == body["faces"]
    events = http.get(f"/jobs/{body['id']}/events").text.strip().split("\n\n")
    assert json.loads(events[-1].rpartition("data: ")[2])["faces"] == body["faces"]
    assert http.post("/check", data={"id": body["id"]}).json["faces"] == body["faces"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"face": "4"}, "face", "there are 3 faces in the photo, so there is no face 4"),
        ({"face": "0"}, "face", "must be 1"),
        ({"face": "all"}, "face", "several faces are one photo"),
        (
            {"face": "all", "output": "photo", "iterations": "40", "refine": "0"},
            "face",
            "3 faces with 40 steps each",
        ),
    ],
)
def test_a_face_that_cannot_be_had(
    http: FlaskClient, engine: None, given: dict[str, str], field: str, message: str
) -> None:
    answer = http.post("/styleclip", data={"prompt": "a smile", "img": photo(), **given})
    assert answer.status_code == 422, answer.text
    body = answer.json
    assert body is not None and body["field"] == field and message in body["message"]


@pytest.mark.slow
def test_a_photo_without_a_face(http: FlaskClient, engine: None, jobs: Jobs) -> None:
    coffee = ((DATA / "coffee.jpg").open("rb"), "coffee.jpg")
    form = {"prompt": "a smile", "output": "photo", "img": coffee}
    accepted = http.post("/styleclip", data=form, headers=ASYNC).json
    assert accepted is not None
    job = end_of(jobs, accepted["id"])
    assert (job.status, job.error_field) == ("failed", "img") and "found no face" in (job.error or "")


@pytest.mark.slow
def test_the_trial_server_limits_all_faces_too(settings: Settings) -> None:
    small = settings.model_copy(update={"max_job_pixels": 2_000_000})
    form = {"prompt": "a smile", "iterations": "40", "refine": "0", "output": "photo", "face": "all"}
    http = create_trial_app(small).test_client()
    answer = http.post("/styleclip", data={**form, "img": photo()})
    assert (answer.status_code, answer.json["field"]) == (422, "face")
    assert "3 faces with 40 steps each" in answer.json["message"]
    events = http.post(
        "/styleclip", data={**form, "img": photo()}, headers={"Accept": "text/event-stream"}
    ).text
    assert "3 faces with 40 steps each" in events and "progress" not in events


@pytest.mark.slow
def test_the_trial_server_pastes_too(settings: Settings) -> None:
    http = create_trial_app(settings).test_client()
    form = {"prompt": "a smile", "iterations": "1", "output": "pair", "img": photo()}
    body = http.post("/styleclip", data=form).json
    assert body is not None and len(body["faces"]) == 3
    with Image.open(io.BytesIO(base64.b64decode(body["image"]))) as picture:
        assert picture.size == (2400, 700)
    stream = http.post(
        "/styleclip", data={**form, "img": photo()}, headers={"Accept": "text/event-stream"}
    ).text
    assert all('"faces"' in event for event in stream.strip().split("\n\n") if "data:" in event)
