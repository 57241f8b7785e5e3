"""What only an object store has: faults on the way, pages of listings, copies, links."""

from __future__ import annotations

import secrets
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from PIL import Image

from caching_config import Settings, connect
from mead.bucket_storage import BucketStorage
from mead.client import Client
from mead.data_folder import FolderClaimedError, claim_folder, hold_folder
from mead.data_url import open_storage
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.http.services import services_of
from mead.imaging.encoding import Bitmap, png_bytes
from mead.queue.jobs import Jobs
from mead.redaction import Redactor
from mead.storage import StorageUnavailableError
from tests.colours import QUEUE, make_engine
from tests.conftest import DATA, RedisServer, Service, end_of, eventually, running
from tests.mead.test_storage import ID, job_of, preview, result, sweep, upload
from tests.object_store import PAGE, TIMEOUT, ObjectStore

PICTURE = Image.new("RGB", (40, 30), "teal")
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(autouse=True)
def mended(object_store: ObjectStore) -> Any:
    """Faults end with their test."""
    yield
    object_store.fail(None)


@pytest.fixture
def impatient(bucket: BucketStorage) -> None:
    """Slow answers come too late."""
    bucket.timeout = TIMEOUT


# Faults


@pytest.mark.parametrize("fault", ["500", "reset", "lost"])
def test_a_fault_that_passes_is_not_noticed(
    bucket: BucketStorage, object_store: ObjectStore, fault: str
) -> None:
    path = bucket.new_result_path(ID)
    for act in (
        lambda: bucket.write_picture(PICTURE, path),
        lambda: bucket.read(path),
        lambda: list(bucket.entries(bucket.results)),
    ):
        object_store.fail(fault, times=1)
        act()
    assert object_store.keys(bucket.prefix) == {f"results/{path.name}"}
    assert bucket.read(path) == png_bytes(PICTURE)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["500", "slow", "reset"])
