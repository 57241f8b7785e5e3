"""The batch loop, on a real Redis and a small real pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from PIL import Image

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.engine import Engine, reason_of
from mead.jobs import Jobs
from mead.revision import run
from mead.storage import Storage, write_picture
from tests.conftest import end_of, told_of

QUEUE = "latentrevisions_queue"


@pytest.fixture
def engine(colours: Any, jobs: Jobs, storage: Storage) -> Engine:
    return Engine(colours, LatentRevisionsParams, jobs, QUEUE, "me", 4, storage, pause=0.1)


def put(jobs: Jobs, job_id: str, prompt: str = "teal", **more: Any) -> None:
    params = LatentRevisionsParams(prompt=prompt, **{"seed": 1, "iterations": 5, **more})
    jobs.enqueue(job_id, "lr", QUEUE, params.model_dump(mode="json", exclude_none=True))


def upload(storage: Storage, job_id: str) -> Path:
    """A picture that came with a job."""
    path = storage.upload_path(job_id, "img")
    write_picture(Image.new("RGB", (8, 8)), path)
    return path


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
    put(jobs, "a", prompt="#ff8000", iterations=60, img_path=upload(storage, "a"))
    turns(engine, 1)
    halfway = jobs.get("a")
    assert halfway.status == "processing" and halfway.steps == 1 and halfway.total_steps == 60
    turns(engine, 59)
    job = jobs.get("a")
    assert job.status == "succeeded" and job.steps == 60 and job.loss is not None and job.loss < 0.01
    assert job.out_path is not None and Path(job.out_path).name == job.out_path
    with Image.open(storage.results / job.out_path) as picture:
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
        with Image.open(storage.results / str(jobs.get(name).out_path)) as together:
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


@pytest.mark.parametrize("path", ["/etc/shadow", "../../etc/shadow", "b.img.upload", "a.gone.upload"])
def test_only_a_jobs_own_pictures_are_opened(engine: Engine, jobs: Jobs, storage: Storage, path: str) -> None:
    upload(storage, "b")
    put(jobs, "a", img_path=path)
    turns(engine, 1)
    job = jobs.get("a")
    assert job.status == "failed" and job.error_kind == "internal"
    assert "a picture could not be read" in str(job.error)
    assert storage.upload_path("b", "img").exists()


@pytest.mark.parametrize("folder", ["", "/mounted/elsewhere/uploads/"])
def test_pictures_are_found_by_name(engine: Engine, jobs: Jobs, storage: Storage, folder: str) -> None:
    put(jobs, "a", img_path=folder + upload(storage, "a").name)
    turns(engine, 5)
    assert jobs.get("a").status == "succeeded" and list(storage.uploads.iterdir()) == []


def test_an_id_that_is_no_part_of_a_path_fails_its_job(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    put(jobs, "../a")
    put(jobs, "b")
    turns(engine, 5)
    assert jobs.get("../a").status == "failed" and jobs.get("b").status == "succeeded"


def test_uploads_stay_for_a_job_that_can_be_put_back(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    put(jobs, "a", prompt="no such colour", img_path=upload(storage, "a"))
    put(jobs, "b", img_path=upload(storage, "b"))
    jobs.ask_preview("b")
    turns(engine, 2)
    engine.running["b"].error = RuntimeError("no fault of the job's")
    turns(engine, 1)
    assert jobs.get("a").error_kind == "input" and jobs.get("b").error_kind == "internal"
    assert [path.name for path in storage.uploads.iterdir()] == ["b.img.upload"]
    assert not list(storage.previews.iterdir())


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
        with Image.open(storage.results / str(jobs.get(name).out_path)) as together:
            assert together.tobytes() == alone.tobytes()


def test_a_result_that_cannot_be_stored_fails_its_job_alone(
    engine: Engine, jobs: Jobs, storage: Storage
) -> None:
    put(jobs, "a")
    put(jobs, "b", iterations=6)
    turns(engine, 4)
    storage.results.parent.mkdir()
    storage.results.write_text("in the way")
    turns(engine, 1)
    storage.results.unlink()
    turns(engine, 1)
    assert jobs.get("a").status == "failed" and jobs.get("b").status == "succeeded"
    assert jobs.get("a").error == "a picture could not be read or stored: File exists"


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


def test_a_cancelled_job_is_dropped_at_its_next_step(
    engine: Engine, jobs: Jobs, storage: Storage, colours: Any
) -> None:
    put(jobs, "a", img_path=upload(storage, "a"))
    put(jobs, "b")
    turns(engine, 1)
    assert jobs.cancel("a")
    turns(engine, 4)
    assert jobs.get("a").status == "cancelled" and jobs.get("b").status == "succeeded"
    assert not engine.running and colours.batches == [2, 2, 1, 1, 1]
    assert list(storage.uploads.iterdir()) == []
    assert [path.name.split(".")[0] for path in storage.results.iterdir()] == ["b"]


def test_a_worker_that_comes_back_too_late_leaves_nothing(
    engine: Engine, jobs: Jobs, storage: Storage, client: redis.Redis, colours: Any
) -> None:
    """The worker stopped between making a picture and saying so; another has finished the job meanwhile."""
    put(jobs, "a", img_path=upload(storage, "a"))
    turns(engine, 4)
    (one,) = engine.running.values()
    colours.step([one.revision])
    engine._store(one)
    assert len(list(storage.results.iterdir())) == 1
    assert jobs.recover([QUEUE], attempts=3) == ["a"]  # it has no heartbeat
    other = Engine(colours, LatentRevisionsParams, jobs, QUEUE, "another", 4, storage)
    turns(other, 1)
    turns(engine, 1)
    assert not engine.running and storage.upload_path("a", "img").exists()  # the other still needs it
    turns(other, 4)
    job = jobs.get("a")
    assert job.status == "succeeded" and job.worker == "another" and job.attempts == 2
    assert [path.name for path in storage.results.iterdir()] == [job.out_path]


def test_previews_are_made_for_those_who_look(engine: Engine, jobs: Jobs, storage: Storage) -> None:
    put(jobs, "a")
    put(jobs, "b")
    jobs.ask_preview("a")
    turns(engine, 2)
    with Image.open(storage.preview_path("a")) as preview:
        assert preview.size == (8, 8)
    assert [path.name for path in storage.previews.iterdir()] == ["a.preview.png"]
    turns(engine, 3)
    assert list(storage.previews.iterdir()) == []


def test_reasons_name_no_folders() -> None:
    error = RuntimeError("cannot map /home/someone/mead/weights/vqgan.safetensors\nat line 3")
    assert reason_of(error) == "RuntimeError: cannot map vqgan.safetensors"
    missing = FileNotFoundError(2, "No such file or directory", "/home/someone/x.png")
    assert reason_of(missing) == "a picture could not be read or stored: No such file or directory"


# A job whose worker died runs alone


def recovered(jobs: Jobs, *names: str) -> None:
    """Jobs in the queue whose worker has died once."""
    for name in names:
        put(jobs, name)
        assert jobs.claim(QUEUE, "dead") is not None
    assert sorted(jobs.recover([QUEUE], attempts=3)) == sorted(names)


def test_a_job_whose_worker_died_runs_alone(engine: Engine, jobs: Jobs, colours: Any) -> None:
    recovered(jobs, "a", "b")
    put(jobs, "c")
    put(jobs, "d")
    turns(engine, 15)
    assert [jobs.get(name).status for name in "abcd"] == ["succeeded"] * 4
    assert colours.batches == [1] * 10 + [2] * 5


def test_it_waits_for_others_to_end_and_lets_no_more_in(engine: Engine, jobs: Jobs, colours: Any) -> None:
    jobs.beat("me", [QUEUE], 60)
    put(jobs, "a")
    turns(engine, 2)
    put(jobs, "c")
    recovered_in_front = jobs.claim(QUEUE, "dead")
    assert recovered_in_front is not None
    jobs.recover([QUEUE], attempts=3)
    put(jobs, "d")
    turns(engine, 13)
    assert [jobs.get(name).status for name in "acd"] == ["succeeded"] * 3
    assert colours.batches == [1] * 15


def test_it_runs_alone_in_its_process(engine: Engine, jobs: Jobs, colours: Any, storage: Storage) -> None:
    """Also the other model's engine lets its jobs end first, and then takes none."""
    other = Engine(colours, LatentRevisionsParams, jobs, "other", "me", 4, storage, company=engine.company)

    def put_other(name: str) -> None:
        jobs.enqueue(name, "sc", "other", {"prompt": "teal", "seed": 1, "iterations": 5})

    recovered(jobs, "a")
    put_other("x")
    turns(other, 1)
    turns(engine, 1)
    assert jobs.get("a").status == "queued"
    put_other("y")
    turns(other, 4)
    assert jobs.get("x").status == "succeeded" and jobs.get("y").status == "queued"
    assert not engine.company.wait("other", 0) and engine.company.wait(QUEUE, 0)
    turns(engine, 1)
    turns(other, 1)
    assert jobs.get("a").steps == 1 and jobs.get("y").status == "queued"
    turns(engine, 4)
    turns(other, 5)
    assert jobs.get("a").status == "succeeded" and jobs.get("y").status == "succeeded"


