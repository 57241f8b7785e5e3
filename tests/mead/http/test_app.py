"""The routes: good and bad input of every kind, on a real Redis, with a real engine that needs no weights."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from PIL import Image
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from benchmarks.fuzz_uploads import jpeg_of_arithmetic_scans
from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.http.services import services_of
from mead.imaging.encoding import write_picture
from mead.imaging.pictures import read_picture
from mead.queue.job import JobProgress
from mead.queue.jobs import Jobs
from mead.weights.notes import notes_on
from mead.worker.worker import Worker
from tests.colours import make_engine
from tests.conftest import eventually, report, running

ASYNC = {"Prefer": "respond-async"}


def error_of(answer: TestResponse, status: int) -> dict[str, Any]:
    """The body of an error, which always has the same shape."""
    assert answer.status_code == status, answer.text
    body = json.loads(answer.text)
    assert body["status"] == "error" and body["message"] and "field" in body
    return body


def photo(form: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> io.BytesIO:
    file = io.BytesIO()
    Image.new(mode, size, "teal").save(file, form)
    file.seek(0)
    return file


def upload(content: bytes | io.BytesIO, name: str = "photo.png") -> tuple[io.BytesIO, str]:
    return (io.BytesIO(content) if isinstance(content, bytes) else content, name)


def sent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `post`: a multipart form with a text, or the name and content of a file, for each field.

    As clients send it: Flask's test client leaves out a line's end after an empty file.
    """
    body, content_type = encode_multipart_formdata(fields)
    return {"data": body, "content_type": content_type}


# The plain routes


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_index(http: FlaskClient, method: str) -> None:
    """A JSON string, as the first version answered."""
    answer = http.open("/index", method=method)
    assert answer.mimetype == "application/json" and answer.text.strip() == '"Hello, its up!"'


def test_errors_of_flask_have_our_shape(http: FlaskClient) -> None:
    error_of(http.get("/nowhere"), 404)
    refused = http.get("/latent_revision")
    error_of(refused, 405)
    assert "POST" in refused.headers["Allow"]


def test_health(http: FlaskClient, settings: Settings, jobs: Jobs) -> None:
    assert http.get("/healthz").json == {"status": "success"}
    assert "latentrevisions_queue" in error_of(http.get("/readyz"), 503)["message"]
    jobs.heartbeat("one", [settings.queues[0]], 60)
    reason = error_of(http.get("/readyz"), 503)["message"]
    assert "styleclip_queue" in reason and "latentrevisions_queue" not in reason
    jobs.heartbeat("two", [settings.queues[1]], 60)
    assert http.get("/readyz").json == {"status": "success"}


def test_a_record_has_the_weights_unless_an_older_worker_may_read_it(settings: Settings, jobs: Jobs) -> None:
    """An older one would take them for parameters. The digest in its heartbeat tells a newer one."""
    queue = settings.queues[0]
    known = {"weights": "demo", "weights_digest": "1"}
    jobs.heartbeat("new", settings.queues, 60, **known)

    def recorded() -> tuple[str | None, str | None]:
        http = create_app(settings).test_client()
        answer = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC)
        job = jobs.get(answer.get_json()["id"])
        assert not {"weights", "weights_digest"} & job.parameters.keys()
        return job.weights, job.weights_digest

    weights, digest = recorded()
    assert weights == "demo" and digest is not None and len(digest) == 16
    jobs.heartbeat("old", [queue], 60, weights="demo")
    assert recorded() == (None, None)
    jobs.heartbeat("old", [queue], 60, weights="demo", weights_digest="2")
    assert recorded() == (weights, digest)
    (warning,) = create_app(settings).test_client().get("/readyz").get_json()["warnings"]
    assert warning == f"the inference servers of {queue} have different files of 'demo'"


def test_each_set_of_weights_has_its_own_readiness(settings: Settings, jobs: Jobs) -> None:
    second = settings.model_copy(update={"default_weights": "full"})
    jobs.heartbeat("full", settings.queues, 60, weights="full")
    http = create_app(second).test_client()
    assert "latentrevisions_queue:demo" in error_of(http.get("/readyz"), 503)["message"]
    error_of(http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC), 503)
    jobs.heartbeat("demo", second.queues, 60, weights="demo")
    assert http.get("/readyz").status_code == 200
    job_id = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).get_json()["id"]
    assert jobs.redis.lrange("latentrevisions_queue:demo", 0, -1) == [job_id]


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
    assert not list((tmp_path / "var/uploads").glob("*"))
    mortal_redis.start()
    error_of(http.get("/jobs/a"), 404)


