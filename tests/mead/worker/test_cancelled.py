"""The picture so far of a cancelled job."""

from __future__ import annotations

import io

import pytest
from flask.testing import FlaskClient
from PIL import Image

from caching_config import Settings
from mead.bucket_storage import BucketStorage
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key
from mead.storage import Storage
from mead.worker.cancelled import CancelledPictures
from mead.worker.engine import Engine
from tests.colours import QUEUE, ColourPipeline, make_engine
from tests.conftest import eventually

JOB = "a" * 32


@pytest.fixture
def engine(jobs: Jobs, storage: FolderStorage, colours: ColourPipeline) -> Engine:
    return make_engine(colours, jobs, storage)


@pytest.fixture
def http(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


def put(jobs: Jobs, job_id: str = JOB) -> None:
    jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "red", "seed": 1, "iterations": 100})


def files(storage: FolderStorage) -> list[str]:
    return sorted(path.name for path in storage.results.glob("*"))


def test_it_is_the_jobs_picture(
    jobs: Jobs, storage: FolderStorage, engine: Engine, http: FlaskClient
) -> None:
    put(jobs)
    for _ in range(3):
        engine.step()
    assert jobs.cancel(JOB)
    assert http.get(f"/jobs/{JOB}/image").status_code == 409
    engine.step()
    eventually(lambda: jobs.get(JOB).out_path)
    job = jobs.get(JOB)
    assert job.status == "cancelled" and files(storage) == [job.out_path]
    assert jobs.kept() == (1, job.bytes) and job.bytes > 0
    assert 0 < jobs.redis.ttl(job_key(JOB)) <= jobs.ttl
    record = http.get(f"/jobs/{JOB}").json
    assert record["status"] == "cancelled" and record["steps"] == 3
    picture = http.get(record["image"])
    assert picture.mimetype == "image/png" and Image.open(io.BytesIO(picture.data)).size == (8, 8)
    checked = http.post("/check", data={"id": JOB})
    assert checked.status_code == 409  # as before: it has not succeeded
    storage.sweep(jobs.outcomes, 0, 0)
    assert files(storage) == [job.out_path]
    assert http.put(f"/jobs/{JOB}/keep").json["kept"] is True


def test_a_job_that_has_done_no_step_has_none(jobs: Jobs, storage: FolderStorage, engine: Engine) -> None:
    put(jobs)
    engine.admit()
    jobs.cancel(JOB)
    engine.report()
    engine.writers.shutdown()
    assert jobs.get(JOB).out_path is None and files(storage) == []


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_sweep_between_storing_and_naming(
    jobs: Jobs, storage: FolderStorage, bucket: BucketStorage, kind: str
) -> None:
    store: Storage = storage if kind == "folder" else bucket
    put(jobs)
    jobs.cancel(JOB)
    path = store.new_result_path(JOB)
    store.write(b"a picture", path)
    assert store.sweep(jobs.outcomes, 600, 600) == 0
    assert store.sweep(jobs.outcomes, 0, 600) == 1  # it was never named


def test_what_was_not_cancelled_keeps_its_own(jobs: Jobs, storage: FolderStorage) -> None:
    put(jobs)
    pictures = CancelledPictures(jobs, storage)
    pictures.store(JOB, Image.new("RGB", (8, 8)))
    assert jobs.get(JOB).out_path is None and files(storage) == []
    jobs.cancel(JOB)
    pictures.store(JOB, Image.new("RGB", (8, 8)))
    first = jobs.get(JOB).out_path
    pictures.store(JOB, Image.new("RGB", (8, 8), "red"))
    assert jobs.get(JOB).out_path == first and files(storage) == [first]
    jobs.redis.delete(job_key(JOB))
    pictures.store(JOB, Image.new("RGB", (8, 8)))
    assert files(storage) == [first] and not jobs.redis.exists(job_key(JOB))


def test_a_full_disk_is_logged(jobs: Jobs, storage: FolderStorage, caplog: pytest.LogCaptureFixture) -> None:
    put(jobs)
    jobs.cancel(JOB)
    storage.root.mkdir(parents=True)
    storage.results.write_text("not a folder")
    CancelledPictures(jobs, storage).store(JOB, Image.new("RGB", (8, 8)))
    assert "the picture of a cancelled job cannot be stored" in caplog.text
    storage.results.unlink()