def test_a_fault_that_stays(
    bucket: BucketStorage, object_store: ObjectStore, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every request fails within seconds; later all is as before, and nothing is there by half."""
    made, sent = result(bucket), upload(bucket)
    bucket.write_id("f" * 32)
    object_store.fail(fault)
    job = job_of(out_path=made.name, img_path=sent.name)

    def fails(act: Callable[[], object]) -> None:
        with pytest.raises(StorageUnavailableError, match="the object store does not answer"):
            act()

    acts = (
        lambda: bucket.write_picture(PICTURE, bucket.new_result_path(ID)),
        lambda: bucket.parameters(job),
        bucket.free_bytes,
        bucket.touch_id,
    )
    with ThreadPoolExecutor(len(acts)) as pool:  # side by side, as each takes until it gives up
        list(pool.map(fails, acts))
    bucket.cleanup(job)
    assert sweep(bucket, {}, 0, 0) == 0
    assert "files cannot be removed" in caplog.text and "cannot sweep" in caplog.text
    object_store.fail(None)
    eventually(lambda: object_store.busy == 0)  # slow requests still arrive
    assert bucket.read_result(job)
    bucket.check()
    sweep(bucket, {}, 0, 0)
    assert object_store.keys(bucket.prefix) <= {".mead-id"}


def test_a_bucket_that_does_not_exist(bucket: BucketStorage, tmp_path: Path) -> None:
    missing = BucketStorage("no-such-bucket", "", tmp_path / "cache")
    with pytest.raises(StorageUnavailableError, match="the bucket does not exist"):
        missing.check()


# Listings, copies, links


def test_a_sweep_reads_page_after_page(bucket: BucketStorage, object_store: ObjectStore) -> None:
    for _ in range(2 * PAGE + 1):
        object_store.put(bucket, bucket.new_result_path(secrets.token_hex(16)), b"x")
    object_store.requests.clear()
    assert sweep(bucket, {}, 0, 0) == 2 * PAGE + 1
    listings = [path for _, path in object_store.requests if "prefix=" in path and "results" in path]
    assert len(listings) == 3 and len(object_store.requests) == 8  # the other folders', one DeleteObjects


def test_an_object_of_others_that_cannot_be_named(
    bucket: BucketStorage, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    object_store.put(bucket, "uploads//x", b"not ours")
    result(bucket)
    assert sweep(bucket, {}, 0, 0) == 1
    assert "cannot sweep" in caplog.text and object_store.keys(bucket.prefix) == {"uploads//x"}


def test_an_upload_is_fetched_once(bucket: BucketStorage, object_store: ObjectStore) -> None:
    job = job_of(img_path=upload(bucket).name)
    object_store.requests.clear()
    (first, second) = (bucket.parameters(job)["img_path"] for _ in range(2))
    assert first == second and len(object_store.requests) == 1
    assert Path(first).read_bytes() == Bitmap.of(PICTURE).file
    bucket.cleanup(job, keep_uploads=True)
    assert Path(first).exists()
    bucket.cleanup(job)
    assert not Path(first).exists() and object_store.keys(bucket.prefix) == set()


def test_copies_go_with_their_jobs_on_every_machine(bucket: BucketStorage, tmp_path: Path) -> None:
    """Another machine has removed the upload itself."""
    job = job_of(img_path=upload(bucket).name)
    copy = Path(bucket.parameters(job)["img_path"])
    BucketStorage(bucket.bucket, bucket.prefix, tmp_path / "elsewhere").cleanup(job)
    assert sweep(bucket, {}, unclaimed=0) == 1 and not copy.exists()


def test_anyone_can_follow_a_link(bucket: BucketStorage) -> None:
    job = job_of(out_path=result(bucket).name)
    link = bucket.result_link(job, timedelta(seconds=60))
    assert link is not None and "X-Amz-Expires=60" in link
    answer = requests.get(link, timeout=30)
    assert answer.content == bucket.read_result(job) and answer.headers["Content-Type"] == "image/png"
    with pytest.raises(FileNotFoundError):
        bucket.result_link(job_of(out_path="../secret.png"), timedelta(seconds=60))


# One bucket, one Redis


def test_a_prefix_belongs_to_one_redis(
    bucket: BucketStorage, object_store: ObjectStore, client: redis.Redis, settings: Settings
) -> None:
    claim_folder(client, bucket, [QUEUE])
    hold_folder(client, bucket, [QUEUE])
    with connect(settings.model_copy(update={"redis_url": f"{settings.redis_url[:-1]}1"})) as other:
        other.flushdb()
        with pytest.raises(FolderClaimedError, match=f"{bucket} is in use with another.*Correct DATA_URL"):
            claim_folder(other, bucket, [QUEUE])
        object_store.age(bucket, bucket.marker, 3600)
        claim_folder(other, bucket, [QUEUE])  # nobody uses it any more
        other.flushdb()


# Settings


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("s3://pictures", BucketStorage, "s3://pictures"),
        ("s3://pictures/a/b.c/", BucketStorage, "s3://pictures/a/b.c"),
        ("file:///srv/the%20data", FolderStorage, "/srv/the data"),
        ("", FolderStorage, "var"),
    ],
)
def test_urls(url: str, kind: type, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_URL", url)
    settings = Settings()
    storage = open_storage(settings.data_url, settings.data_dir)
    assert isinstance(storage, kind) and str(storage).endswith(shown)


@pytest.mark.parametrize(
    "url",
    [
        "pictures",
        "s3:///a",
        "s3://A",
        "s3://pictures/../a",
        "s3://pictures/a//b",
        "s3://pictures/a?b=c",
        "s3://key:secret@pictures",
        "gs://pictures/a",
        "file://host/folder",
        "file:folder",
    ],
)
def test_urls_that_name_no_storage(url: str) -> None:
    with pytest.raises(ValueError, match=r"data_url\n.*must be s3://BUCKET/PREFIX.* or file:///FOLDER"):
        Settings(data_url=url)


def test_no_log_tells_the_stores_secret(settings: Settings, bucket: BucketStorage) -> None:
    event = {"event": "failed", "error": "signed with secret-of-the-tests"}
    assert Redactor(settings).redact(event)["error"] == "signed with ***"


# The servers


@pytest.fixture
def http(settings: Settings, bucket: BucketStorage, jobs: Jobs) -> Any:
    """A client of the API, whose results are sent as links."""
    jobs.heartbeat("idle", settings.queues, 600)
    changed = {"data_url": str(bucket), "result_link_seconds": 60}
    app = create_app(settings.model_copy(update=changed))
    services_of(app).storage.timeout = bucket.timeout  # type: ignore[attr-defined]
    return app.test_client()


def post(http: Any, **more: Any) -> Any:
    """Queue a job with a photo."""
    form = {"prompt": "teal", "img": (DATA / "coffee.jpg").open("rb")}
    return http.post("/latent_revision", data=form, headers=ASYNC, **more)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["500", "slow", "reset"])
def test_clients_are_told_and_the_service_recovers(
    http: Any, bucket: BucketStorage, object_store: ObjectStore, jobs: Jobs, fault: str
) -> None:
    assert post(http).status_code == 202
    object_store.fail(fault)
    for answer in (post(http), http.get("/readyz")):
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
        assert "the object store does not answer" in answer.json["message"]
    assert http.get("/metrics").status_code == 200
    object_store.fail(None)
    assert http.get("/readyz").status_code == 200 and post(http).status_code == 202
    bucket.sweep(jobs.outcomes, 0, 0)
    assert len([key for key in object_store.keys(bucket.prefix) if key.startswith("uploads/")]) == 2


def test_jobs_without_pictures_are_refused_too(http: Any, object_store: ObjectStore) -> None:
    object_store.fail("reset")
    answer = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC)
    assert answer.status_code == 503


def test_a_result_is_answered_with_a_link(
    http: Any, bucket: BucketStorage, jobs: Jobs, colours: Any, object_store: ObjectStore
) -> None:
    job_id = post(http).json["id"]

    def chunks_of(params: Any, steps: int, further: int) -> dict[str, str]:
        return {"mead": f"{params.prompt} {steps}"}

    engine = make_engine(colours, jobs, bucket, chunks_of=chunks_of)
    with running(engine.run):
        assert end_of(jobs, job_id).status == "succeeded"
    answer = http.get(f"/jobs/{job_id}/image")
    assert answer.status_code == 302 and answer.headers["Cache-Control"] == "no-store"
    png = requests.get(answer.headers["Location"], timeout=30).content
    assert Image.open(BytesIO(png)).info["mead"] == "teal 5"
    assert http.post("/check", data={"id": job_id}).json["image"]
    assert http.get(f"/jobs/{job_id}/preview").data[:4] == b"\x89PNG"
    eventually(lambda: not {key for key in object_store.keys(bucket.prefix) if "uploads" in key})


def test_each_job_of_a_group_has_its_own_objects(
    http: Any, bucket: BucketStorage, object_store: ObjectStore, jobs: Jobs, settings: Settings
) -> None:
    def uploads() -> set[str]:
        return {key for key in object_store.keys(bucket.prefix) if key.startswith("uploads/")}

    def post_three(http: Any) -> Any:
        form = {"prompt": "a smile", "n": "3", "img": (DATA / "coffee.jpg").open("rb")}
        return http.post("/styleclip", data=form, headers=ASYNC)

    ids = post_three(http).json["ids"]
    assert uploads() == {f"uploads/{job_id}.img.upload" for job_id in ids}
    sizes = {len(bucket.read(bucket.upload_path(job_id, "img"))) for job_id in ids}
    assert sizes == {jobs.get(job_id).bytes for job_id in ids} and jobs.kept() == (3, 3 * sizes.pop())
    assert http.delete(f"/jobs/{ids[1]}").status_code == 200 and len(uploads()) == 2
    assert http.delete(f"/jobs?group={ids[0]}").json["ids"] == [ids[0], ids[2]]
    assert uploads() == set() and jobs.kept() == (3, 0)
    jobs.enqueue("waiting", "sc", settings.queues[1], {})
    small = settings.model_copy(update={"data_url": str(bucket), "max_queue_length": 3})
    assert post_three(create_app(small).test_client()).status_code == 429 and uploads() == set()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_engine_waits_for_its_store(
    http: Any, bucket: BucketStorage, jobs: Jobs, colours: Any, object_store: ObjectStore
) -> None:
    """A job whose upload cannot be read stays queued; one whose result cannot be stored stays at work."""
    engine = make_engine(colours, jobs, bucket)
    first = http.post("/latent_revision", data={"prompt": "teal"}, headers=ASYNC).json["id"]
    second = post(http).json["id"]
    for fault in ("reset", "slow"):
        object_store.fail(fault)
        for _ in range(6):
            engine.step()
        assert jobs.get(first).status == "processing" and jobs.get(first).steps == 5
        waiting = jobs.get(second)
        assert waiting.status == "queued" and waiting.attempts == 0 and waiting.error is None
    object_store.fail(None)
    with running(engine.run):
        assert end_of(jobs, second).status == end_of(jobs, first).status == "succeeded"
    assert len([key for key in object_store.keys(bucket.prefix) if key.startswith("results/")]) >= 2


def test_previews(
    http: Any, bucket: BucketStorage, jobs: Jobs, colours: Any, object_store: ObjectStore
) -> None:
    """One that comes late is no one's any more, and is swept."""
    job_id = post(http).json["id"]
    jobs.ask_preview(job_id)
    engine = make_engine(colours, jobs, bucket)
    engine.step()
    assert http.get(f"/jobs/{job_id}/preview").data[:4] == b"\x89PNG"
    with running(engine.run):
        end_of(jobs, job_id)
    preview(bucket, job_id)
    assert bucket.sweep(jobs.outcomes, 600, 600) == 1


@pytest.mark.service
def test_the_whole_service(tmp_path: Path, bucket: BucketStorage, object_store: ObjectStore) -> None:
    """As processes: the caching server forks after it has asked the store. Clients follow its links."""
    redis_server = RedisServer(tmp_path)
    headers = {"X-API-Key": "key-of-the-tests"}
    settings = {
        "DATA_URL": str(bucket),
        "RESULT_LINK_SECONDS": "60",
        "API_KEYS": headers["X-API-Key"],
        **object_store.environment,
    }
    service = Service(tmp_path, redis_server, **settings)
    worker = service.process("tests/colour_server.py", service.environment, tmp_path / "inference.log")
    try:
        worker.wait_until(lambda: service.answers("/readyz"))
        with (DATA / "coffee.jpg").open("rb") as photo:
            form = {"prompt": "teal"}
            answer = requests.post(
                f"{service.url}/latent_revision", data=form, files={"img": photo}, headers=headers, timeout=60
            ).json()
        assert answer["status"] == "success" and answer["image"]
        object_store.headers.clear()
        with Client(service.url, headers["X-API-Key"]) as client:
            picture = client.job(answer["id"]).image
        assert picture.png == b64decode(answer["image"]) and "x-api-key" not in object_store.headers
        (key,) = (key for key in object_store.keys(bucket.prefix) if key != ".mead-id")
        assert key.startswith(f"results/{answer['id']}.")
        assert not list((tmp_path / "var").glob("*/*.png"))
    finally:
        assert worker.stop() == 0 and service.caching.stop() == 0
        redis_server.stop()