def test_without_worker(http: FlaskClient, client: redis.Redis, storage: FolderStorage) -> None:
    refused = http.post("/latent_revision", data={"prompt": "teal", "img": upload(photo())})
    assert "inference server" in error_of(refused, 503)["message"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.keys("job:*") == [] and not list(storage.uploads.glob("*"))


# Bad input

BAD_FIELDS: list[tuple[dict[str, str], int, str | None]] = [
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": " \t\n"}, 400, "prompt"),
    ({"prompt": "a\0b"}, 400, "prompt"),
    ({"prompt": "x" * 2001}, 422, "prompt"),
    ({"w0": "abc"}, 400, "w0"),
    ({"w0": " "}, 400, "w0"),
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
    ({"prompts": "night | "}, 422, "prompts"),
    ({"prompts": "night:5000"}, 422, "prompts"),
    ({"prompts": "|".join("x" * 17)}, 422, "prompts"),
    ({"prompts": "night:2 | " + "very " * 90}, 422, "prompts"),
    ({"prompts": "ni\0ght"}, 400, "prompts"),
    ({"story": "night ^^ day"}, 422, "story"),
    ({"story": "night ^ " + "very " * 90}, 422, "story"),
    ({"mask": "not sent as a file"}, 400, "mask"),
    ({"init_weight": "-1"}, 422, "init_weight"),
    ({"init_weight": "much"}, 400, "init_weight"),
    ({"tv_weight": "1001"}, 422, "tv_weight"),
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
        assert error_of(http.post(route, data={"seed": "3"}), 400)["field"] == "prompt"


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
    nothing_chosen = sent({"prompt": "teal", "img": ("", b"")})
    assert error_of(http.post("/styleclip", **nothing_chosen), 400)["field"] == "img"


def test_a_form_that_is_cut_off(http: FlaskClient, idle_worker: None, client: redis.Redis) -> None:
    whole = sent({"prompt": "teal", "img": ("photo.png", photo().getvalue())})
    for length in (40, len(whole["data"]) // 2, len(whole["data"]) - 10):
        cut = {**whole, "data": whole["data"][:length]}
        assert "malformed or incomplete" in error_of(http.post("/latent_revision", **cut), 400)["message"]
    nameless = {**whole, "content_type": "multipart/form-data"}
    error_of(http.post("/latent_revision", **nameless), 400)
    assert client.keys("job:*") == []


def test_a_form_of_too_much(http: FlaskClient, idle_worker: None) -> None:
    error_of(http.post("/latent_revision", **sent({"prompt": "teal" * 200_000})), 413)
    error_of(http.post("/latent_revision", **sent({f"field{n}": "" for n in range(1100)})), 413)


BAD_PICTURES = {
    "empty": (b"", 415),
    "text": (b"This is not a picture.\n" * 50, 415),
    "truncated": (photo("JPEG", (400, 300)).getvalue()[:1500], 415),
    "30,000 pixels wide": (photo("PNG", (30_000, 20)).getvalue(), 413),
    "too many pixels": (photo("PNG", (8_000, 7_000), "1").getvalue(), 413),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
@pytest.mark.parametrize("field", ["img", "img_enc", "ne_img_enc", "mask"])
def test_bad_pictures(
    http: FlaskClient, idle_worker: None, client: redis.Redis, storage: FolderStorage, kind: str, field: str
) -> None:
    content, status = BAD_PICTURES[kind]
    fine = "img" if field != "img" else "img_enc"
    form = {"prompt": "teal", fine: ("photo.png", photo().getvalue()), field: ("photo.png", content)}
    error = error_of(http.post("/latent_revision", **sent(form)), status)
    assert error["field"] == field
    assert client.keys("job:*") == [] and not list(storage.uploads.glob("*"))


def mask_of(mode: str, colour: Any, box: Any = None) -> bytes:
    """A PNG of one colour, which in a box is white, or transparent."""
    mask = Image.new(mode, (40, 30), colour)
    if box is not None:
        mask.paste((255, 255, 255, 0)[: len(mask.getbands())] if mode == "RGBA" else 255, box)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (mask_of("L", 0), "nothing in it is white"),
        (mask_of("RGB", "white"), "all of it is white"),
        (mask_of("RGBA", (9, 9, 9, 0)), "all of it is white (or transparent)"),
        (mask_of("RGBA", (9, 9, 9, 255)), "nothing in it is white"),
    ],
)
def test_masks_of_nothing_and_everything(
    http: FlaskClient, idle_worker: None, client: redis.Redis, storage: FolderStorage, mask: bytes, why: str
) -> None:
    form = {"prompt": "teal", "img": ("photo.png", photo().getvalue()), "mask": ("mask.png", mask)}
    error = error_of(http.post("/latent_revision", **sent(form)), 422)
    assert error["field"] == "mask" and why in error["message"]
    assert client.keys("job:*") == [] and not list(storage.uploads.glob("*"))


def test_a_mask_needs_a_starter(http: FlaskClient, idle_worker: None) -> None:
    form = {"prompt": "teal", "mask": ("mask.png", mask_of("L", 0, (5, 5, 9, 9)))}
    error = error_of(http.post("/latent_revision", **sent(form)), 422)
    assert error["field"] == "mask" and "there is no img" in error["message"]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_a_mask_is_stored_as_what_may_change(
    http: FlaskClient, idle_worker: None, storage: FolderStorage, mode: str
) -> None:
    mask = mask_of(mode, 0 if mode == "L" else (255, 0, 0, 255), (10, 5, 30, 25))
    form = {"prompt": "teal", "img": ("photo.png", photo().getvalue()), "mask": ("mask.png", mask)}
    answer = http.post("/latent_revision", **sent(form), headers=ASYNC)
    assert answer.json is not None
    stored = read_picture(storage.upload_path(answer.json["id"], "mask"), "mask", mask=True)
    expected = Image.new("L", (40, 30))
    expected.paste(255, (10, 5, 30, 25))
    assert stored.tobytes() == expected.tobytes()


def test_too_large_a_request(settings: Settings, idle_worker: None) -> None:
    http = create_app(settings.model_copy(update={"max_upload_bytes": 10_000})).test_client()
    form = {"prompt": "teal", "img": upload(bytes(20_000))}
    error_of(http.post("/latent_revision", data=form), 413)


def test_a_picture_that_takes_too_much(settings: Settings, idle_worker: None, storage: FolderStorage) -> None:
    """It is refused, by its field; the good one before it leaves nothing."""
    http = create_app(settings.model_copy(update={"decode_seconds": 0.2})).test_client()
    bomb = ("bomb.jpeg", jpeg_of_arithmetic_scans(7_000, 98))
    form = {"prompt": "teal", "img": ("photo.png", photo().getvalue()), "img_enc": bomb}
    error = error_of(http.post("/latent_revision", **sent(form)), 413)
    assert error["field"] == "img_enc" and "takes more than 0.2 seconds" in error["message"]
    assert not list(storage.uploads.glob("*"))
    good = {"prompt": "teal", "img": ("photo.png", photo().getvalue())}
    assert http.post("/latent_revision", **sent(good), headers=ASYNC).status_code == 202


# Good input


def test_waiting_for_a_picture(http: FlaskClient, worker: Worker, storage: FolderStorage) -> None:
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
    http: FlaskClient, idle_worker: None, settings: Settings, jobs: Jobs, storage: FolderStorage
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

    job = jobs.claim(settings.queues[0], "idle")
    assert job is not None
    report(jobs, job, 7, 10)
    check = http.post("/check", data={"id": ids[0]}).json
    assert check == {"status": "processing", "id": ids[0], "rank": 0, "steps": 7, "total_steps": 10}
    assert len(LatentRevisionsParams.model_validate(job.parameters).pictures()) == 1


PROMPTS = [
    "一个漂亮的人",
    "صورة جميلة",
    "Ein Mädchen",
    "👩‍🎤🌈",
    '<b>bold</b> & "quoted" {x} %s',
    "a " * 30 + "z",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_of_any_script(http: FlaskClient, idle_worker: None, jobs: Jobs, prompt: str) -> None:
    answer = http.post("/latent_revision", data={"prompt": prompt}, headers={"Prefer": "respond-async"})
    assert answer.json is not None and answer.status_code == 202
    assert jobs.get(answer.json["id"]).parameters["prompt"] == prompt
    record = http.get(f"/jobs/{answer.json['id']}").json
    assert record is not None and record["prompt"] == prompt


def test_empty_fields_are_left_out(http: FlaskClient, idle_worker: None, jobs: Jobs) -> None:
    """A browser's form sends a field that was not filled in as an empty text."""
    optional = ("w0", "w1", "text_to_add", "seed", "iterations", "cutouts", "size", "start")
    given: set[str] = set()
    for form in ({"prompt": "teal", **dict.fromkeys(optional, ""), "img": ("", b"")}, {"prompt": "teal"}):
        answer = http.post("/latent_revision", **sent(form), headers=ASYNC)
        params = jobs.get(answer.json["id"]).parameters
        given.add(json.dumps({name: value for name, value in params.items() if name != "seed"}))
    assert len(given) == 1
    twice = http.post("/latent_revision", data={"prompt": "teal", "seed": ["", "3"]})
    assert error_of(twice, 400)["field"] == "seed"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_any_format(
    http: FlaskClient, idle_worker: None, storage: FolderStorage, form: str
) -> None:
    data = {"prompt": "teal", "img_enc": upload(photo(form), name="picture")}
    answer = http.post("/latent_revision", data=data, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202 and answer.json is not None
    with Image.open(storage.upload_path(answer.json["id"], "img_enc")) as stored:
        assert stored.format == "BMP" and stored.mode == "RGB" and stored.size == (40, 30)


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


def test_a_picture_that_is_gone(
    http: FlaskClient, worker: Worker, jobs: Jobs, storage: FolderStorage
) -> None:
    body = http.post("/latent_revision", data={"prompt": "teal"}).json
    assert body is not None
    (storage.results / str(jobs.get(body["id"]).out_path)).unlink()
    error_of(http.get(f"/jobs/{body['id']}/image"), 404)
    error_of(http.post("/check", data={"id": body["id"]}), 404)


@pytest.mark.parametrize("named", ["/etc/passwd", "../../../etc/passwd", "{other}", "{link}", ""])
def test_a_record_that_names_anything_else(
    http: FlaskClient, worker: Worker, jobs: Jobs, storage: FolderStorage, named: str
) -> None:
    """Whatever somebody writes into Redis, only the job's own picture is served."""
    own, other = (http.post("/latent_revision", data={"prompt": "teal"}).json["id"] for _ in range(2))
    link = storage.results / f"{own}.0.png"
    link.symlink_to("/etc/passwd")
    path = named.format(other=jobs.get(other).out_path, link=link.name)
    jobs.redis.hset(f"job:{own}", "out_path", path)
    for answer in (
        http.get(f"/jobs/{own}/image"),
        http.get(f"/jobs/{own}/preview"),
        http.post("/check", data={"id": own}),
    ):
        assert "has expired" in error_of(answer, 404)["message"]


def test_a_picture_under_another_path_of_the_same_folder(
    http: FlaskClient, worker: Worker, jobs: Jobs, settings: Settings, tmp_path: Path
) -> None:
    """As in two containers; records of older versions name the path that the inference server saw."""
    body = http.post("/latent_revision", data={"prompt": "teal", "img": upload(photo())}).json
    assert body is not None
    (tmp_path / "mounted").symlink_to(settings.data_dir.resolve())
    there = create_app(settings.model_copy(update={"data_dir": tmp_path / "mounted"})).test_client()
    settings.data_dir.rename(tmp_path / "moved")
    moved = create_app(settings.model_copy(update={"data_dir": tmp_path / "moved"})).test_client()
    for root in ("", f"{settings.data_dir}/results/"):
        jobs.redis.hset(f"job:{body['id']}", "out_path", root + Path(str(jobs.get(body["id"]).out_path)).name)
        assert moved.get(f"/jobs/{body['id']}/image").data == base64.b64decode(body["image"])
    (tmp_path / "moved").rename(settings.data_dir)
    assert there.post("/check", data={"id": body["id"]}).json == body


def test_a_picture_is_cached_by_its_name(http: FlaskClient, worker: Worker) -> None:
    body = http.post("/latent_revision", data={"prompt": "teal"}).json
    assert body is not None
    first = http.get(f"/jobs/{body['id']}/image")
    assert int(first.headers["Content-Length"]) == len(first.data) and first.headers["ETag"]
    again = http.get(f"/jobs/{body['id']}/image", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    part = http.get(f"/jobs/{body['id']}/image", headers={"Range": "bytes=1-3"})
    assert part.status_code == 206 and part.data == b"PNG"


def test_what_cannot_be_done_as_asked_leaves_no_upload(
    http: FlaskClient, worker: Worker, storage: FolderStorage
) -> None:
    form = {"prompt": "no such colour", "img": upload(photo()), "img_enc": upload(photo())}
    error_of(http.post("/latent_revision", data=form), 422)
    eventually(lambda: not list(storage.uploads.iterdir()))


def test_notes_on_a_job(
    http: FlaskClient, settings: Settings, jobs: Jobs, storage: FolderStorage, colours: Any
) -> None:
    """In every answer about it, and in its record; where there are none, the answers are as they were."""
    words = partial(notes_on, weights="demo")
    engine = make_engine(colours, jobs, storage, queue=settings.queues[0], notes_on=words)
    jobs.heartbeat("me", settings.queues[:1], 60)
    said = ["the demo weights have not learned: teal", "w2 has no effect: there is no img_enc"]
    with running(engine.run):
        accepted = http.post("/latent_revision", data={"prompt": "teal", "w2": "1"}, headers=ASYNC).json
        assert accepted is not None and accepted["notes"] == said
        job_id = accepted["id"]
        events = http.get(f"/jobs/{job_id}/events").text.strip().split("\n\n")
        end = json.loads(events[-1].rpartition("data: ")[2])
        assert end["status"] == "succeeded" and end["notes"] == said
        assert http.post("/check", data={"id": job_id}).json["notes"] == said
        assert http.get(f"/jobs/{job_id}").json["notes"] == said
        assert json.loads(jobs.redis.hget(f"job:{job_id}", "notes")) == said
        assert http.post("/latent_revision", data={"prompt": "teal", "w2": "1"}).json["notes"] == said

        body = http.post("/latent_revision", data={"prompt": "red", "w1": "0", "w2": "0"}).json
        assert body is not None and set(body) == {"status", "image", "id"}
        assert "notes" not in http.get(f"/jobs/{body['id']}").json
        assert not jobs.redis.hexists(f"job:{body['id']}", "notes")


def test_the_record_of_a_waiting_job_has_parameters_only(
    http: FlaskClient, idle_worker: None, client: redis.Redis
) -> None:
    """Inference servers of older versions take everything they do not know for a parameter."""
    accepted = http.post("/latent_revision", data={"prompt": "a cat"}, headers=ASYNC).json
    assert accepted is not None and accepted["notes"] == ["the demo weights have not learned: cat"]
    assert not client.hexists(f"job:{accepted['id']}", "notes")


REFUSED = [
    ({"prompt": "teal", "img": upload(photo()), "img_enc": upload(b"no picture")}, 415),
    ({"prompt": "teal", "img": upload(photo()), "iterations": "1000000"}, 422),
    ({"prompt": "teal", "img": upload(photo()), "img_enc": upload(photo("PNG", (9_000, 9_000), "1"))}, 413),
]


@pytest.mark.parametrize(("form", "status"), REFUSED)
def test_what_is_refused_leaves_nothing(
    http: FlaskClient, idle_worker: None, storage: FolderStorage, form: dict[str, Any], status: int
) -> None:
    error_of(http.post("/latent_revision", data=form), status)
    assert not list(storage.root.rglob("*.upload*"))


def test_a_form_that_stops_half_way_leaves_nothing(
    http: FlaskClient, idle_worker: None, storage: FolderStorage
) -> None:
    body, content_type = encode_multipart_formdata({"prompt": "teal", "img": ("photo.png", photo().read())})
    for end in (len(body) // 2, len(body) - 4):
        answer = http.post("/latent_revision", data=body[:end], content_type=content_type)
        error_of(answer, 400)
    assert not list(storage.root.rglob("*.upload*"))


def test_a_job_that_redis_refuses_leaves_nothing(
    mortal_redis: Any, settings: Settings, storage: FolderStorage
) -> None:
    settings = settings.model_copy(update={"redis_url": mortal_redis.url})
    jobs = Jobs(connect(settings), 600)
    jobs.heartbeat("idle", [settings.queues[0]], 600)
    http = create_app(settings).test_client()
    jobs.redis.config_set("maxmemory", 1)
    try:
        answer = http.post("/latent_revision", data={"prompt": "teal", "img": upload(photo())})
        error_of(answer, 503)
    finally:
        jobs.redis.config_set("maxmemory", 0)
    assert not list(storage.uploads.glob("*")) and not jobs.redis.keys("job:*")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("kept", "the key kept in Redis is not a sorted set, but a string"),
        ("workers", "the key workers in Redis is not a set, but a string"),
        (
            "latentrevisions_queue:tickets",
            "the key latentrevisions_queue:tickets in Redis is not a number, but text",
        ),
        ("latentrevisions_queue", "the key latentrevisions_queue in Redis is not a list, but a string"),
        ("kept_jobs:", "the key kept_jobs: in Redis is not a sorted set, but a string"),
    ],
)
def test_a_key_of_a_wrong_type_is_named(
    http: FlaskClient, idle_worker: None, jobs: Jobs, key: str, why: str
) -> None:
    jobs.redis.delete(key)
    jobs.redis.set(key, "abc")
    assert (
        why in error_of(http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC), 503)["message"]
    )
    assert not jobs.redis.keys("job:*")
    assert error_of(http.get("/readyz"), 503)["message"] == why
    jobs.redis.delete(key)
    jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    assert http.get("/readyz").status_code == 200
    assert http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).status_code == 202


def test_a_clients_own_key_of_a_wrong_type_is_named(http: FlaskClient, idle_worker: None, jobs: Jobs) -> None:
    location = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).headers["Location"]
    key = f"kept:{jobs.get(location.rpartition('/')[2]).client}"
    jobs.redis.delete(key)
    jobs.redis.hset(key, "a", 1)
    refused = error_of(http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC), 503)
    assert f"the key {key} in Redis is not a sorted set, but a hash" in refused["message"]


