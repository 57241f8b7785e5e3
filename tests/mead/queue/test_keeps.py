"""Jobs that are kept beyond the retention time."""

from __future__ import annotations

import os
import time

import pytest
import redis

from mead.bucket_storage import BucketStorage
from mead.folder_storage import FolderStorage
from mead.queue.errors import TooManyKeepsError, UnknownJobError
from mead.queue.jobs import Jobs
from mead.queue.keeps import Keeps
from mead.queue.keys import KEPT_KEY, job_key, keeps_key, kept_jobs_key
from mead.queue.recovery import Recovery
from mead.storage import Storage
from tests.colours import QUEUE


def make(jobs: Jobs, job_id: str, out_path: str = "a.png", owner: str = "me") -> None:
    """A job that has succeeded."""
    jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "red"}, owner=owner)
    job = jobs.claim(QUEUE, "worker")
    assert job is not None and jobs.succeed(job, "worker", out_path, 100)


@pytest.fixture
def keeps(jobs: Jobs) -> Keeps:
    return Keeps(jobs, 2)


def test_a_kept_job_does_not_expire(jobs: Jobs, keeps: Keeps) -> None:
    make(jobs, "a")
    before = jobs.get("a").seq
    assert keeps.keep("a") and keeps.keep("a")  # the second time changes nothing
    assert jobs.redis.ttl(job_key("a")) == -1 and jobs.get("a").kept is not None
    for key in (KEPT_KEY, f"{KEPT_KEY}:bytes", kept_jobs_key("me")):
        assert jobs.redis.ttl(key) == -1, key
    assert jobs.kept() == (1, 100) and jobs.get("a").seq == before
    assert keeps.release("a") and not keeps.release("a")
    assert jobs.get("a").kept is None and not jobs.redis.exists(keeps_key("me"))
    for key in (job_key("a"), KEPT_KEY, f"{KEPT_KEY}:bytes", kept_jobs_key("me")):
        assert jobs.ttl - 60 < jobs.redis.ttl(key) <= jobs.ttl, key
    assert jobs.kept() == (1, 100)


def test_a_kept_job_outlives_others(client: redis.Redis, keeps: Keeps) -> None:
    jobs = Jobs(client, 1)
    make(jobs, "a")
    make(jobs, "b")
    assert keeps.keep("a")
    deadline = time.monotonic() + 60
    while jobs.redis.exists(job_key("b")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for number in range(16):  # accepting jobs forgets those that have expired
        make(jobs, f"later-{number}")
    assert jobs.get("a").out_path == "a.png" and "a:100" in jobs.redis.zrange(KEPT_KEY, 0, -1)
    Recovery(jobs, [QUEUE], 3).forget_deleted()
    assert jobs.redis.smembers(keeps_key("me")) == {"a"}


def test_only_what_has_ended_with_a_picture(jobs: Jobs, keeps: Keeps) -> None:
    jobs.enqueue("a", "lr", QUEUE, {"prompt": "red"}, owner="me")
    assert not keeps.keep("a")
    jobs.cancel("a")
    assert not keeps.keep("a")
    for act in (keeps.keep, keeps.release):
        with pytest.raises(UnknownJobError):
            act("none")


def test_each_owner_keeps_so_many(jobs: Jobs, keeps: Keeps) -> None:
    for name in "abc":
        make(jobs, name)
    make(jobs, "d", owner="other")
    assert keeps.keep("a") and keeps.keep("b") and keeps.keep("d")
    with pytest.raises(TooManyKeepsError, match="2 of your jobs are kept"):
        keeps.keep("c")
    jobs.redis.delete(job_key("a"))  # by hand
    assert keeps.keep("c")
    keeps.release("b")
    make(jobs, "e")
    assert keeps.keep("e")
    jobs.redis.delete(job_key("e"))
    Recovery(jobs, [QUEUE], 3).forget_deleted()
    assert jobs.redis.smembers(keeps_key("me")) == {"c"}


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_sweeps_leave_kept_pictures(
    jobs: Jobs, keeps: Keeps, storage: FolderStorage, bucket: BucketStorage, kind: str
) -> None:
    store: Storage = storage if kind == "folder" else bucket
    paths = {}
    for job_id in ("a" * 32, "b" * 32):
        path = store.new_result_path(job_id)
        store.write(b"a picture", path)
        make(jobs, job_id, path.name)
        paths[job_id] = path
    assert keeps.keep("a" * 32)
    jobs.redis.delete(job_key("b" * 32))  # it has expired
    if kind == "folder":
        os.utime(paths["b" * 32], (0, 0))
    store.sweep(jobs.outcomes, 0, 0)
    assert store.read(paths["a" * 32]) == b"a picture"
    with pytest.raises(FileNotFoundError):
        store.read(paths["b" * 32])
