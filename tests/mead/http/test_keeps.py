"""Keeping jobs by HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from caching_config import Settings
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from tests.colours import QUEUE

pytestmark = pytest.mark.usefixtures("idle_worker")

IDS = [letter * 32 for letter in "abc"]


@pytest.fixture
def ended(jobs: Jobs) -> None:
    """Three jobs that have succeeded."""
    for job_id in IDS:
        jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "red", "seed": 1})
        job = jobs.claim(QUEUE, "worker")
        assert job is not None and jobs.succeed(job, "worker", f"{job_id}.00000000.png")


def put(http: FlaskClient, job_id: str) -> tuple[int, Any]:
    answer = http.put(f"/jobs/{job_id}/keep")
    return answer.status_code, answer.json


def test_keeping_and_releasing(http: FlaskClient, ended: None) -> None:
    status, record = put(http, IDS[0])
    assert status == 200 and record["kept"] is True and record == http.get(f"/jobs/{IDS[0]}").json
    assert [job["id"] for job in http.get("/jobs?kept=true").json["jobs"]] == IDS[:1]
    assert (
        len(http.get("/jobs").json["jobs"]) == 3
        and http.get("/jobs?kept=true&status=failed").json["jobs"] == []
    )
    released = http.delete(f"/jobs/{IDS[0]}/keep")
    assert released.status_code == 200 and "kept" not in released.json
    assert http.get("/jobs?kept=true").json["jobs"] == []


def test_limits(settings: Settings, ended: None) -> None:
    http = create_app(settings.model_copy(update={"max_keeps": 1})).test_client()
    assert [put(http, job_id)[0] for job_id in IDS[:2]] == [200, 409]
    assert "1 of your jobs are kept" in put(http, IDS[1])[1]["message"]
    none = create_app(settings.model_copy(update={"max_keeps": 0})).test_client()
    status, error = put(none, IDS[1])
    assert status == 403 and "MAX_KEEPS=0" in error["message"]
    assert none.delete(f"/jobs/{IDS[0]}/keep").status_code == 200


def test_what_cannot_be_kept(http: FlaskClient, jobs: Jobs) -> None:
    jobs.enqueue(IDS[0], "lr", QUEUE, {"prompt": "red"})
    status, error = put(http, IDS[0])
    assert status == 409 and error["message"] == f"job {IDS[0]} has no picture to keep: it is queued"
    assert put(http, IDS[1])[0] == 404 and http.delete(f"/jobs/{IDS[1]}/keep").status_code == 404
    assert http.put(f"/jobs/{IDS[0]}/keep", data={"a": "b"}).json["field"] == "a"


def test_another_keys_jobs_are_unknown(settings: Settings, jobs: Jobs) -> None:
    keyed = Settings(**{**settings.model_dump(exclude_unset=True), "api_keys": "first-key,second-key"})
    http = create_app(keyed).test_client()
    form = {"prompt": "red"}
    headers = {"Prefer": "respond-async", "X-API-Key": "first-key"}
    job_id = http.post("/latent_revision", data=form, headers=headers).json["id"]
    job = jobs.claim(QUEUE, "worker")
    assert job is not None and jobs.succeed(job, "worker", f"{job_id}.00000000.png")
    statuses = [
        http.open(f"/jobs/{job_id}/keep", method=method, headers={"X-API-Key": key}).status_code
        for key in ("second-key", "first-key")
        for method in ("PUT", "DELETE")
    ]
    assert statuses == [404, 404, 200, 200]