def test_previews_while_redis_has_no_memory_left(
    mortal_redis: Any, settings: Settings, storage: FolderStorage
) -> None:
    settings = settings.model_copy(update={"redis_url": mortal_redis.url})
    jobs = Jobs(connect(settings), 600)
    jobs.heartbeat("idle", [settings.queues[0]], 600)
    http = create_app(settings).test_client()
    where = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).headers["Location"]
    job = jobs.claim(settings.queues[0], "idle")
    assert job is not None
    jobs.redis.config_set("maxmemory", 1)
    try:
        assert http.get(f"{where}/preview").status_code == 202
        write_picture(Image.new("RGB", (8, 8), "teal"), storage.preview_path(job.id))
        assert http.get(f"{where}/preview").mimetype == "image/png"
    finally:
        jobs.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", "1_0"),
        ("seed", "1_000"),
        ("w0", "1_0.5"),
        ("size", "2_56x256"),
        ("n", "0_2"),
    ],
)
def test_numbers_with_underscores_are_refused(
    http: FlaskClient, idle_worker: None, field: str, value: str
) -> None:
    refused = error_of(
        http.post("/latent_revision", data={"prompt": "a_1_2", field: value}, headers=ASYNC), 400
    )
    assert refused["field"] == field and "without underscores" in refused["message"]
    error_of(http.get("/jobs?limit=1_0"), 400)


