"""`from` over HTTP: a job that goes on with another one, on a real engine that needs no weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app import create_app as create_direct_app
from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.provenance import Weights
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key
from mead.resuming import Origin
from mead.storage import Storage
from mead.worker.engine import Engine
from tests.colours import ColourPipeline, make_engine
from tests.conftest import eventually, frames_of, running

FORM: dict[str, Any] = {"prompt": "#ff8000", "seed": 1}
ASYNC = {"Prefer": "respond-async"}


def photo() -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    file.seek(0)
    return file


def engine_of(jobs: Jobs, storage: Storage, latents_ttl: int = 3600) -> Engine:
    origin = Origin(model="LatentRevisions", weights=Weights.of("demo"), device="cpu")
    return make_engine(ColourPipeline(), jobs, storage, origin=origin, latents_ttl=latents_ttl)


@pytest.fixture
def engine(jobs: Jobs, storage: FolderStorage, settings: Settings) -> Iterator[Engine]:
    """A worker's engine, at work."""
    engine = engine_of(jobs, storage)
    jobs.heartbeat("me", settings.queues, 600)
    with running(engine.run):
        yield engine


def post(http: FlaskClient, **form: Any) -> TestResponse:
    return http.post("/latent_revision", data=form)


def made(http: FlaskClient, **form: Any) -> str:
    """The id of a job that has succeeded."""
    answer = post(http, **form)
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json["id"]
    return job_id


def picture(http: FlaskClient, job_id: str) -> bytes:
    return http.get(f"/jobs/{job_id}/image").data


def refusal(answer: TestResponse, status: int, field: str = "from") -> str:
    assert answer.status_code == status, answer.text
    assert answer.json["field"] == field
    message: str = answer.json["message"]
    assert message.startswith(f"{field}: ")
    return message


def test_it_goes_on_exactly_where_it_was(
    http: FlaskClient, engine: Engine, jobs: Jobs, storage: FolderStorage
) -> None:
    whole = made(http, **FORM, iterations=9, img=(photo(), "a.png"))
    first = made(http, **FORM, iterations=4, img=(photo(), "a.png"), frames=2)
    second = made(http, **{"from": first, "iterations": 2})
    third = made(http, **FORM, **{"from": second, "iterations": 3, "frames": 3, "upscale": 1})
    assert picture(http, third) == picture(http, whole) != picture(http, second)
    record = http.get(f"/jobs/{third}").json
    assert record["continues"] == second and record["iterations"] == record["steps"] == 9
    assert record["prompt"] == "#ff8000" and record["seed"] == 1 and record["files"] == ["img"]
    assert "latents" not in record and record["upscale"] == 1
    assert [
        len(frames_of(http.get(f"/jobs/{name}/timelapse.webp").data)) for name in (first, second, third)
    ] == [2, 2, 3]
    assert storage.parameters(jobs.get(third))["img_path"].endswith(f"{third}.img.upload")


