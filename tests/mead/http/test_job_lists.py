"""Several jobs at once: groups made by one form, this key's jobs, the queues; and jobs that run again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from PIL import Image

from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from mead.worker.worker import Worker
from tests.colours import make_engine
from tests.conftest import eventually, running

ASYNC = {"Prefer": "respond-async"}
KEYS = ("first-key", "second-key")
FORM = {"prompt": "teal", "iterations": "2", "seed": "7"}


def photo() -> tuple[io.BytesIO, str]:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    file.seek(0)
    return file, "photo.png"


def submit(http: FlaskClient, form: dict[str, Any], route: str = "/latent_revision", **headers: str) -> Any:
    answer = http.post(route, data=form, headers={**ASYNC, **headers})
    assert answer.status_code == 202, answer.text
    return answer.json


def records(http: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    answer = http.get(f"/jobs{query}")
    assert answer.status_code == 200 and answer.json, answer.text
    found: list[dict[str, Any]] = answer.json["jobs"]
    return found


# Groups


def test_one_form_makes_several_pictures(http: FlaskClient, worker: Worker) -> None:
    answer = http.post("/latent_revision", data={**FORM, "n": "3"}).json
    assert answer and len(answer["ids"]) == len(answer["images"]) == 3
    assert (answer["id"], answer["image"]) == (answer["ids"][0], answer["images"][0])
    alone = []
    for seed in (7, 8, 9):
        one = http.post("/latent_revision", data={**FORM, "seed": f"{seed}"}).json
        assert one and one.keys() == {"status", "image", "id"}
        alone.append(one["image"])
    assert answer["images"] == alone and len(set(alone)) == 3
    found = records(http, f"?group={answer['id']}")
    assert [(one["id"], one["seed"]) for one in found] == list(zip(answer["ids"], (7, 8, 9), strict=True))
    assert {(one["group"], one["n"]) for one in found} == {(answer["id"], 3)}


def test_one_picture_is_answered_as_ever(http: FlaskClient, worker: Worker) -> None:
    answer = http.post("/latent_revision", data={**FORM, "n": "1"}).json
    assert answer and answer.keys() == {"status", "image", "id"}
    (record,) = records(http)
    assert "group" not in record and "n" not in record


def test_each_job_of_a_group_has_its_own_files(
    http: FlaskClient, idle_worker: None, storage: FolderStorage, jobs: Jobs, client: redis.Redis
) -> None:
    form = {"prompt": "a smile", "n": "3"}
    key = {"Idempotency-Key": "k"}
    answer = submit(http, {**form, "img": photo()}, "/styleclip", **key)
    first, second, third = answer["ids"]
    assert first == answer["id"]
    stored = sorted(path.name for path in storage.uploads.iterdir())
    assert stored == [f"{job_id}.img.upload" for job_id in answer["ids"]]
    for job_id in answer["ids"]:
        path = Path(storage.parameters(jobs.get(job_id))["img_path"])
        assert path.name.startswith(job_id)
        assert client.hget(f"job:{job_id}", "bytes") == f"{path.stat().st_size}"
    again = submit(http, {**form, "img": photo()}, "/styleclip", **key)
    assert again["ids"] == answer["ids"] and len(list(storage.uploads.iterdir())) == 3
    assert http.delete(f"/jobs/{second}").status_code == 200
    assert len(list(storage.uploads.iterdir())) == 2
    cancelled = http.delete(f"/jobs?group={first}")
    assert cancelled.json == {"status": "success", "message": "cancelled", "ids": [first, third]}
    assert list(storage.uploads.iterdir()) == []
    ended, unknown = http.delete(f"/jobs?group={first}"), http.delete(f"/jobs?group={second}")
    assert (
        ended.json["message"] == f"group: all jobs of {first} have already ended" and ended.status_code == 409
    )
    assert unknown.json["message"] == f"group: there is no job {second}" and unknown.status_code == 404


def test_a_group_that_has_no_room_leaves_nothing(
    settings: Settings, idle_worker: None, storage: FolderStorage
) -> None:
    http = create_app(settings.model_copy(update={"max_queue_length": 3})).test_client()
    waiting = submit(http, {"prompt": "a smile", "img": photo()}, "/styleclip")
    refused = http.post("/styleclip", data={"prompt": "a smile", "n": "3", "img": photo()}, headers=ASYNC)
    assert refused.status_code == 429
    assert [record["id"] for record in records(http)] == [waiting["id"]]
    assert len(list(storage.uploads.iterdir())) == 1


def test_bad_numbers(http: FlaskClient, idle_worker: None) -> None:
    for n, status in (("0", 422), ("17", 422), ("two", 400)):
        answer = http.post("/latent_revision", data={**FORM, "n": n})
        assert answer.status_code == status and answer.json and answer.json["field"] == "n"
    late = http.post("/latent_revision", data={**FORM, "n": "2", "seed": f"{2**63 - 1}"})
    assert late.status_code == 422 and late.json and late.json["field"] == "seed"
    events = {"Accept": "text/event-stream"}
    streamed = http.post("/latent_revision", data={**FORM, "n": "2"}, headers=events)
    assert streamed.status_code == 400 and streamed.json and streamed.json["field"] == "n"
    assert records(http) == []


def test_all_missing_fields_are_named_at_once(http: FlaskClient, idle_worker: None) -> None:
    answer = http.post("/styleclip", data={"seed": "7"})
    assert answer.status_code == 400 and answer.json and answer.json["field"] == "prompt"
    assert answer.json["message"] == "prompt: must be given, or sliders or mapper (and so must img)"


def test_the_first_failure_of_a_group_is_told(http: FlaskClient, worker: Worker) -> None:
    answer = http.post("/latent_revision", data={"prompt": "no colour", "n": "2"})
    assert answer.status_code == 422 and answer.json
    assert records(http, f"?group={answer.json['id']}")[1]["status"] == "failed"


# Listing


def test_times_have_as_many_digits_at_a_full_second(http: FlaskClient, idle_worker: None, jobs: Jobs) -> None:
    """So that clients may sort and parse their texts."""
    job_id = submit(http, FORM)["id"]
    for stored, told in (("12+00:00", "12.000000Z"), ("12.063+00:00", "12.063000Z")):
        jobs.redis.hset(f"job:{job_id}", "created_at", f"2026-11-26T22:26:{stored}")
        assert records(http)[0]["created_at"] == f"2026-11-26T22:26:{told}"


def test_jobs_in_pages(http: FlaskClient, idle_worker: None) -> None:
    assert http.get("/jobs").json == {"status": "success", "jobs": [], "cursor": None}
    ids = [submit(http, {"prompt": f"number {number}"})["id"] for number in range(5)]
    http.delete(f"/jobs/{ids[2]}")
    listed: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = http.get(f"/jobs?limit=2{cursor and f'&cursor={cursor}'}").json
        assert page and len(page["jobs"]) <= 2
        listed += page["jobs"]
        cursor = page["cursor"]
    made = {job["id"]: job["created_at"] for job in listed}
    assert sorted(made) == sorted(ids) and list(made.values()) == sorted(made.values(), reverse=True)
    assert sorted(job["rank"] for job in listed) == [0, 0, 1, 2, 3]
    assert [job["id"] for job in records(http, "?status=cancelled")] == [ids[2]]
    assert records(http, "?status=succeeded") == []
    assert http.get(f"/jobs/{listed[0]['id']}").json == listed[0]


@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("limit=0", "limit", 422),
        ("limit=101", "limit", 422),
        ("limit=x", "limit", 400),
        ("limit=1&limit=2", "limit", 400),
        ("status=done", "status", 400),
        ("cursor=x", "cursor", 400),
        ("group=x", "group", 400),
        ("colour=teal", "colour", 400),
    ],
)
def test_bad_queries(http: FlaskClient, query: str, field: str, status: int) -> None:
    answer = http.get(f"/jobs?{query}")
    assert answer.status_code == status and answer.json and answer.json["field"] == field


def test_each_key_sees_its_own_jobs(settings: Settings, idle_worker: None) -> None:
    http = create_app(Settings(**{**settings.model_dump(), "api_keys": ",".join(KEYS)})).test_client()
    mine, yours = ({"X-API-Key": key} for key in KEYS)
    answer = submit(http, {"prompt": "teal", "n": "2"}, **mine)
    listed = http.get("/jobs", headers=mine).json
    assert listed and {job["id"] for job in listed["jobs"]} == set(answer["ids"])
    for query in ("", f"?group={answer['id']}"):
        found = http.get(f"/jobs{query}", headers=yours).json
        assert found == {"status": "success", "jobs": [], "cursor": None}
    assert http.delete(f"/jobs?group={answer['id']}", headers=yours).status_code == 404
    assert http.post(f"/jobs/{answer['id']}/retry", headers=yours).status_code == 404


# Queues, and running again


def test_the_queues(http: FlaskClient, worker: Worker, settings: Settings) -> None:
    def known() -> Any:
        body = http.get("/queues").json
        return body if body and body["workers"] and body["queues"][0]["capacity"] else None

    state = eventually(known)
    assert [queue["name"] for queue in state["queues"]] == list(settings.queues)
    assert [queue["type"] for queue in state["queues"]] == ["lr", "sc"]
    assert {queue["waiting"] for queue in state["queues"]} == {0}
    (one,) = state["workers"]
    assert one["name"] == "me" and one["queues"] == sorted(settings.queues)


def test_a_failed_job_runs_again(
    http: FlaskClient, idle_worker: None, jobs: Jobs, storage: FolderStorage, settings: Settings
) -> None:
    job_id = submit(http, {"prompt": "a smile", "img": photo()}, "/styleclip")["id"]
    assert http.post(f"/jobs/{job_id}/retry").status_code == 409
    job = jobs.claim(settings.queues[1], "me")
    assert job and jobs.fail(job, "me", "the disk is full", "internal")
    answer = http.post(f"/jobs/{job_id}/retry")
    assert answer.status_code == 200 and answer.json and answer.json["status"] == "queued"
    assert "error" not in answer.json and storage.parameters(jobs.get(job_id))
    job = jobs.claim(settings.queues[1], "me")
    assert job and job.id == job_id and jobs.fail(job, "me", "img: no face", "input", "img")
    refused = http.post(f"/jobs/{job_id}/retry")
    assert refused.status_code == 409 and refused.json and "no face" in refused.json["message"]
    assert http.post(f"/jobs/{'0' * 32}/retry").status_code == 404


def test_a_full_service_says_when_there_is_room(settings: Settings, idle_worker: None) -> None:
    settings = settings.model_copy(update={"max_kept_jobs": 2})
    http = create_app(settings).test_client()
    for _ in range(2):
        http.delete(f"/jobs/{submit(http, FORM)['id']}")
    refused = http.post("/latent_revision", data=FORM, headers=ASYNC)
    assert refused.status_code == 429 and "(MAX_KEPT_JOBS); try again in " in refused.text
    assert settings.job_ttl - 60 < int(refused.headers["Retry-After"]) <= settings.job_ttl + 1


@pytest.mark.parametrize(
    "limit", ["max_jobs_per_client", "max_queue_length", "max_kept_jobs", "max_client_kept_jobs"]
)
def test_more_jobs_at_once_than_there_can_be(settings: Settings, idle_worker: None, limit: str) -> None:
    http = create_app(settings.model_copy(update={limit: 3})).test_client()
    refused = http.post("/latent_revision", data={**FORM, "n": "4"}, headers=ASYNC)
    assert refused.status_code == 422 and refused.json and refused.json["field"] == "n"
    assert refused.json["message"].startswith("n: at most 3 ")
    assert http.post("/latent_revision", data={**FORM, "n": "3"}, headers=ASYNC).status_code == 202


def test_deleted_records_make_room_for_new_jobs(
    settings: Settings, jobs: Jobs, storage: FolderStorage, idle_worker: None, colours: Any
) -> None:
    settings = settings.model_copy(update={"max_kept_jobs": 2})
    http = create_app(settings).test_client()
    for _ in range(2):
        submit(http, FORM)
    refused = http.post("/latent_revision", data=FORM, headers=ASYNC)
    assert refused.status_code == 429 and "Retry-After" not in refused.headers  # nobody knows when they end
    assert "(DELETE /jobs/ID/keep releases them), must go first" in refused.text
    jobs.redis.delete(*jobs.redis.keys("job:*"))
    assert http.post("/latent_revision", data=FORM, headers=ASYNC).status_code == 429
    working = Worker("me", [make_engine(colours, jobs, storage)], jobs, storage, ttl=settings.worker_ttl)
    with running(working.run):
        eventually(lambda: http.post("/latent_revision", data=FORM, headers=ASYNC).status_code == 202)