def test_what_is_too_large_is_named_with_its_limit(settings: Settings, idle_worker: None) -> None:
    http = create_app(settings.model_copy(update={"max_upload_bytes": 1_000_000})).test_client()

    def refused(form: dict[str, str]) -> str:
        return str(error_of(http.post("/latent_revision", data=form), 413)["message"])

    assert (
        refused({"prompt": "a" * 1_100_000})
        == "the request is longer than 1,000,000 bytes (MAX_UPLOAD_BYTES)"
    )
    assert refused({"prompt": "a" * 600_000}) == "a text of the form is longer than 500,000 bytes"
    assert refused({f"f{n}": "" for n in range(1001)}) == "the form has more than 1,000 fields"


def test_many_wait_at_once(settings: Settings, worker: Worker) -> None:
    app = create_app(settings)

    def ask(seed: int) -> str:
        answer = app.test_client().post("/latent_revision", data={"prompt": "teal", "seed": str(seed)})
        assert answer.status_code == 200 and answer.json is not None
        return str(answer.json["id"])

    with ThreadPoolExecutor(24) as pool:
        assert len(set(pool.map(ask, range(24)))) == 24


# Events


def events_of(answer: TestResponse) -> list[tuple[str | None, str, dict[str, Any]]]:
    """The events of a stream: id, kind, data."""
    assert answer.status_code == 200 and answer.mimetype == "text/event-stream", answer.text
    told = []
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            told.append((lines.get("id"), lines["event"], json.loads(lines["data"])))
    return told


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_job_told_as_it_goes(http: FlaskClient, worker: Worker, method: str) -> None:
    form = {"prompt": "teal", "iterations": "5"}
    if method == "POST":
        answer = http.post("/latent_revision", data=form, headers={"Accept": "text/event-stream"})
        told, where = events_of(answer), answer.headers["Location"]
    else:
        where = http.post("/latent_revision", data=form, headers=ASYNC).headers["Location"]
        told = events_of(http.get(f"{where}/events"))
    assert {kind for _, kind, _ in told[:-1]} <= {"progress"} and told[-1][1] == "end"
    seqs = [int(seq) for seq, _, _ in told if seq is not None]
    assert len(seqs) == len(told) and seqs == sorted(set(seqs))
    steps = [data["steps"] for _, _, data in told]
    assert steps == sorted(steps) and steps[-1] == 5 == told[-1][2]["total_steps"]
    assert told[-1][2]["status"] == "succeeded" and told[-1][2]["image"] == f"{where}/image"
    assert http.get(told[-1][2]["image"]).mimetype == "image/png"