def test_it_can_be_done_again_and_waits_for_nothing(http: FlaskClient, engine: Engine) -> None:
    """A job goes on as often as asked; the copy that a new job has of the latents is its own."""
    first = made(http, **FORM, iterations=3)
    form = {"from": first, "iterations": 3}
    headers = {**ASYNC, "Idempotency-Key": "k"}
    accepted = [http.post("/latent_revision", data=form, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in accepted] == [202, 202]
    assert accepted[0].json["id"] == accepted[1].json["id"]
    again = made(http, **form)
    assert picture(http, again) == picture(http, made(http, **FORM, iterations=6))
    patient = made(http, **FORM, iterations=3, patience=2)
    longer = made(http, **{"from": patient}, iterations=3, patience=2)  # what is as it was may be sent
    assert http.get(f"/jobs/{longer}").json["steps"] == 6
    other = http.post("/latent_revision", data={**form, "iterations": 4}, headers=headers)
    assert other.status_code == 422 and other.json["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("form", "status", "field", "why"),
    [
        ({"prompt": "red"}, 422, "prompt", "only iterations, upscale and frames can"),
        ({"seed": "7"}, 422, "seed", "cannot change as a job goes on"),
        ({"n": "2"}, 422, "n", "cannot change as a job goes on"),
        ({"img": "photo"}, 422, "img", "cannot change as a job goes on"),
        ({"colour": "red"}, 400, "colour", "unknown field"),
        ({"iterations": "0"}, 422, "iterations", "must be at least 1"),
        ({"iterations": "many"}, 400, "iterations", "must be a whole number"),
        (
            {"iterations": "1998"},
            422,
            "iterations",
            "3 steps and 1998 further ones are 2001, must be at most 2000",
        ),
        ({"frames": "101"}, 422, "frames", "must be at most 100"),
        ({"upscale": "3"}, 422, "upscale", "must be 1, 2 or 4"),
    ],
)
def test_what_cannot_be_changed_is_named(
    http: FlaskClient,
    engine: Engine,
    storage: FolderStorage,
    form: dict[str, str],
    status: int,
    field: str,
    why: str,
) -> None:
    first = made(http, **FORM, iterations=3)
    before = sorted(storage.uploads.glob("*"))
    sent = {name: (photo(), "a.png") if value == "photo" else value for name, value in form.items()}
    assert why in refusal(post(http, **{"from": first}, **sent), status, field)
    assert sorted(storage.uploads.glob("*")) == before


def test_jobs_that_cannot_go_on(
    http: FlaskClient, engine: Engine, jobs: Jobs, storage: FolderStorage, settings: Settings
) -> None:
    for unknown in ("0" * 32, ""):
        assert "there is no job" in refusal(http.post("/latent_revision", data={"from": unknown}), 404)
    failed = post(http, prompt="no colour").json["id"]
    assert "it is failed" in refusal(post(http, **{"from": failed}), 409)
    first = made(http, **FORM, iterations=3)
    assert "was not made by StyleCLIP" in refusal(http.post("/styleclip", data={"from": first}), 422)
    edit = http.post("/styleclip", data={"prompt": "red", "img": (photo(), "a.png")}, headers=ASYNC).json[
        "id"
    ]
    assert "was not made by LatentRevisions" in refusal(post(http, **{"from": edit}), 422)
    http.delete(f"/jobs/{edit}")

    result = storage.results / str(jobs.get(first).out_path)
    latents = storage.latents_path(result)
    content = latents.read_bytes()
    latents.write_bytes(content.replace(b"demo", b"ours"))
    assert "made with the weights 'ours', not 'demo'" in refusal(post(http, **{"from": first}), 409)
    latents.write_bytes(content[:40])
    assert "damaged" in refusal(post(http, **{"from": first}), 409)
    latents.write_bytes(content)
    finished = str(jobs.redis.hget(job_key(first), "finished_at"))
    jobs.redis.hset(job_key(first), "finished_at", f"2001{finished[4:]}")  # though they are still there
    assert "latents were kept for 3600 seconds" in refusal(post(http, **{"from": first}), 409)
    jobs.redis.hset(job_key(first), "finished_at", finished)
    latents.unlink()
    assert "latents were kept for 3600 seconds after its end (LATENTS_TTL)" in refusal(
        post(http, **{"from": first}), 409
    )

    with_picture = made(http, **FORM, iterations=3, img=(photo(), "a.png"))
    storage.upload_path(with_picture, "img").unlink()
    refusal(post(http, **{"from": with_picture}), 409)
    assert [path.name for path in storage.uploads.iterdir()] == []


def test_only_the_owners_jobs_go_on(settings: Settings, engine: Engine) -> None:
    keys = (SecretStr("the-first-key"), SecretStr("the-second-key"))
    http = create_app(settings.model_copy(update={"api_keys": keys})).test_client()
    job = http.post(
        "/latent_revision", data={**FORM, "iterations": 2}, headers={"X-API-Key": "the-first-key"}
    )
    form = {"from": job.json["id"], "iterations": 1}
    refused = http.post("/latent_revision", data=form, headers={"X-API-Key": "the-second-key"})
    assert refused.status_code == 404 and refused.json["field"] == "from"
    assert http.post("/latent_revision", data=form, headers={"X-API-Key": "the-first-key"}).status_code == 200


def test_weights_that_change_while_it_waits(
    http: FlaskClient, jobs: Jobs, storage: FolderStorage, settings: Settings
) -> None:
    """The inference server checks again."""
    jobs.heartbeat("me", settings.queues, 600)
    engine = engine_of(jobs, storage)
    with running(engine.run):
        first = made(http, **FORM, iterations=2)
    waiting = http.post("/latent_revision", data={"from": first}, headers=ASYNC).json["id"]
    assert engine.origin is not None
    sums = dict.fromkeys(engine.origin.weights.sha256, "0" * 64)
    changed = engine.origin.weights.model_copy(update={"sha256": sums})
    engine.origin = engine.origin.model_copy(update={"weights": changed})
    engine.step()
    job = jobs.get(waiting)
    assert (job.status, job.error_kind, job.error_field) == ("failed", "input", "from")
    assert job.error == "from: the weights 'demo' have changed since that job"
    assert not storage.upload_path(waiting, "latents").exists()


def test_latents_and_uploads_go_after_a_while(
    http: FlaskClient, engine: Engine, jobs: Jobs, storage: FolderStorage
) -> None:
    first = made(http, **FORM, iterations=2, img=(photo(), "a.png"))
    upload, (latents,) = storage.upload_path(first, "img"), storage.latents.iterdir()
    assert jobs.get(first).bytes == (storage.results / str(jobs.get(first).out_path)).stat().st_size
    assert storage.sweep(jobs.outcomes, 600, 600, 3600) == 0 and upload.exists() and latents.exists()
    assert storage.sweep(jobs.outcomes, 600, 600, 0) == 2 and not upload.exists() and not latents.exists()
    assert picture(http, first)


def test_latents_that_cannot_be_stored_end_nothing(
    http: FlaskClient, engine: Engine, storage: FolderStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.root.mkdir(parents=True, exist_ok=True)
    storage.latents.write_text("in the way")
    first = made(http, **FORM, iterations=2, img=(photo(), "a.png"))
    storage.latents.unlink()
    assert "latents cannot be stored" in caplog.text
    eventually(lambda: not list(storage.uploads.iterdir()))  # nothing is kept for nothing
    refusal(post(http, **{"from": first}), 409)


def test_where_nothing_is_kept(
    http: FlaskClient, jobs: Jobs, storage: FolderStorage, settings: Settings
) -> None:
    jobs.heartbeat("me", settings.queues, 600)
    with running(engine_of(jobs, storage, latents_ttl=0).run):
        first = made(http, **FORM, iterations=2, img=(photo(), "a.png"))
    assert not storage.latents.exists() and not list(storage.uploads.iterdir())
    refusal(post(http, **{"from": first}), 409)


def test_the_server_without_a_queue_knows_no_from(settings: Settings) -> None:
    refused = create_direct_app(settings).test_client().post("/latent_revision", data={"from": "0" * 32})
    assert refused.status_code == 400 and refused.json["field"] == "from"


@pytest.mark.slow
def test_a_job_goes_on_in_a_bucket(bucket: Storage, jobs: Jobs, settings: Settings, tmp_path: Path) -> None:
    url = f"s3://{bucket.bucket}/{bucket.prefix}"  # type: ignore[attr-defined]
    here = settings.model_copy(update={"data_url": url, "data_dir": tmp_path / "var"})
    http = create_app(here).test_client()
    jobs.heartbeat("me", settings.queues, 600)
    with running(engine_of(jobs, bucket).run):
        first = made(http, **FORM, iterations=3, img=(photo(), "a.png"), frames=2)
        second = made(http, **{"from": first, "iterations": 2})
        whole = made(http, **FORM, iterations=5, img=(photo(), "a.png"))
    assert picture(http, second) == picture(http, whole)
    assert len(frames_of(http.get(f"/jobs/{first}/timelapse.webp").data)) == 2
    assert bucket.sweep(jobs.outcomes, 600, 600, 3600) == 0
    assert bucket.sweep(jobs.outcomes, 600, 600, 0) >= 4