def test_stopping_puts_jobs_back_in_their_order(engine: Engine, jobs: Jobs, client: redis.Redis) -> None:
    for name in "abcdef":
        put(jobs, name, iterations=2000)
    with running(engine):
        for name in "abcd":
            told_of(jobs, name, lambda job: job.steps > 0)
    assert client.lrange(QUEUE, 0, -1) == list("abcdef")
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == []
    assert [jobs.get(name).status for name in "abcdef"] == ["queued"] * 6
    assert [jobs.rank(jobs.get(name)) for name in "abcdef"] == [0, 1, 2, 3, 4, 5]


def test_an_idle_engine_takes_what_comes(engine: Engine, jobs: Jobs) -> None:
    with running(engine):
        for name in "abc":
            put(jobs, name)
            assert end_of(jobs, name).status == "succeeded"


def test_redis_may_go_and_come_back(mortal_redis: Any, colours: Any, storage: Storage) -> None:
    settings = Settings(redis_url=mortal_redis.url)
    jobs = Jobs(connect(settings), 600)
    engine = Engine(colours, LatentRevisionsParams, jobs, QUEUE, "me", 4, storage, pause=0.1)
    put(jobs, "a", iterations=1000)
    with running(engine):
        told_of(jobs, "a", lambda job: job.steps > 0)
        mortal_redis.stop()
        mortal_redis.start()
        put(jobs, "b")
        assert end_of(jobs, "a").status == "succeeded"
        assert end_of(jobs, "b").status == "succeeded"
    assert len(colours.batches) <= 1005  # what had been computed was kept