def test_a_client_that_comes_back_gets_what_is_new(http: FlaskClient, idle_worker: None, jobs: Jobs) -> None:
    where = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).headers["Location"]
    job = jobs.claim("latentrevisions_queue", "idle")
    assert job is not None
    report(jobs, job, 1, 2)
    seen = jobs.get(job.id).seq
    jobs.fail(job, "idle", "nobody is here", "internal")
    last = jobs.get(job.id).seq

    def since(event_id: object) -> TestResponse:
        return http.get(f"{where}/events", headers={"Last-Event-ID": str(event_id)})

    for told in (events_of(since(seen)), events_of(http.get(f"{where}/events"))):
        ((seq, kind, data),) = told
        assert (int(str(seq)), kind, data["status"]) == (last, "end", "failed")
        assert data["message"] == "nobody is here" and "image" not in data
    assert since(last).status_code == 204 and not since(last).data  # a browser then asks no more
    for wrong in ("x", "-1", "1.5", "9" * 30):
        assert error_of(since(wrong), 400)["field"] == "Last-Event-ID"
    assert events_of(since("")) == events_of(http.get(f"{where}/events"))
    error_of(http.get("/jobs/nobody/events"), 404)
    assert http.head(f"{where}/events").status_code == 200


def test_a_quiet_stream_is_kept_open(settings: Settings, idle_worker: None, jobs: Jobs) -> None:
    http = create_app(settings.model_copy(update={"sse_heartbeat": 0.05})).test_client()
    answer = http.post("/latent_revision", data={"prompt": "teal"}, headers={"Accept": "text/event-stream"})
    chunks = (chunk.decode() if isinstance(chunk, bytes) else chunk for chunk in answer.response)
    assert next(chunks).startswith("retry: ")
    first = next(chunks)
    assert '"rank": 0' in first and '"status": "queued"' in first
    assert next(chunks).startswith(":") and next(chunks).startswith(":")
    (job_id,) = jobs.redis.lrange("latentrevisions_queue", 0, -1)
    jobs.cancel(job_id)
    end = next(chunk for chunk in chunks if not chunk.startswith(":"))
    assert "event: end" in end and '"status": "cancelled"' in end
    assert list(chunks) == []


