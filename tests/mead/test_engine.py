"""The batch loop, on a real Redis and a small real pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import torch
from PIL import Image

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.engine import Engine
from mead.jobs import Jobs
from mead.revision import run
from mead.storage import Storage, write_picture
from mead.worker import Worker

QUEUE = "latentrevisions_queue"


@pytest.fixture
def engine(colours: Any, jobs: Jobs, storage: Storage) -> Engine:
    return Engine(colours, LatentRevisionsParams, jobs, QUEUE, "me", 4, storage, pause=0.1)


def put(jobs: Jobs, job_id: str, prompt: str = "teal", **more: Any) -> None:
    params = LatentRevisionsParams(prompt=prompt, **{"seed": 1, "iterations": 5, **more})
    jobs.enqueue(job_id, "lr", QUEUE, params.model_dump(mode="json", exclude_none=True))


def turns(engine: Engine, count: int) -> None:
    for _ in range(count):
        engine.turn()


@contextmanager
def running(engine: Engine) -> Iterator[threading.Event]:
    """The engine's loop in a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=engine.run, args=[stop])
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_one_job(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    put(jobs, "a", prompt="#ff8000", iterations=60)
    write_picture(Image.new("RGB", (8, 8)), storage.upload_path("a", "img"))
    turns(engine, 1)
    halfway = jobs.get("a")
    assert halfway.status == "processing" and halfway.steps == 1 and halfway.total_steps == 60
    turns(engine, 59)
    job = jobs.get("a")
    assert job.status == "succeeded" and job.steps == 60 and job.loss is not None and job.loss < 0.01
    assert job.out_path == str(storage.result_path("a"))
    with Image.open(job.out_path) as picture:
        red, green, blue = picture.resize((1, 1)).tobytes()
    assert abs(red - 255) < 20 and abs(green - 128) < 20 and blue < 20
    assert list(storage.uploads.iterdir()) == []  # nobody needs the upload any more


def test_a_job_is_admitted_at_any_step(engine: Engine, jobs: Jobs, colours: Any) -> None:
    put(jobs, "a")
    turns(engine, 2)
    put(jobs, "b")
    turns(engine, 3)
    assert jobs.get("a").status == "succeeded" and jobs.get("b").steps == 3
    turns(engine, 2)
    assert jobs.get("b").status == "succeeded"
    assert colours.batches == [1, 1, 2, 2, 2, 1, 1]


def test_admission_is_bounded(engine: Engine, jobs: Jobs, client: redis.Redis, colours: Any) -> None:
    for name in "abcdef":
        put(jobs, name)
    turns(engine, 1)
    assert client.lrange(QUEUE, 0, -1) == ["e", "f"]
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == list("abcd")
    turns(engine, 9)
    assert all(jobs.get(name).status == "succeeded" for name in "abcdef")
    assert colours.batches == [4] * 5 + [2] * 5


def test_the_picture_does_not_depend_on_the_company(
    engine: Engine, jobs: Jobs, colours: Any, storage: Storage
) -> None:
    for seed, name in enumerate("abcd"):
        put(jobs, name, seed=seed)
    turns(engine, 5)
    for seed, name in enumerate("abcd"):
        alone = run(colours, LatentRevisionsParams(prompt="teal", seed=seed, iterations=5))
        with Image.open(storage.result_path(name)) as together:
            assert together.tobytes() == alone.tobytes()


def test_what_is_wrong_with_the_parameters_fails_that_job(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    put(jobs, "b", prompt="no such colour")
    turns(engine, 5)
    assert jobs.get("a").status == "succeeded"
    failed = jobs.get("b")
    assert (
        failed.status == "failed" and failed.error_kind == "input" and "no such colour" in str(failed.error)
    )


def test_a_failing_step_fails_its_job_alone(
    engine: Engine, jobs: Jobs, colours: Any, storage: Storage
) -> None:
    for seed, name in enumerate("abc"):
        put(jobs, name, seed=seed)
    turns(engine, 2)
    with torch.no_grad():
        engine.running["b"].revision.latents.fill_(float("nan"))
    turns(engine, 3)
    assert [jobs.get(name).status for name in "abc"] == ["succeeded", "failed", "succeeded"]
    assert jobs.get("b").error == "FloatingPointError: the loss is not finite"
    assert jobs.get("b").error_kind == "internal"
    for seed, name in ((0, "a"), (2, "c")):  # the failed step left no mark on the others
        alone = run(colours, LatentRevisionsParams(prompt="teal", seed=seed, iterations=5))
        with Image.open(storage.result_path(name)) as together:
            assert together.tobytes() == alone.tobytes()


def test_a_result_that_cannot_be_stored_fails_its_job_alone(
    engine: Engine, jobs: Jobs, storage: Storage
) -> None:
    storage.result_path("a").mkdir(parents=True)  # in the way
    put(jobs, "a")
    put(jobs, "b")
    turns(engine, 5)
    assert jobs.get("a").status == "failed" and jobs.get("b").status == "succeeded"


def test_out_of_memory_shrinks_the_batch(engine: Engine, jobs: Jobs, colours: Any) -> None:
    colours.room = 2
    for name in "abcdef":
        put(jobs, name)
    for _ in range(20):
        engine.turn()
    assert all(jobs.get(name).status == "succeeded" for name in "abcdef")
    assert engine.capacity == 2 and max(colours.batches) == 2


def test_a_job_too_large_alone_fails(engine: Engine, jobs: Jobs, colours: Any) -> None:
    colours.room = 0
    put(jobs, "a")
    turns(engine, 1)
    assert jobs.get("a").status == "failed" and "OutOfMemoryError" in str(jobs.get("a").error)


def test_a_job_that_is_not_ours_any_more_is_dropped(engine: Engine, jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    put(jobs, "b")
    turns(engine, 1)
    client.hset("job:a", "status", "cancelled")
    turns(engine, 4)
    assert jobs.get("a").status == "cancelled" and jobs.get("b").status == "succeeded"
    assert not engine.running


def test_stopping_puts_jobs_back_in_their_order(engine: Engine, jobs: Jobs, client: redis.Redis) -> None:
    for name in "abcdef":
        put(jobs, name, iterations=2000)
    with running(engine):
        for name in "abcd":
            next(event for event in jobs.events(name, 30) if int(event.get("steps", 0)) > 0)
    assert client.lrange(QUEUE, 0, -1) == list("abcdef")
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == []
    assert [jobs.get(name).status for name in "abcdef"] == ["queued"] * 6
    assert [jobs.rank(jobs.get(name)) for name in "abcdef"] == [0, 1, 2, 3, 4, 5]


def test_an_idle_engine_takes_what_comes(engine: Engine, jobs: Jobs) -> None:
    with running(engine):
        for name in "abc":
            put(jobs, name)
            assert jobs.wait(name, 30).status == "succeeded"


def test_redis_may_go_and_come_back(mortal_redis: Any, colours: Any, storage: Storage) -> None:
    settings = Settings(redis_url=mortal_redis.url)
    jobs = Jobs(connect(settings), 600)
    engine = Engine(colours, LatentRevisionsParams, jobs, QUEUE, "me", 4, storage, pause=0.1)
    put(jobs, "a", iterations=1000)
    with running(engine):
        next(event for event in jobs.events("a", 30) if int(event.get("steps", 0)) > 0)
        mortal_redis.stop()
        mortal_redis.start()
        put(jobs, "b")
        assert jobs.wait("a", 60).status == "succeeded"
        assert jobs.wait("b", 60).status == "succeeded"
    assert len(colours.batches) <= 1005  # what had been computed was kept


def test_a_claim_whose_answer_was_lost_is_taken_up(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    jobs.claim(QUEUE, "me")  # Redis has given it away, and the engine does not know
    engine._missed_redis = True
    turns(engine, 5)
    assert jobs.get("a").status == "succeeded"


def test_a_worker_beats_and_leaves(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Worker("me", [engine], jobs, storage, ttl=60).run, args=[stop])
    thread.start()
    try:
        put(jobs, "a")
        assert jobs.wait("a", 30).status == "succeeded"
        while jobs.workers() != {"me": [QUEUE]}:  # the heart may start after the engine
            assert thread.is_alive()
    finally:
        stop.set()
        thread.join(30)
    assert jobs.workers() == {}


def test_a_broken_engine_stops_the_worker(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    engine.running = None  # type: ignore[assignment]  # a bug
    with pytest.raises(TypeError):
        Worker("me", [engine], jobs, storage, ttl=60).run(threading.Event())
    assert jobs.workers() == {}