def test_a_result_made_while_redis_was_away_is_kept(
    mortal_redis: Any, colours: Any, storage: Storage
) -> None:
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = Engine(colours, LatentRevisionsParams, jobs, QUEUE, "me", 4, storage)
    put(jobs, "a")
    turns(engine, 4)
    mortal_redis.stop()
    for _ in range(3):
        with pytest.raises(redis.RedisError):
            engine.turn()
    mortal_redis.start()
    (one,) = engine.running.values()
    one.revision.step = one.revision.steps  # its last step was done, or is now
    engine.turn()
    (result,) = storage.results.iterdir()
    assert jobs.get("a").status == "succeeded" and jobs.get("a").out_path == result.name
    assert len(colours.batches) <= 5


def test_a_flushed_redis_ends_what_ran(
    engine: Engine, jobs: Jobs, client: redis.Redis, storage: Storage
) -> None:
    put(jobs, "a")
    turns(engine, 2)
    client.flushall()
    turns(engine, 1)
    assert not engine.running
    put(jobs, "b")
    turns(engine, 5)
    assert jobs.get("b").status == "succeeded"


def test_a_claim_whose_answer_was_lost_is_taken_up(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    jobs.claim(QUEUE, "me")  # Redis has given it away, and the engine does not know
    turns(engine, 6)
    assert jobs.get("a").status == "succeeded" and jobs.get("a").attempts == 1


def test_load(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    put(jobs, "b")
    engine.load()
    turns(engine, 2)
    load = engine.load()
    assert load.running == 2 and load.capacity == 4 and load.steps_per_second > 0
    assert engine.load().steps_per_second == 0