def test_a_server_that_stops_says_so(settings: Settings, idle_worker: None, jobs: Jobs) -> None:
    app = create_app(settings)

    def ask(**headers: str) -> TestResponse:
        return app.test_client().post("/latent_revision", data={"prompt": "teal"}, headers=headers)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask)
        streaming = ask(Accept="text/event-stream")  # has begun; the rest is read below
        eventually(lambda: len(services_of(app).events.followed_jobs()) == 2)
        services_of(app).events.close()
        body = error_of(waiting.result(60), 503)
        _, kind, data = events_of(streaming)[-1]
    assert int(waiting.result().headers["Retry-After"]) >= 1
    assert kind == "closing" and data["status"] == "error"
    for job_id in (body["id"], data["id"]):
        assert jobs.get(job_id).status == "queued"
    error_of(app.test_client().post("/latent_revision", data={"prompt": "teal"}), 503)


# Cancelling, previews, records


def test_cancelling(http: FlaskClient, idle_worker: None, jobs: Jobs, storage: FolderStorage) -> None:
    form = {"prompt": "teal", "img": upload(photo())}
    waiting = http.post("/latent_revision", data=form, headers=ASYNC).headers["Location"]
    job_id = waiting.rpartition("/")[2]
    assert http.delete(waiting).json == {"status": "success", "message": "cancelled", "id": job_id}
    assert not list(storage.uploads.glob("*"))
    assert error_of(http.delete(waiting), 409)["id"] == job_id
    assert error_of(http.post("/check", data={"id": job_id}), 409)["id"] == job_id
    assert http.get(waiting).json["status"] == "cancelled"
    error_of(http.get(f"{waiting}/image"), 409)
    error_of(http.get(f"{waiting}/preview"), 409)
    error_of(http.delete("/jobs/nobody"), 404)

    running = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).headers["Location"]
    job = jobs.claim("latentrevisions_queue", "idle")
    assert job is not None
    assert http.delete(running).status_code == 200
    assert not report(jobs, job, 1, 2)


