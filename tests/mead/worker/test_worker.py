"""The threads of an inference server, on a real Redis and a small real pipeline."""

from __future__ import annotations

import os
import resource
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from PIL import Image

from caching_config import Settings, connect
from mead.data_folder import claim_folder
from mead.folder_storage import FolderStorage
from mead.imaging.encoding import write_picture
from mead.queue.jobs import Jobs
from mead.worker.worker import OtherWeightsError, Worker, new_name
from tests.colours import make_engine
from tests.conftest import end_of, eventually, recover, running

QUEUE = "latentrevisions_queue"
LIMIT = 60


def put(jobs: Jobs, job_id: str, prompt: str = "teal") -> None:
    jobs.enqueue(job_id, "lr", QUEUE, {"prompt": prompt, "seed": 1, "iterations": 5})


@pytest.fixture
def worker(colours: Any, jobs: Jobs, storage: FolderStorage) -> Worker:
    engine = make_engine(colours, jobs, storage)
    return Worker("me", [engine], jobs, storage, ttl=1, attempts=2, unclaimed=0)


def test_no_two_workers_have_one_name() -> None:
    assert new_name() != new_name()


def test_it_sends_heartbeats_and_deregisters(worker: Worker, jobs: Jobs, client: redis.Redis) -> None:
    with running(worker.run):
        put(jobs, "a")
        assert end_of(jobs, "a").status == "succeeded"
        first = jobs.workers()["me"]
        assert first.queues[QUEUE].capacity == 4 and first.started_at <= first.seen_at
        assert 2**20 < first.memory_bytes < 2**40
        eventually(lambda: jobs.workers()["me"].seen_at > first.seen_at)
    assert jobs.workers() == {} and not client.smembers("workers")


