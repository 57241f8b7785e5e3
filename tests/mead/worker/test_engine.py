"""The engine, on a real Redis and a small real pipeline."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from PIL import Image

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.imaging.encoding import write_picture
from mead.nn.upscaler import SRVGGNetCompact
from mead.queue.jobs import Jobs
from mead.revision import run
from mead.upscaling import Upscaler
from mead.worker.active_job import reason_of
from mead.worker.engine import Engine
from tests.colours import ColourPipeline, ColourRevision, make_engine
from tests.conftest import end_of, eventually, follow_until, frames_of, recover, running

QUEUE = "latentrevisions_queue"


@pytest.fixture
def engine(colours: Any, jobs: Jobs, storage: FolderStorage) -> Engine:
    return make_engine(colours, jobs, storage)


def put(jobs: Jobs, job_id: str, prompt: str = "teal", **more: Any) -> None:
    params = LatentRevisionsParams(prompt=prompt, **{"seed": 1, "iterations": 5, **more})
    jobs.enqueue(job_id, "lr", QUEUE, params.model_dump(mode="json", exclude_none=True))


def upload(storage: FolderStorage, job_id: str) -> Path:
    """A picture that came with a job."""
    path = storage.upload_path(job_id, "img")
    write_picture(Image.new("RGB", (8, 8)), path)
    return path


def steps(engine: Engine, count: int) -> None:
    for _ in range(count):
        engine.step()


def test_one_job(engine: Engine, jobs: Jobs, storage: FolderStorage) -> None:
    put(jobs, "a", prompt="#ff8000", iterations=60, img_path=upload(storage, "a"))
    steps(engine, 1)
    halfway = jobs.get("a")
    assert halfway.status == "processing" and halfway.steps == 1 and halfway.total_steps == 60
    steps(engine, 59)
    job = jobs.get("a")
    assert job.status == "succeeded" and job.steps == 60 and job.loss is not None and job.loss < 0.01
    assert job.out_path is not None and Path(job.out_path).name == job.out_path
    with Image.open(storage.results / job.out_path) as picture:
        red, green, blue = picture.resize((1, 1)).tobytes()
    assert abs(red - 255) < 20 and abs(green - 128) < 20 and blue < 20
    assert list(storage.uploads.iterdir()) == []  # nobody needs the upload any more


def test_notes_are_in_the_record_from_the_first_step_on(
    jobs: Jobs, storage: FolderStorage, colours: Any
) -> None:
    engine = make_engine(colours, jobs, storage, notes_on=lambda params: (f"{params.prompt} is a colour",))
    put(jobs, "a")
    steps(engine, 1)
    assert jobs.get("a").status == "processing" and jobs.get("a").notes == ("teal is a colour",)
    steps(engine, 4)
    assert jobs.get("a").status == "succeeded" and jobs.get("a").notes == ("teal is a colour",)


def test_the_picture_says_how_it_was_made(jobs: Jobs, storage: FolderStorage, colours: Any) -> None:
    engine = make_engine(
        colours,
        jobs,
        storage,
        chunks_of=lambda params, steps, further: {"mead": f"{params.prompt} in {steps} steps"},
    )
    put(jobs, "a")
    steps(engine, 5)
    out_path = jobs.get("a").out_path
    assert out_path is not None
    with Image.open(storage.results / out_path) as picture:
        assert picture.info == {"mead": "teal in 5 steps"}


def test_frames_lie_beside_the_result(
    engine: Engine, jobs: Jobs, storage: FolderStorage, colours: Any
) -> None:
    put(jobs, "a", frames=3)
    put(jobs, "b", seed=2)
    steps(engine, 5)
    assert jobs.get("a").status == jobs.get("b").status == "succeeded"
    (stored,) = storage.timelapses.iterdir()
    assert stored.stem == Path(str(jobs.get("a").out_path)).stem
    assert len(frames_of(stored)) == 3
    check_picture(jobs, storage, colours, "a", 1)


def test_a_job_admitted_at_its_last_step_has_all_its_frames(
    engine: Engine, jobs: Jobs, storage: FolderStorage
) -> None:
    put(jobs, "a", iterations=1, frames=100)
    steps(engine, 1)
    (stored,) = storage.timelapses.iterdir()
    assert len(frames_of(stored)) == 2  # before the step and after it


def test_frames_that_cannot_be_made_end_nothing(
    jobs: Jobs, storage: FolderStorage, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(colours, jobs, storage)
    put(jobs, "a", frames=6)
    put(jobs, "b", frames=1)
    steps(engine, 1)
    image = colours.image
    monkeypatch.setattr(colours, "image", lambda revision: 1 / 0)
    steps(engine, 3)
    monkeypatch.setattr(colours, "image", image)
    steps(engine, 1)
    assert jobs.get("a").status == jobs.get("b").status == "succeeded"
    lengths = {stored.name[0]: len(frames_of(stored)) for stored in storage.timelapses.iterdir()}
    assert lengths == {"a": 3, "b": 1}


def test_a_job_is_admitted_at_any_step(engine: Engine, jobs: Jobs, colours: Any) -> None:
    put(jobs, "a")
    steps(engine, 2)
    put(jobs, "b")
    steps(engine, 3)
    assert jobs.get("a").status == "succeeded" and jobs.get("b").steps == 3
    steps(engine, 2)
    assert jobs.get("b").status == "succeeded"
    assert colours.batches == [1, 1, 2, 2, 2, 1, 1]


def test_admission_is_bounded(engine: Engine, jobs: Jobs, client: redis.Redis, colours: Any) -> None:
    for name in "abcdef":
        put(jobs, name)
    steps(engine, 1)
    assert client.lrange(QUEUE, 0, -1) == ["e", "f"]
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == list("abcd")
    steps(engine, 9)
    assert all(jobs.get(name).status == "succeeded" for name in "abcdef")
    assert colours.batches == [4] * 5 + [2] * 5


def test_the_picture_does_not_depend_on_the_batch(
    engine: Engine, jobs: Jobs, colours: Any, storage: FolderStorage
) -> None:
    for seed, name in enumerate("abcd"):
        put(jobs, name, seed=seed)
    steps(engine, 5)
    for seed, name in enumerate("abcd"):
        check_picture(jobs, storage, colours, name, seed)


def test_what_is_wrong_with_the_parameters_fails_that_job(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    put(jobs, "b", prompt="no such colour")
    steps(engine, 5)
    assert jobs.get("a").status == "succeeded"
    failed = jobs.get("b")
    assert (
        failed.status == "failed" and failed.error_kind == "input" and "no such colour" in str(failed.error)
    )


@pytest.mark.parametrize("path", ["/etc/shadow", "../../etc/shadow", "b.img.upload", "a.gone.upload"])
def test_only_a_jobs_own_pictures_are_opened(
    engine: Engine, jobs: Jobs, storage: FolderStorage, path: str
) -> None:
    upload(storage, "b")
    put(jobs, "a", img_path=path)
    steps(engine, 1)
    job = jobs.get("a")
    assert job.status == "failed" and job.error_kind == "internal"
    assert "a picture could not be read" in str(job.error)
    assert storage.upload_path("b", "img").exists()


@pytest.mark.parametrize("folder", ["", "/mounted/elsewhere/uploads/"])
def test_pictures_are_found_by_name(engine: Engine, jobs: Jobs, storage: FolderStorage, folder: str) -> None:
    put(jobs, "a", img_path=folder + upload(storage, "a").name)
    steps(engine, 5)
    assert jobs.get("a").status == "succeeded" and list(storage.uploads.iterdir()) == []


def test_an_id_that_is_no_part_of_a_path_fails_its_job(
    engine: Engine, jobs: Jobs, storage: FolderStorage
) -> None:
    put(jobs, "../a")
    put(jobs, "b")
    steps(engine, 5)
    assert jobs.get("../a").status == "failed" and jobs.get("b").status == "succeeded"


def test_uploads_stay_for_a_job_that_can_be_requeued(
    engine: Engine, jobs: Jobs, storage: FolderStorage
) -> None:
    put(jobs, "a", prompt="no such colour", img_path=upload(storage, "a"))
    put(jobs, "b", img_path=upload(storage, "b"))
    jobs.ask_preview("b")
    steps(engine, 2)
    engine.batch.jobs["b"].error = RuntimeError("no fault of the job's")
    steps(engine, 1)
    assert jobs.get("a").error_kind == "input" and jobs.get("b").error_kind == "internal"
    assert [path.name for path in storage.uploads.iterdir()] == ["b.img.upload"]
    assert not list(storage.previews.iterdir())


def test_a_failing_step_fails_its_job_alone(
    engine: Engine, jobs: Jobs, colours: Any, storage: FolderStorage
) -> None:
    for seed, name in enumerate("abc"):
        put(jobs, name, seed=seed)
    steps(engine, 2)
    engine.batch.jobs["b"].revision.target = torch.zeros(1, 3, 2, 2)
    steps(engine, 3)
    assert [jobs.get(name).status for name in "abc"] == ["succeeded", "failed", "succeeded"]
    assert str(jobs.get("b").error).startswith("RuntimeError: ")
    assert jobs.get("b").error_kind == "internal"
    for seed, name in ((0, "a"), (2, "c")):  # the failed step left no mark on the others
        check_picture(jobs, storage, colours, name, seed)


def check_picture(jobs: Jobs, storage: FolderStorage, colours: Any, job_id: str, seed: int) -> None:
    """A job's picture is the one that it would have had alone."""
    alone = run(colours, LatentRevisionsParams(prompt="teal", seed=seed, iterations=5))
    with Image.open(storage.results / str(jobs.get(job_id).out_path)) as together:
        assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_loss_that_is_not_finite_fails_its_job_alone(
    engine: Engine, jobs: Jobs, storage: FolderStorage, colours: Any, loss: str
) -> None:
    for seed, name in enumerate("abc"):
        put(jobs, name, seed=seed)
    steps(engine, 2)
    with torch.no_grad():
        engine.batch.jobs["b"].revision.latents.fill_(float(loss))
    steps(engine, 1)
    failed = jobs.get("b")
    assert (failed.status, failed.error_kind, failed.steps) == ("failed", "internal", 3)
    assert failed.error == f"FloatingPointError: step 3 of 5: the loss is {loss}"
    steps(engine, 2)
    for seed, name in ((0, "a"), (2, "c")):
        check_picture(jobs, storage, colours, name, seed)
    assert colours.batches[:5] == [3, 3, 3, 2, 2]  # no step was done twice


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_latents_that_are_not_finite_make_no_picture(
    engine: Engine,
    jobs: Jobs,
    storage: FolderStorage,
    colours: Any,
    value: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here after the last loss. No preview is made of them either."""
    put(jobs, "a")
    steps(engine, 4)
    jobs.ask_preview("a")
    (active,) = engine.batch.jobs.values()
    active.revision.latents.data[0, 0, 0, 0] = float(value)
    engine.report()
    assert "no preview" in caplog.text and not storage.previews.exists()
    active.revision.step = 5
    engine.report()
    failed = jobs.get("a")
    assert failed.error == "FloatingPointError: after step 5 of 5: the latents are not finite"
    assert not engine.batch.jobs and not storage.results.exists()


class BrokenStart(ColourPipeline):
    """Whose first latents are not finite, as those of an encoder that overflows."""

    def start(self, params: LatentRevisionsParams) -> ColourRevision:
        revision = super().start(params)
        revision.latents.data.fill_(float("inf"))
        return revision


def test_first_latents_that_are_not_finite(jobs: Jobs, storage: FolderStorage) -> None:
    engine = make_engine(BrokenStart(), jobs, storage)
    put(jobs, "a")
    steps(engine, 1)
    assert jobs.get("a").error == "FloatingPointError: after step 0 of 5: the latents are not finite"
    assert jobs.get("a").error_kind == "internal" and not engine.batch.jobs


def test_a_job_that_takes_too_long(jobs: Jobs, storage: FolderStorage, colours: Any) -> None:
    engine = make_engine(colours, jobs, storage, max_job_seconds=50)
    put(jobs, "a", iterations=20)
    put(jobs, "b")
    put(jobs, "c", iterations=1)
    engine.admit()
    engine.batch.jobs["a"].seconds = engine.batch.jobs["c"].seconds = 49.9999999
    steps(engine, 1)
    failed = jobs.get("a")
    assert (failed.status, failed.error_kind, failed.error_field) == ("failed", "input", "iterations")
    assert str(failed.error).startswith(
        "iterations: took longer than MAX_JOB_SECONDS=50: 1 of 20 steps were done; ask for fewer steps"
    )
    assert jobs.get("c").status == "succeeded"  # it was done with its last step
    steps(engine, 4)
    assert jobs.get("b").status == "succeeded"


def test_only_time_at_work_counts(jobs: Jobs, storage: FolderStorage, colours: Any) -> None:
    engine = make_engine(colours, jobs, storage, max_job_seconds=50)
    put(jobs, "a")
    steps(engine, 2)
    (active,) = engine.batch.jobs.values()
    assert 0 < active.seconds < 50
    before = active.seconds
    engine.report()
    assert active.seconds == before


class EnlargingColours(ColourPipeline):
    """Whose pictures are enlarged as asked, in tiles of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.upscaler = Upscaler(SRVGGNetCompact(4, 1, 4).eval(), torch.device("cpu"))

    def start(self, params: LatentRevisionsParams) -> ColourRevision:
        revision = super().start(params)
        revision.upscaler, revision.upscale = self.upscaler, params.upscale or 1
        return revision


def test_others_go_on_while_a_picture_is_enlarged(
    jobs: Jobs, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.upscaling.TILE", 4)
    engine = make_engine(EnlargingColours(), jobs, storage)
    put(jobs, "a", iterations=2, upscale=4)
    put(jobs, "b", iterations=5, upscale=1)
    jobs.ask_preview("a")
    steps(engine, 2)
    with Image.open(storage.preview_path("a")) as preview:
        assert preview.size == (8, 8)
    assert jobs.get("a").status == "processing" and jobs.get("a").steps == 2
    steps(engine, 3)  # four tiles: one with the last step of each
    assert jobs.get("a").status == jobs.get("b").status == "succeeded"
    sizes = {}
    for name in "ab":
        with Image.open(storage.results / str(jobs.get(name).out_path)) as picture:
            sizes[name] = picture.size
    assert sizes == {"a": (32, 32), "b": (8, 8)}


def test_one_that_is_enlarged_alone_does_not_wait(
    jobs: Jobs, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.upscaling.TILE", 1)
    monkeypatch.setattr("mead.worker.engine.STORE_PAUSE", 60)
    put(jobs, "a", iterations=1, upscale=2)
    with running(make_engine(EnlargingColours(), jobs, storage).run):
        eventually(lambda: jobs.get("a").status == "succeeded")


def test_a_job_cancelled_while_it_is_enlarged(
    jobs: Jobs, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.upscaling.TILE", 4)
    engine = make_engine(EnlargingColours(), jobs, storage)
    put(jobs, "a", iterations=1, upscale=4)
    steps(engine, 2)
    jobs.cancel("a")
    steps(engine, 1)
    engine.writers.shutdown()
    assert jobs.get("a").status == "cancelled" and not engine.batch.jobs
    assert [path.name for path in storage.results.iterdir()] == [jobs.get("a").out_path]


# Results that cannot be stored


@pytest.fixture
def in_the_way(storage: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file where the folder of results should be."""
    monkeypatch.setattr("mead.worker.active_job.STORE_PAUSE", 0)
    storage.results.parent.mkdir()
    storage.results.write_text("in the way")
    return storage.results


def test_a_result_that_cannot_be_stored_is_kept_for_a_while(
    engine: Engine, jobs: Jobs, storage: FolderStorage, in_the_way: Path, colours: Any
) -> None:
    put(jobs, "a", frames=2)
    steps(engine, 8)
    put(jobs, "b", iterations=6)
    steps(engine, 5)
    assert jobs.get("a").status == "processing" and jobs.get("a").steps == 5
    assert not list(storage.timelapses.iterdir())  # both or none
    in_the_way.unlink()
    steps(engine, 1)
    assert jobs.get("a").status == jobs.get("b").status == "succeeded"
    assert len(list(storage.timelapses.iterdir())) == 1
    check_picture(jobs, storage, colours, "a", 1)
    assert colours.batches[:11] == [1] * 11  # it was not made twice


def test_one_that_never_can_be_stored_fails_its_job_alone(
    engine: Engine, jobs: Jobs, in_the_way: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.worker.active_job.STORE_SECONDS", 0)
    put(jobs, "a")
    put(jobs, "b", iterations=6)
    steps(engine, 5)
    in_the_way.unlink()
    steps(engine, 1)
    assert jobs.get("a").status == "failed" and jobs.get("b").status == "succeeded"
    assert jobs.get("a").error == "a picture could not be read or stored: File exists"


@pytest.mark.slow
def test_results_that_wait_for_room_leave_redis_in_peace(
    engine: Engine, jobs: Jobs, in_the_way: Path
) -> None:
    """And are stored once there is some, with nothing else to do."""
    put(jobs, "a")
    put(jobs, "b")
    with running(engine.run):
        follow_until(jobs, "a", lambda job: job.steps == 5)
        seq = jobs.get("a").seq
        time.sleep(1)
        assert jobs.get("a").seq - seq < 10
        in_the_way.unlink()
        assert end_of(jobs, "a").status == end_of(jobs, "b").status == "succeeded"


def test_files_that_cannot_be_removed_end_nothing(engine: Engine, jobs: Jobs, storage: FolderStorage) -> None:
    put(jobs, "a")
    put(jobs, "b")
    steps(engine, 1)
    jobs.cancel("b")
    for name in "ab":
        storage.preview_path(name).mkdir(parents=True)  # no file
    steps(engine, 4)
    assert jobs.get("a").status == "succeeded" and not engine.batch.jobs


def test_out_of_memory_shrinks_the_batch(engine: Engine, jobs: Jobs, colours: Any) -> None:
    colours.room = 2
    for name in "abcdef":
        put(jobs, name)
    steps(engine, 4)
    assert engine.batch.capacity == 2
    steps(engine, 16)
    assert all(jobs.get(name).status == "succeeded" for name in "abcdef")
    assert max(colours.batches) == 2


def test_the_batch_grows_again_once_the_large_job_has_ended(engine: Engine, jobs: Jobs, colours: Any) -> None:
    colours.room = 1
    for name in "abcd":
        put(jobs, name, iterations=9)
    steps(engine, 1)
    assert engine.batch.capacity == 1
    jobs.cancel("a")
    steps(engine, 1)
    colours.room = 4
    for name in "efgh":
        put(jobs, name)
    steps(engine, 30)
    assert all(jobs.get(name).status == "succeeded" for name in "bcdefgh")
    assert engine.batch.capacity == 4 and max(colours.batches) == 4


def test_a_job_too_large_alone_fails(engine: Engine, jobs: Jobs, colours: Any) -> None:
    colours.room = 0
    put(jobs, "a")
    steps(engine, 1)
    assert jobs.get("a").status == "failed" and "OutOfMemoryError" in str(jobs.get("a").error)


def test_a_cancelled_job_is_dropped_at_its_next_step(
    engine: Engine, jobs: Jobs, storage: FolderStorage, colours: Any
) -> None:
    put(jobs, "a", img_path=upload(storage, "a"))
    put(jobs, "b")
    steps(engine, 1)
    assert jobs.cancel("a")
    steps(engine, 4)
    assert jobs.get("a").status == "cancelled" and jobs.get("b").status == "succeeded"
    assert not engine.batch.jobs and colours.batches == [2, 2, 1, 1, 1]
    assert list(storage.uploads.iterdir()) == []
    engine.writers.shutdown()
    assert sorted(path.name.split(".")[0] for path in storage.results.iterdir()) == ["a", "b"]


def test_a_worker_that_comes_back_too_late_leaves_nothing(
    engine: Engine, jobs: Jobs, storage: FolderStorage, client: redis.Redis, colours: Any
) -> None:
    """The worker stopped between making a picture and saying so; another has finished the job meanwhile."""
    put(jobs, "a", img_path=upload(storage, "a"))
    steps(engine, 4)
    (active,) = engine.batch.jobs.values()
    colours.step([active.revision])
    active.store(colours, storage, engine.writers)
    assert len(list(storage.results.iterdir())) == 1
    assert recover(jobs) == ["a"]  # it has no heartbeat
    other = make_engine(colours, jobs, storage, worker="another")
    steps(other, 1)
    steps(engine, 1)
    assert not engine.batch.jobs and storage.upload_path("a", "img").exists()  # the other still needs it
    steps(other, 4)
    job = jobs.get("a")
    assert job.status == "succeeded" and job.worker == "another" and job.attempts == 2
    assert [path.name for path in storage.results.iterdir()] == [job.out_path]


def test_previews_are_made_for_those_who_look(engine: Engine, jobs: Jobs, storage: FolderStorage) -> None:
    put(jobs, "a")
    put(jobs, "b")
    jobs.ask_preview("a")
    steps(engine, 2)
    with Image.open(storage.preview_path("a")) as preview:
        assert preview.size == (8, 8)
    assert [path.name for path in storage.previews.iterdir()] == ["a.preview.png"]
    steps(engine, 3)
    assert list(storage.previews.iterdir()) == []


def test_reasons_name_no_folders() -> None:
    error = RuntimeError("cannot map /home/someone/mead/weights/vqgan.safetensors\nat line 3")
    assert reason_of(error) == "RuntimeError: cannot map vqgan.safetensors"
    missing = FileNotFoundError(2, "No such file or directory", "/home/someone/x.png")
    assert reason_of(missing) == "a picture could not be read or stored: No such file or directory"


# A job whose worker died runs alone


def put_recovered(jobs: Jobs, *names: str) -> None:
    """Jobs in the queue whose worker has died once."""
    jobs.heartbeat("me", [QUEUE], 60)
    for name in names:
        put(jobs, name)
        assert jobs.claim(QUEUE, "dead") is not None
    assert sorted(recover(jobs)) == sorted(names)


def test_a_job_whose_worker_died_runs_alone(engine: Engine, jobs: Jobs, colours: Any) -> None:
    put_recovered(jobs, "a", "b")
    put(jobs, "c")
    put(jobs, "d")
    steps(engine, 15)
    assert [jobs.get(name).status for name in "abcd"] == ["succeeded"] * 4
    assert colours.batches == [1] * 10 + [2] * 5


def test_it_waits_for_others_to_end_and_lets_no_more_in(engine: Engine, jobs: Jobs, colours: Any) -> None:
    jobs.heartbeat("me", [QUEUE], 60)
    put(jobs, "a")
    steps(engine, 2)
    put(jobs, "c")
    recovered_in_front = jobs.claim(QUEUE, "dead")
    assert recovered_in_front is not None
    recover(jobs)
    put(jobs, "d")
    steps(engine, 13)
    assert [jobs.get(name).status for name in "acd"] == ["succeeded"] * 3
    assert colours.batches == [1] * 15


def test_it_runs_alone_in_its_process(
    engine: Engine, jobs: Jobs, colours: Any, storage: FolderStorage
) -> None:
    """Also the other model's engine lets its jobs end first, and then takes none."""
    other = make_engine(colours, jobs, storage, queue="other", admission=engine.admission)

    def put_other(name: str) -> None:
        jobs.enqueue(name, "sc", "other", {"prompt": "teal", "seed": 1, "iterations": 5})

    put_recovered(jobs, "a")
    put_other("x")
    steps(other, 1)
    steps(engine, 1)
    assert jobs.get("a").status == "queued"
    put_other("y")
    steps(other, 4)
    assert jobs.get("x").status == "succeeded" and jobs.get("y").status == "queued"
    assert not engine.admission.wait("other", 0) and engine.admission.wait(QUEUE, 0)
    steps(engine, 1)
    steps(other, 1)
    assert jobs.get("a").steps == 1 and jobs.get("y").status == "queued"
    steps(engine, 4)
    steps(other, 5)
    assert jobs.get("a").status == "succeeded" and jobs.get("y").status == "succeeded"


# What is waited for may go away


@pytest.fixture
def other(engine: Engine, jobs: Jobs, storage: FolderStorage, colours: Any) -> Engine:
    """The engine of the other model in the same process."""
    return make_engine(colours, jobs, storage, queue="other", admission=engine.admission)


def put_other(jobs: Jobs, job_id: str) -> None:
    jobs.enqueue(job_id, "sc", "other", {"prompt": "teal", "seed": 1, "iterations": 5})


def take_away(jobs: Jobs, client: redis.Redis, how: str) -> None:
    """Let the first job in the queue, "a", be gone."""
    if how == "cancelled":
        assert jobs.cancel("a")
    elif how == "taken by another server":
        assert jobs.claim(QUEUE, "another") is not None
    elif how == "its record is gone":
        client.delete("job:a")
    else:
        client.delete(QUEUE)


GONE = ["cancelled", "taken by another server", "its record is gone", "the queue is gone"]


@pytest.mark.parametrize("how", GONE)
def test_the_job_that_must_run_alone_goes_away(
    engine: Engine, other: Engine, jobs: Jobs, client: redis.Redis, how: str
) -> None:
    """While another runs: both engines take jobs again, and the other one goes on all the while."""
    put(jobs, "long", iterations=1000)
    steps(engine, 1)
    put_recovered(jobs, "a")
    put_other(jobs, "x")
    steps(engine, 2)
    steps(other, 2)
    assert jobs.get("a").status == jobs.get("x").status == "queued"
    take_away(jobs, client, how)
    put(jobs, "b")
    steps(engine, 5)
    steps(other, 5)
    assert jobs.get("b").status == jobs.get("x").status == "succeeded"
    assert jobs.get("long").status == "processing"


@pytest.mark.parametrize("how", GONE)
def test_it_goes_away_while_the_other_engine_runs(
    engine: Engine, other: Engine, jobs: Jobs, client: redis.Redis, how: str
) -> None:
    """Its own engine has nothing to do, and waits."""
    put_other(jobs, "x")
    steps(other, 1)
    put_recovered(jobs, "a")
    with running(engine.run):
        eventually(lambda: engine.admission.reserved_for)
        take_away(jobs, client, how)
        put(jobs, "b")
        assert end_of(jobs, "b").status == "succeeded"
    put_other(jobs, "y")
    steps(other, 5)
    assert jobs.get("x").status == jobs.get("y").status == "succeeded"


def test_a_full_engine_waits_for_nothing(engine: Engine, other: Engine, jobs: Jobs, colours: Any) -> None:
    """Its batch has shrunk, so that it cannot take what its queue waits to run alone."""
    put(jobs, "long", iterations=20)
    put_other(jobs, "x")
    steps(engine, 1)
    put_recovered(jobs, "a")
    steps(engine, 1)
    engine.batch.capacity = 1
    steps(engine, 1)
    steps(other, 5)
    assert jobs.get("x").status == "succeeded" and jobs.get("a").status == "queued"
    steps(engine, 25)
    assert jobs.get("long").status == jobs.get("a").status == "succeeded"
    assert colours.batches == [1] * 30


def test_redis_goes_away_while_a_job_waits_to_run_alone(
    mortal_redis: Any, colours: Any, storage: FolderStorage
) -> None:
    """And comes back without it."""
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = make_engine(colours, jobs, storage)
    other = make_engine(colours, jobs, storage, queue="other", admission=engine.admission)
    put_other(jobs, "x")
    steps(other, 1)
    put_recovered(jobs, "a")
    steps(engine, 1)
    put_other(jobs, "y")
    jobs.redis.delete(QUEUE)
    mortal_redis.stop()
    for each in (engine, other):
        with pytest.raises(redis.RedisError):
            each.step()
    mortal_redis.start()
    steps(engine, 1)
    steps(other, 5)
    assert jobs.get("x").status == jobs.get("y").status == "succeeded"


def test_a_failure_that_cannot_be_told_holds_no_place(mortal_redis: Any, storage: FolderStorage) -> None:
    """Redis goes as a job fails at its start; when it is back, one that must run alone is taken."""

    class Leaving(ColourPipeline):
        def start(self, params: LatentRevisionsParams) -> ColourRevision:
            if params.prompt == "black":
                mortal_redis.stop()
                raise torch.OutOfMemoryError
            return super().start(params)

    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = make_engine(Leaving(), jobs, storage)
    put(jobs, "poison", prompt="black")
    with pytest.raises(redis.RedisError):
        engine.step()
    mortal_redis.start()
    put_recovered(jobs, "a")
    steps(engine, 5)
    assert jobs.get("a").status == "succeeded"


def test_stopping_requeues_jobs_in_their_order(engine: Engine, jobs: Jobs, client: redis.Redis) -> None:
    for name in "abcdef":
        put(jobs, name, iterations=2000)
    with running(engine.run):
        for name in "abcd":
            follow_until(jobs, name, lambda job: job.steps > 0)
    assert client.lrange(QUEUE, 0, -1) == list("abcdef")
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == []
    assert [jobs.get(name).status for name in "abcdef"] == ["queued"] * 6
    assert [jobs.rank(jobs.get(name)) for name in "abcdef"] == [0, 1, 2, 3, 4, 5]


def test_an_idle_engine_takes_what_comes(engine: Engine, jobs: Jobs) -> None:
    with running(engine.run):
        for name in "abc":
            put(jobs, name)
            assert end_of(jobs, name).status == "succeeded"


def test_an_idle_engine_ends_pytorchs_threads(
    engine: Engine, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("mead.worker.engine.end_threads", ended.set)
    put(jobs, "a", iterations=2000)
    with running(engine.run):
        follow_until(jobs, "a", lambda job: job.steps > 0)
        ended.clear()  # set before the job came
        follow_until(jobs, "a", lambda job: job.steps > 100)
        assert not ended.is_set()
        jobs.cancel("a")
        assert ended.wait(30)


@pytest.mark.slow
def test_redis_may_go_and_come_back(mortal_redis: Any, colours: Any, storage: FolderStorage) -> None:
    settings = Settings(redis_url=mortal_redis.url)
    jobs = Jobs(connect(settings), 600)
    engine = make_engine(colours, jobs, storage)
    put(jobs, "a", iterations=1000)
    with running(engine.run):
        follow_until(jobs, "a", lambda job: job.steps > 0)
        mortal_redis.stop()
        mortal_redis.start()
        put(jobs, "b")
        assert end_of(jobs, "a").status == "succeeded"
        assert end_of(jobs, "b").status == "succeeded"
    assert len(colours.batches) <= 1005  # what had been computed was kept


def test_a_result_made_while_redis_was_away_is_kept(
    mortal_redis: Any, colours: Any, storage: FolderStorage
) -> None:
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 600)
    engine = make_engine(colours, jobs, storage)
    put(jobs, "a")
    steps(engine, 4)
    mortal_redis.stop()
    for _ in range(3):
        with pytest.raises(redis.RedisError):
            engine.step()
    mortal_redis.start()
    (active,) = engine.batch.jobs.values()
    active.revision.step = active.revision.steps  # its last step was done, or is now
    engine.step()
    (result,) = storage.results.iterdir()
    assert jobs.get("a").status == "succeeded" and jobs.get("a").out_path == result.name
    assert len(colours.batches) <= 5


@pytest.mark.parametrize("stopping", [False, True])
def test_a_result_whose_answer_was_lost_is_kept(
    engine: Engine, jobs: Jobs, storage: FolderStorage, colours: Any, stopping: bool
) -> None:
    """Redis has written the end down and gone away before it could say so."""
    put(jobs, "a")
    steps(engine, 4)
    (active,) = engine.batch.jobs.values()
    colours.step([active.revision])
    active.store(colours, storage, engine.writers)
    assert jobs.succeed(active.job, "me", str(active.result))
    if stopping:
        engine.hand_back()
    else:
        steps(engine, 1)
    assert not engine.batch.jobs and jobs.get("a").status == "succeeded"
    check_picture(jobs, storage, colours, "a", 1)


def test_a_record_that_is_gone_ends_its_job_alone(
    engine: Engine, jobs: Jobs, client: redis.Redis, storage: FolderStorage
) -> None:
    put(jobs, "a", img_path=upload(storage, "a"))
    put(jobs, "b")
    steps(engine, 2)
    client.delete("job:a")
    steps(engine, 4)
    assert not engine.batch.jobs and jobs.get("b").status == "succeeded"
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == []
    assert list(storage.uploads.iterdir()) == []


def test_a_flushed_redis_ends_what_ran(
    engine: Engine, jobs: Jobs, client: redis.Redis, storage: FolderStorage
) -> None:
    put(jobs, "a")
    steps(engine, 2)
    client.flushall()
    steps(engine, 1)
    assert not engine.batch.jobs
    put(jobs, "b")
    steps(engine, 5)
    assert jobs.get("b").status == "succeeded"


def test_a_claim_whose_answer_was_lost_is_taken_up(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    jobs.claim(QUEUE, "me")  # Redis has given it away, and the engine does not know
    steps(engine, 6)
    assert jobs.get("a").status == "succeeded" and jobs.get("a").attempts == 1


def test_load(engine: Engine, jobs: Jobs) -> None:
    put(jobs, "a")
    put(jobs, "b")
    engine.load()
    steps(engine, 2)
    load = engine.load()
    assert load.running == 2 and load.capacity == 4 and load.steps_per_second > 0
    assert engine.load().steps_per_second == 0