def test_who_waits_for_a_cancelled_job_is_told(http: FlaskClient, idle_worker: None, jobs: Jobs) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.post, "/latent_revision", data={"prompt": "teal"})
        eventually(lambda: jobs.redis.lrange("latentrevisions_queue", 0, -1))
        (job_id,) = jobs.redis.lrange("latentrevisions_queue", 0, -1)
        jobs.cancel(job_id)
        assert "cancelled" in error_of(waiting.result(60), 409)["message"]


def test_previews(http: FlaskClient, idle_worker: None, jobs: Jobs, storage: FolderStorage) -> None:
    where = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).headers["Location"]
    job = jobs.claim("latentrevisions_queue", "idle")
    assert job is not None
    progress = [JobProgress(job.id, 1, 2, 0.5)]
    assert not jobs.report(job.queue, "idle", progress).watched
    none_yet = http.get(f"{where}/preview")
    assert none_yet.status_code == 202 and int(none_yet.headers["Retry-After"]) >= 1
    assert none_yet.json == {"status": "processing", "id": job.id, "rank": 0, "steps": 1, "total_steps": 2}
    assert jobs.report(job.queue, "idle", progress).watched == {job.id}  # the worker knows that one looks
    write_picture(Image.new("RGB", (8, 8), "teal"), storage.preview_path(job.id))
    so_far = http.get(f"{where}/preview")
    assert so_far.mimetype == "image/png" and "no-store" in so_far.headers["Cache-Control"]
    with Image.open(io.BytesIO(so_far.data)) as picture:
        assert picture.getpixel((0, 0)) == (0, 128, 128)


def test_the_preview_of_a_finished_job_is_its_picture(http: FlaskClient, worker: Worker) -> None:
    body = http.post("/latent_revision", data={"prompt": "teal"}).json
    assert body is not None
    assert http.get(f"/jobs/{body['id']}/preview").data == base64.b64decode(body["image"])


def test_a_record_shows_no_path(http: FlaskClient, worker: Worker, settings: Settings) -> None:
    form = {"prompt": "teal", "w2": "1", "img": upload(photo()), "img_enc": upload(photo())}
    body = http.post("/latent_revision", data=form).json
    assert body is not None
    answer = http.get(f"/jobs/{body['id']}")
    record = answer.json
    assert record is not None and record["files"] == ["img", "img_enc"]
    assert record["image"] == f"/jobs/{body['id']}/image" and record["seq"] > 0
    assert str(settings.data_dir) not in answer.text and "path" not in answer.text
    assert not {"owner", "client", "fingerprint", "idempotency_key"} & set(record)


@pytest.mark.parametrize(
    "route", ["/jobs/{}", "/jobs/{}/image", "/jobs/{}/preview", "/jobs/{}/events", "DELETE /jobs/{}"]
)
def test_fields_a_route_does_not_know(http: FlaskClient, idle_worker: None, route: str) -> None:
    job_id = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).json["id"]
    method, _, path = route.rpartition(" ")
    answer = http.open(path.format(job_id), method=method or "GET", query_string={"size": "8"})
    assert error_of(answer, 400)["field"] == "size"


