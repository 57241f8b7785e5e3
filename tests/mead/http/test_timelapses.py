"""Time-lapses over HTTP, of a real engine that needs no weights."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from flask.testing import FlaskClient

from app import create_app as create_direct_app
from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.imaging.timelapse import NoVideoError
from mead.queue.jobs import Jobs
from mead.worker.worker import Worker
from tests.conftest import frames_of

FORM: dict[str, Any] = {"prompt": "#ff8000", "iterations": 6, "seed": 1}


def made(http: FlaskClient, **more: Any) -> str:
    """The id of a job that has succeeded."""
    answer = http.post("/latent_revision", data={**FORM, **more})
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json["id"]
    return job_id


def test_the_frames_of_a_job(http: FlaskClient, worker: Worker, storage: FolderStorage, jobs: Jobs) -> None:
    job_id = made(http, frames=4)
    record = http.get(f"/jobs/{job_id}").json
    assert record["frames"] == 4 and record["timelapse"] == f"/jobs/{job_id}/timelapse.webp"
    webp = http.get(record["timelapse"])
    assert webp.status_code == 200 and webp.mimetype == "image/webp"
    assert [frame.size for frame in frames_of(webp.data)] == [(8, 8)] * 4
    video = http.get(f"/jobs/{job_id}/timelapse.mp4")
    assert video.status_code == 200 and video.mimetype == "video/mp4"
    with av.open(io.BytesIO(video.data)) as container:
        assert container.streams.video[0].codec.name == "h264"
    part = http.get(f"/jobs/{job_id}/timelapse.mp4", headers={"Range": "bytes=4-7"})
    assert part.status_code == 206 and part.data == b"ftyp"
    assert http.get(record["timelapse"], headers={"If-None-Match": webp.headers["ETag"]}).status_code == 304
    stored = storage.timelapse_path(storage.results / str(jobs.get(job_id).out_path))
    assert jobs.get(job_id).bytes == stored.stat().st_size + len(http.get(f"/jobs/{job_id}/image").data)
    stored.unlink()
    gone = http.get(record["timelapse"])
    assert gone.status_code == 404 and gone.json["message"] == f"the time-lapse of job {job_id} has expired"


def test_the_picture_is_the_same_with_frames(http: FlaskClient, worker: Worker) -> None:
    with_frames, without = made(http, frames=3), made(http)
    assert "frames" not in http.get(f"/jobs/{without}").json
    assert http.get(f"/jobs/{with_frames}/image").data == http.get(f"/jobs/{without}/image").data


def test_jobs_without_a_time_lapse(http: FlaskClient, worker: Worker) -> None:
    job_id = made(http)
    assert "timelapse" not in http.get(f"/jobs/{job_id}").json
    for kind in ("webp", "mp4"):
        refused = http.get(f"/jobs/{job_id}/timelapse.{kind}")
        assert refused.status_code == 409 and "its form asked for no frames" in refused.json["message"]
        assert http.get(f"/jobs/{'0' * 32}/timelapse.{kind}").status_code == 404
    failed = http.post("/latent_revision", data={**FORM, "prompt": "no colour", "frames": 2}).json["id"]
    refused = http.get(f"/jobs/{failed}/timelapse.webp")
    assert refused.status_code == 409 and "it is failed" in refused.json["message"]


def test_a_server_without_a_video_encoder(
    http: FlaskClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(webp: bytes) -> bytes:
        raise NoVideoError

    monkeypatch.setattr(http.application.extensions["services"].videos, "_made", missing)
    job_id = made(http, frames=2)
    refused = http.get(f"/jobs/{job_id}/timelapse.mp4")
    assert refused.status_code == 501
    assert refused.json["message"] == (
        'timelapse.mp4: there is no video encoder here: install the package "av", the extra "video"; '
        "timelapse.webp needs none"
    )
    assert http.get(f"/jobs/{job_id}/timelapse.webp").status_code == 200


@pytest.mark.parametrize(("frames", "status"), [("101", 422), ("-1", 422), ("few", 400), ("1.5", 400)])
@pytest.mark.parametrize("route", ["/latent_revision", "/styleclip"])
def test_bad_numbers_of_frames(
    http: FlaskClient, idle_worker: None, route: str, frames: str, status: int
) -> None:
    refused = http.post(route, data={**FORM, "frames": frames})
    assert refused.status_code == status and refused.json["field"] == "frames"


def test_the_server_without_a_queue_keeps_none(settings: Settings) -> None:
    refused = create_direct_app(settings).test_client().post("/latent_revision", data={**FORM, "frames": 2})
    assert refused.status_code == 422 and refused.json["field"] == "frames"