def test_its_heartbeat_comes_before_its_first_claim(worker: Worker, jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    with client.monitor() as monitor, running(worker.run):
        commands = (command["command"] for command in monitor.listen())
        for command in commands:
            if command.startswith("SET worker:me "):
                break
            assert f"LMOVE {QUEUE}" not in command
        assert end_of(jobs, "a").status == "succeeded"


def test_a_broken_engine_stops_the_worker(worker: Worker, jobs: Jobs) -> None:
    put(jobs, "a")
    worker.engines[0].params = None  # type: ignore[assignment]
    worker.engines[0].storage = None  # type: ignore[assignment]  # so that failing the job fails, too
    with pytest.raises(AttributeError):
        worker.run(threading.Event())
    assert jobs.workers() == {}


@pytest.mark.slow
def test_it_takes_over_from_the_dead(worker: Worker, jobs: Jobs, client: redis.Redis) -> None:
    """A worker that died with two jobs, one of which it had died with before, and one whose name is lost."""
    put(jobs, "twice")
    jobs.claim(QUEUE, "first")
    recover(jobs, attempts=2)
    put(jobs, "once")
    assert [jobs.claim(QUEUE, "second") is not None for _ in range(2)] == [True, True]
    put(jobs, "lost")
    jobs.claim(QUEUE, "nameless")
    client.srem("workers", "nameless")
    client.rpush(f"{QUEUE}:processing:nameless", "a job without a record")
    with running(worker.run):
        for name in ("once", "lost"):
            assert end_of(jobs, name).status == "succeeded"
        failed = end_of(jobs, "twice")
        assert failed.status == "failed" and failed.error == "its worker died 2 times"
        assert not client.exists(f"{QUEUE}:processing:nameless")
    assert not client.smembers("workers")


def test_it_leaves_the_living_alone(worker: Worker, jobs: Jobs) -> None:
    jobs.heartbeat("another", [QUEUE], LIMIT)
    put(jobs, "a")
    jobs.claim(QUEUE, "another")
    jobs.heartbeat("dead", [QUEUE], LIMIT)
    put(jobs, "b")
    jobs.claim(QUEUE, "dead")
    with running(worker.run):
        jobs.redis.delete("worker:dead")
        assert end_of(jobs, "b").status == "succeeded"
    assert jobs.get("a").worker == "another"


@pytest.mark.slow
def test_files_go_with_their_records(worker: Worker, jobs: Jobs, storage: FolderStorage) -> None:
    jobs.ttl = 1
    ids = [secrets.token_hex(16) for _ in range(2)]
    for name, prompt in zip(ids, ("teal", "no such colour"), strict=True):
        picture = storage.upload_path(name, "img")
        write_picture(Image.new("RGB", (8, 8)), picture)
        jobs.enqueue(name, "lr", QUEUE, {"prompt": prompt, "iterations": 5, "img_path": str(picture)})
    with running(worker.run):
        assert end_of(jobs, ids[0]).status == "succeeded"
        eventually(lambda: not jobs.redis.keys("job:*"))
        eventually(lambda: not list(storage.results.iterdir()) + list(storage.uploads.iterdir()))


def test_a_folder_of_another_redis_is_not_swept(
    worker: Worker, jobs: Jobs, storage: FolderStorage, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.ttl = 1
    claim_folder(jobs.redis, storage, [QUEUE])
    ours = f"{QUEUE}:data_folder"
    result = storage.new_result_path(secrets.token_hex(16))
    with running(worker.run):
        eventually(lambda: "me" in jobs.workers())
        jobs.redis.set(ours, "0" * 32)  # as if it had been replaced
        eventually(lambda: "cannot sweep" in caplog.text)  # after a sweep that had begun before
        storage.write_picture(Image.new("RGB", (8, 8)), result)
        os.utime(result, (0, 0))
        put(jobs, "a")
        assert end_of(jobs, "a").status == "succeeded"
        assert result.exists()
        jobs.redis.flushall()  # ours again, once it is told
        eventually(lambda: jobs.redis.get(ours) == storage.read_id() and not result.exists())


def test_it_waits_for_redis(mortal_redis: Any, colours: Any, storage: FolderStorage) -> None:
    mortal_redis.stop()
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = make_engine(colours, jobs, storage)
    with running(Worker("me", [engine], jobs, storage, ttl=1).run):
        mortal_redis.start()
        put(jobs, "a")
        assert end_of(jobs, "a").status == "succeeded"


@pytest.mark.slow
def test_it_stops_in_time_when_redis_hangs(mortal_redis: Any, colours: Any, storage: FolderStorage) -> None:
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = make_engine(colours, jobs, storage)
    worker = Worker("me", [engine], jobs, storage, ttl=1)
    try:
        with running(worker.run) as stop:
            put(jobs, "a")
            assert end_of(jobs, "a").status == "succeeded"
            os.kill(mortal_redis.process.pid, 19)  # SIGSTOP: it answers nothing and refuses nothing
            asked = time.monotonic()
            stop.set()
        assert time.monotonic() - asked < 5
    finally:
        os.kill(mortal_redis.process.pid, 18)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 64 bytes, as when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_holds_results_back_and_heals(
    worker: Worker, jobs: Jobs, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.worker.active_job.STORE_PAUSE", 0)
    (engine,) = worker.engines
    put(jobs, "a")
    put(jobs, "b")
    jobs.ask_preview("a")
    with full_disk():
        for _ in range(8):
            engine.step()
    for name in "ab":
        job = jobs.get(name)
        assert job.status == "processing" and job.steps == 5
    assert not list(storage.results.iterdir())
    engine.step()
    ended = [jobs.get(name) for name in "ab"]
    assert [job.status for job in ended] == ["succeeded"] * 2
    assert {path.name for path in storage.results.iterdir()} == {job.out_path for job in ended}
    assert not list(storage.previews.iterdir())


@pytest.mark.slow
def test_a_full_redis_kills_no_worker(mortal_redis: Any, colours: Any, storage: FolderStorage) -> None:
    """No heartbeat arrives while Redis refuses writes: nobody is taken for dead, not even some time later."""
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    put(jobs, "a")
    other = jobs.claim(QUEUE, "other")
    assert other is not None
    jobs.heartbeat("other", [QUEUE], LIMIT)
    worker = Worker("me", [make_engine(colours, jobs, storage)], jobs, storage, ttl=1)
    with running(worker.run):
        eventually(lambda: "me" in jobs.workers())
        jobs.redis.config_set("maxmemory", "1kb")
        jobs.redis.delete("worker:other")
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            time.sleep(0.1)
            assert jobs.get("a").worker == "other" and jobs.get("a").attempts == 1
        assert "me" in jobs.workers(), "its own heartbeat is kept alive"
        jobs.redis.config_set("maxmemory", "0")
        jobs.heartbeat("other", [QUEUE], LIMIT)
        put(jobs, "b")
        assert end_of(jobs, "b").status == "succeeded"
        assert jobs.get("a").worker == "other"


def test_two_sets_of_weights_side_by_side(colours: Any, jobs: Jobs, storage: FolderStorage) -> None:
    """Each in queues of its own: none runs a job of the other, alive or dead."""
    full = f"{QUEUE}:full"
    engines = [
        make_engine(colours, jobs, storage, weights={"weights": "demo"}),
        make_engine(colours, jobs, storage, worker="too", queue=full, weights={"weights": "full"}),
    ]
    workers = [
        Worker(engine.worker, [engine], jobs, storage, ttl=1, unclaimed=0, **engine.weights)
        for engine in engines
    ]
    jobs.enqueue(
        "full", "lr", full, {"prompt": "red", "seed": 1, "iterations": 5}, weights={"weights": "full"}
    )
    jobs.claim(full, "dead")
    with running(workers[0].run):
        put(jobs, "demo")
        assert end_of(jobs, "demo").worker == "me"
        eventually(lambda: workers[0].heartbeat.missing_means_dead())
        workers[0].recovery.recovery.recover()
        workers[0].recovery.restore()
        assert jobs.get("full").worker == "dead" and jobs.redis.smembers("workers") == {"me", "dead"}
        with running(workers[1].run):
            ended = end_of(jobs, "full")
            assert (ended.status, ended.worker, ended.weights) == ("succeeded", "too", "full")


def test_a_job_that_was_checked_against_other_weights_fails(
    colours: Any, jobs: Jobs, storage: FolderStorage
) -> None:
    parameters = {"prompt": "red", "seed": 1, "iterations": 5}
    own = {"weights": "demo", "weights_digest": "1"}
    for name, of_job in (
        ("full", {"weights": "full"}),
        ("demo", {**own, "weights_digest": "2"}),
        ("any", None),
    ):
        jobs.enqueue(name, "lr", QUEUE, parameters, weights=of_job)
    with running(make_engine(colours, jobs, storage, weights=own).run):
        failed = end_of(jobs, "full")
        assert failed.status == "failed" and failed.error_kind == "internal"
        assert failed.error == "RuntimeError: it was accepted for the weights 'full', not for 'demo'"
        assert end_of(jobs, "demo").status == end_of(jobs, "any").status == "succeeded"


def test_dead_workers_without_jobs_are_forgotten(worker: Worker, jobs: Jobs, client: redis.Redis) -> None:
    client.sadd("workers", "idle", "busy")
    client.rpush("another_queue:processing:busy", "x")
    assert recover(jobs) == [] and client.smembers("workers") == {"idle", "busy"}
    worker.recovery.recovery.forget_idle()
    assert client.smembers("workers") == {"busy"}


def test_no_two_sets_of_weights_on_one_queue(
    colours: Any, jobs: Jobs, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker("me", [make_engine(colours, jobs, storage)], jobs, storage, ttl=1, weights="demo")
    jobs.heartbeat("older", [QUEUE], LIMIT)  # says nothing of its weights
    jobs.heartbeat("another", [QUEUE], LIMIT, weights="full")
    with pytest.raises(
        OtherWeightsError, match="another serves latentrevisions_queue with the weights 'full'"
    ):
        worker.run(threading.Event())
    assert "me" not in jobs.workers()
    jobs.deregister("another", [QUEUE])
    with monkeypatch.context() as patch:  # the other one starts at the same moment
        send = worker.heartbeat.send

        def send_both() -> None:
            send()
            jobs.heartbeat("another", [QUEUE], LIMIT, weights="full")

        patch.setattr(worker.heartbeat, "send", send_both)
        with pytest.raises(OtherWeightsError, match="or set DEFAULT_WEIGHTS=full here"):
            worker.run(threading.Event())
    assert "me" not in jobs.workers()
    jobs.heartbeat("another", [QUEUE], LIMIT, weights="demo")
    put(jobs, "a")
    with running(worker.run):
        assert end_of(jobs, "a").status == "succeeded"
        assert jobs.workers()["me"].weights == "demo"