# Idempotency and limits


def test_a_repeated_post_is_one_job(
    http: FlaskClient, idle_worker: None, client: redis.Redis, storage: FolderStorage
) -> None:
    def post(prompt: str = "teal", key: str = "order-17", route: str = "/latent_revision") -> TestResponse:
        form = {"prompt": prompt, "img": upload(photo())}
        return http.post(route, data=form, headers={**ASYNC, "Idempotency-Key": key})

    first = post()
    uploads = sorted(storage.uploads.glob("*"))
    assert len(uploads) == 1
    for _ in range(3):
        again = post()
        assert again.status_code == 202 and again.json == first.json
        assert again.headers["Location"] == first.headers["Location"]
    for other in (post(prompt="red"), post(route="/styleclip")):
        assert error_of(other, 422)["field"] == "Idempotency-Key"
    assert len(client.keys("job:*")) == 1 and sorted(storage.uploads.glob("*")) == uploads
    assert post(key="order-18").json != first.json

    picture = Image.new("RGB", (40, 30), "red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    form = {"prompt": "teal", "img": upload(file.getvalue())}
    headers = {**ASYNC, "Idempotency-Key": "order-17"}
    assert (
        error_of(http.post("/latent_revision", data=form, headers=headers), 422)["field"] == "Idempotency-Key"
    )


def test_a_repeated_post_waits_for_the_first_ones_picture(http: FlaskClient, worker: Worker) -> None:
    """The seed is drawn once: the second answer is the same picture."""
    answers = [
        http.post("/latent_revision", data={"prompt": "teal"}, headers={"Idempotency-Key": "k"}).json
        for _ in range(2)
    ]
    assert answers[0] == answers[1] and answers[0] is not None and answers[0]["status"] == "success"


@pytest.mark.parametrize("key", ["", "two words", "ü", "x" * 256])
def test_bad_idempotency_keys(http: FlaskClient, idle_worker: None, client: redis.Redis, key: str) -> None:
    headers = {**ASYNC, "Idempotency-Key": key}
    answer = http.post("/latent_revision", data={"prompt": "teal"}, headers=headers)
    assert error_of(answer, 400)["field"] == "Idempotency-Key"
    assert client.keys("job:*") == []


def test_a_full_queue(settings: Settings, idle_worker: None, storage: FolderStorage, jobs: Jobs) -> None:
    http = create_app(settings.model_copy(update={"max_queue_length": 2})).test_client()

    def post(route: str = "/latent_revision") -> TestResponse:
        return http.post(route, data={"prompt": "teal", "img": upload(photo())}, headers=ASYNC)

    assert [post().status_code for _ in range(2)] == [202, 202]
    refused = post()
    error_of(refused, 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert len(list(storage.uploads.glob("*"))) == 2
    assert post("/styleclip").status_code == 202  # the other queue has room
    assert jobs.claim("latentrevisions_queue", "idle") is not None
    assert post().status_code == 202


def test_a_client_with_too_many_jobs(settings: Settings, idle_worker: None, storage: FolderStorage) -> None:
    http = create_app(settings.model_copy(update={"max_jobs_per_client": 1})).test_client()

    def post() -> TestResponse:
        return http.post("/latent_revision", data={"prompt": "teal", "img": upload(photo())}, headers=ASYNC)

    first = post()
    error_of(post(), 429)
    assert len(list(storage.uploads.glob("*"))) == 1
    http.delete(first.headers["Location"])
    assert post().status_code == 202


def test_a_disk_that_is_nearly_full(settings: Settings, idle_worker: None, client: redis.Redis) -> None:
    http = create_app(settings.model_copy(update={"min_free_disk_bytes": 2**60})).test_client()
    refused = http.post("/latent_revision", data={"prompt": "teal"})
    assert "disk" in error_of(refused, 503)["message"] and int(refused.headers["Retry-After"]) >= 1
    assert client.keys("job:*") == []


@pytest.mark.slow
def test_workers_that_go_while_one_waits(settings: Settings, jobs: Jobs) -> None:
    http = create_app(settings.model_copy(update={"worker_ttl": 1})).test_client()
    jobs.heartbeat("mortal", [settings.queues[0]], 1)
    body = error_of(http.post("/latent_revision", data={"prompt": "teal"}), 503)
    assert "inference server" in body["message"] and jobs.get(body["id"]).status == "queued"


def test_a_record_that_was_changed_by_hand(settings: Settings, jobs: Jobs) -> None:
    job_id = "a" * 32
    jobs.enqueue(job_id, "lr", settings.queues[0], {"prompt": "a house", "img_path": "x.upload"})
    jobs.redis.hset(f"job:{job_id}", "iterations", "lots")
    record = create_app(settings).test_client().get(f"/jobs/{job_id}").get_json()
    assert record["status"] == "queued" and record["prompt"] == "a house" and record["iterations"] == "lots"
    assert record["files"] == ["img"] and "img_path" not in record
