"""The routes: good and bad input of every kind, on a real Redis, with a real engine that needs no weights."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from caching_config import Settings
from LatentRevisions.params import LatentRevisionsParams
from mead.api import create_app
from mead.engine import Engine
from mead.jobs import Jobs
from mead.storage import Storage
from mead.worker import Worker
from StyleCLIP.params import StyleCLIPParams


@pytest.fixture
def http(settings: Settings) -> FlaskClient:
    """A client of the API whose worker is alive but never takes a job."""
    return create_app(settings).test_client()


@pytest.fixture
def idle_worker(jobs: Jobs, settings: Settings) -> None:
    jobs.beat("idle", [settings.latentrevisions_queue, settings.styleclip_queue], 600)


@pytest.fixture
def worker(settings: Settings, jobs: Jobs, storage: Storage, colours: Any) -> Iterator[Worker]:
    """A worker that makes every prompt, a colour, into a picture of 8 x 8."""
    engines = [
        Engine(colours, params, jobs, queue, "me", 4, storage, settings.server_sleep)
        for params, queue in (
            (LatentRevisionsParams, settings.latentrevisions_queue),
            (StyleCLIPParams, settings.styleclip_queue),
        )
    ]
    working = Worker("me", engines, jobs, storage, settings.worker_ttl)
    jobs.beat("me", working.queues, settings.worker_ttl)
    stop = threading.Event()
    thread = threading.Thread(target=working.run, args=[stop])
    thread.start()
    yield working
    stop.set()
    thread.join(30)


def error_of(answer: TestResponse, status: int) -> dict[str, Any]:
    """The body of an error, which always has the same shape."""
    assert answer.status_code == status, answer.text
    body = json.loads(answer.text)
    assert body["status"] == "error" and body["message"] and "field" in body
    return body


def photo(form: str = "PNG", size: tuple[int, int] = (40, 30)) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, form)
    file.seek(0)
    return file


def upload(content: bytes | io.BytesIO, name: str = "photo.png") -> tuple[io.BytesIO, str]:
    return (io.BytesIO(content) if isinstance(content, bytes) else content, name)


# The plain routes


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_index(http: FlaskClient, method: str) -> None:
    assert http.open("/index", method=method).text == "Hello, its up!"


def test_errors_of_flask_have_our_shape(http: FlaskClient) -> None:
    error_of(http.get("/nowhere"), 404)
    refused = http.get("/latent_revision")
    error_of(refused, 405)
    assert "POST" in refused.headers["Allow"]


def test_health(http: FlaskClient, settings: Settings, jobs: Jobs) -> None:
    assert http.get("/healthz").json == {"status": "success"}
    assert "latentrevisions_queue" in error_of(http.get("/readyz"), 503)["message"]
    jobs.beat("one", [settings.latentrevisions_queue], 60)
    reason = error_of(http.get("/readyz"), 503)["message"]
    assert "styleclip_queue" in reason and "latentrevisions_queue" not in reason
    jobs.beat("two", [settings.styleclip_queue], 60)
    assert http.get("/readyz").json == {"status": "success"}


def test_not_ready_without_disk(settings: Settings, idle_worker: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    app = create_app(settings.model_copy(update={"data_dir": tmp_path / "file"}))
    assert "stored" in error_of(app.test_client().get("/readyz"), 503)["message"]


def test_without_redis(mortal_redis: Any, tmp_path: Path) -> None:
    settings = Settings(redis_url=mortal_redis.url, data_dir=tmp_path / "var")
    http = create_app(settings).test_client()
    mortal_redis.stop()
    assert http.get("/healthz").status_code == 200
    assert "Redis" in error_of(http.get("/readyz"), 503)["message"]
    refused = http.post("/styleclip", data={"prompt": "teal", "img": upload(photo())})
    assert "Redis" in error_of(refused, 503)["message"] and int(refused.headers["Retry-After"]) >= 1
    error_of(http.post("/check", data={"id": "a"}), 503)
    assert list((tmp_path / "var/uploads").iterdir()) == []
    mortal_redis.start()
    error_of(http.get("/jobs/a"), 404)


def test_without_worker(http: FlaskClient, client: redis.Redis, storage: Storage) -> None:
    refused = http.post("/latent_revision", data={"prompt": "teal", "img": upload(photo())})
    assert "inference server" in error_of(refused, 503)["message"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.keys("job:*") == [] and list(storage.uploads.iterdir()) == []


# Bad input

BAD_FIELDS: list[tuple[dict[str, str], int, str | None]] = [
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": " \t\n"}, 400, "prompt"),
    ({"prompt": "a\0b"}, 400, "prompt"),
    ({"prompt": "x" * 2001}, 422, "prompt"),
    ({"w0": "abc"}, 400, "w0"),
    ({"w0": ""}, 400, "w0"),
    ({"w0": "nan"}, 422, "w0"),
    ({"w1": "inf"}, 422, "w1"),
    ({"w2": "1e999"}, 422, "w2"),
    ({"w3": "-1e999"}, 422, "w3"),
    ({"w0": "1001"}, 422, "w0"),
    ({"w0": "0"}, 422, "w0"),
    ({"seed": "-1"}, 422, "seed"),
    ({"seed": "1.5"}, 400, "seed"),
    ({"seed": "9" * 30}, 422, "seed"),
    ({"iterations": "0"}, 422, "iterations"),
    ({"iterations": "2001"}, 422, "iterations"),
    ({"iterations": "many"}, 400, "iterations"),
    ({"size": "128"}, 400, "size"),
    ({"size": "axb"}, 400, "size"),
    ({"size": "100x128"}, 422, "size"),
    ({"size": "4096x4096"}, 422, "size"),
    ({"start": "anywhere"}, 400, "start"),
    ({"promt": "teal"}, 400, "promt"),
    ({"method": "optimisation"}, 400, "method"),
    ({"img": "not sent as a file"}, 400, "img"),
    ({"img_path": "/etc/passwd"}, 400, "img_path"),
    ({"img_enc_path": "/etc/passwd"}, 400, "img_enc_path"),
    ({"output_path": "/"}, 400, "output_path"),
    ({"callback": "x"}, 400, "callback"),
]


@pytest.mark.parametrize(("fields", "status", "field"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_fields(
    http: FlaskClient, idle_worker: None, client: redis.Redis, fields: dict[str, str], status: int, field: str
) -> None:
    error = error_of(http.post("/latent_revision", data={"prompt": "teal", **fields}), status)
    assert error["field"] == field and error["message"].startswith(f"{field}: ")
    assert client.keys("job:*") == []


def test_prompt_missing(http: FlaskClient, idle_worker: None) -> None:
    for route in ("/latent_revision", "/styleclip"):
        assert error_of(http.post(route), 400)["field"] == "prompt"
        assert error_of(http.post(route, json={"prompt": "teal"}), 400)["field"] == "prompt"


def test_fields_in_the_wrong_place(http: FlaskClient, idle_worker: None) -> None:
    form = {"prompt": "teal"}
    assert error_of(http.post("/latent_revision?w0=5", data=form), 400)["field"] == "w0"
    twice = http.post("/latent_revision", data={"prompt": ["teal", "red"]})
    assert error_of(twice, 400)["field"] == "prompt"
    as_file = http.post("/latent_revision", data={**form, "w0": upload(b"5")})
    assert error_of(as_file, 400)["field"] == "w0"
    unknown = http.post("/latent_revision", data={**form, "photo": upload(photo())})
    assert error_of(unknown, 400)["field"] == "photo"
    two = http.post("/latent_revision", data={**form, "img": [upload(photo()), upload(photo())]})
    assert error_of(two, 400)["field"] == "img"


def test_styleclip_needs_a_face(http: FlaskClient, idle_worker: None) -> None:
    assert error_of(http.post("/styleclip", data={"prompt": "teal"}), 400)["field"] == "img"
    nothing_chosen = {"prompt": "teal", "img": upload(b"", name="")}  # as a browser sends it
    assert error_of(http.post("/styleclip", data=nothing_chosen), 400)["field"] == "img"


BAD_PICTURES = {
    "empty": (b"", 415),
    "text": (b"This is not a picture.\n" * 50, 415),
    "truncated": (photo("JPEG", (400, 300)).getvalue()[:1500], 415),
    "30,000 pixels wide": (photo("PNG", (30_000, 20)).getvalue(), 413),
    "too many pixels": (photo("PNG", (8_000, 7_000)).getvalue(), 413),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
@pytest.mark.parametrize("field", ["img", "img_enc", "ne_img_enc"])
def test_bad_pictures(
    http: FlaskClient, idle_worker: None, client: redis.Redis, storage: Storage, kind: str, field: str
) -> None:
    content, status = BAD_PICTURES[kind]
    fine = "img" if field != "img" else "img_enc"
    form = {"prompt": "teal", fine: upload(photo()), field: upload(content)}
    error = error_of(http.post("/latent_revision", data=form), status)
    assert error["field"] == field
    assert client.keys("job:*") == [] and not list(storage.uploads.glob("*"))


def test_too_large_a_request(settings: Settings, idle_worker: None) -> None:
    http = create_app(settings.model_copy(update={"max_upload_bytes": 10_000})).test_client()
    form = {"prompt": "teal", "img": upload(bytes(20_000))}
    error_of(http.post("/latent_revision", data=form), 413)


# Good input


def test_waiting_for_a_picture(http: FlaskClient, worker: Worker, storage: Storage) -> None:
    form = {"prompt": "#ff8000", "iterations": "60", "seed": "3", "img": upload(photo())}
    for route in ("/latent_revision", "/styleclip"):
        if route == "/styleclip":
            form["img"] = upload(photo())
        body = http.post(route, data=form).json
        assert body is not None and body["status"] == "success" and set(body) == {"status", "image", "id"}
        with Image.open(io.BytesIO(base64.b64decode(body["image"]))) as picture:
            assert picture.format == "PNG" and picture.size == (8, 8)
        assert http.post("/check", data={"id": body["id"]}).json == body
        image = http.get(f"/jobs/{body['id']}/image")
        assert image.mimetype == "image/png" and image.data == base64.b64decode(body["image"])


def test_not_waiting(
    http: FlaskClient, idle_worker: None, settings: Settings, jobs: Jobs, storage: Storage
) -> None:
    ids = []
    for _ in range(3):
        form = {"prompt": "teal", "w1": "0.5", "size": "64x48", "img": upload(photo(size=(3000, 1500)))}
        answer = http.post("/latent_revision", data=form, headers={"Prefer": "wait=5, respond-async"})
        assert answer.status_code == 202 and answer.json is not None
        assert answer.json["message"] == "upload successful" and answer.json["status"] == "success"
        assert answer.headers["Location"] == f"/jobs/{answer.json['id']}"
        ids.append(answer.json["id"])

    check = http.post("/check", data={"id": ids[2]}).json
    assert check == {"status": "processing", "id": ids[2], "rank": 2, "steps": 0, "total_steps": None}
    error_of(http.get(f"/jobs/{ids[2]}/image"), 409)

    record = http.get(f"/jobs/{ids[0]}").json
    assert record is not None
    assert record["id"] == ids[0] and record["type"] == "lr" and record["status"] == "queued"
    assert record["w0"] == 5 and record["w1"] == 0.5 and record["size"] == "64x48" and record["rank"] == 0
    with Image.open(storage.upload_path(ids[0], "img")) as stored:
        assert stored.size == (settings.image_width, settings.image_width // 2)

    job = jobs.claim(settings.latentrevisions_queue, "idle")
    assert job is not None
    jobs.progress(job, "idle", 7, 10, 1.0)
    check = http.post("/check", data={"id": ids[0]}).json
    assert check == {"status": "processing", "id": ids[0], "rank": 0, "steps": 7, "total_steps": 10}
    assert len(LatentRevisionsParams.model_validate(job.parameters).pictures()) == 1


PROMPTS = ["一个漂亮的人", "صورة جميلة", "Ein Mädchen", "👩‍🎤🌈", '<b>bold</b> & "quoted" {x} %s', "x" * 2000]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_of_any_script(http: FlaskClient, idle_worker: None, jobs: Jobs, prompt: str) -> None:
    answer = http.post("/latent_revision", data={"prompt": prompt}, headers={"Prefer": "respond-async"})
    assert answer.json is not None and answer.status_code == 202
    assert jobs.get(answer.json["id"]).parameters["prompt"] == prompt
    record = http.get(f"/jobs/{answer.json['id']}").json
    assert record is not None and record["prompt"] == prompt


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_any_format(http: FlaskClient, idle_worker: None, storage: Storage, form: str) -> None:
    data = {"prompt": "teal", "img_enc": upload(photo(form), name="picture")}
    answer = http.post("/latent_revision", data=data, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202 and answer.json is not None
    with Image.open(storage.upload_path(answer.json["id"], "img_enc")) as stored:
        assert stored.format == "PNG" and stored.mode == "RGB" and stored.size == (40, 30)


def test_what_fails_is_told(http: FlaskClient, worker: Worker) -> None:
    answer = http.post("/latent_revision", data={"prompt": "no such colour"})
    assert "no such colour" in error_of(answer, 422)["message"]


def test_a_failure_of_ours_is_told(http: FlaskClient, worker: Worker, colours: Any) -> None:
    colours.room = 0
    answer = http.post("/latent_revision", data={"prompt": "teal"})
    assert "OutOfMemoryError" in error_of(answer, 500)["message"]


def test_unknown_ids(http: FlaskClient) -> None:
    assert error_of(http.post("/check", data={"id": "nobody"}), 404)["field"] == "id"
    assert error_of(http.post("/check"), 400)["field"] == "id"
    assert error_of(http.post("/check", data={"id": "nobody", "x": "1"}), 400)["field"] == "x"
    error_of(http.get("/jobs/nobody"), 404)
    error_of(http.get("/jobs/nobody/image"), 404)


def test_a_picture_that_is_gone(http: FlaskClient, worker: Worker, storage: Storage) -> None:
    body = http.post("/latent_revision", data={"prompt": "teal"}).json
    assert body is not None
    storage.result_path(body["id"]).unlink()
    error_of(http.get(f"/jobs/{body['id']}/image"), 404)
    error_of(http.post("/check", data={"id": body["id"]}), 404)


def test_many_wait_at_once(settings: Settings, worker: Worker) -> None:
    app = create_app(settings)

    def ask(seed: int) -> str:
        answer = app.test_client().post("/latent_revision", data={"prompt": "teal", "seed": str(seed)})
        assert answer.status_code == 200 and answer.json is not None
        return str(answer.json["id"])

    with ThreadPoolExecutor(24) as pool:
        assert len(set(pool.map(ask, range(24)))) == 24
