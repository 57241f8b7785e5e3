"""Following jobs: nothing is missed, however early, late or shakily one listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from caching_config import Settings, connect
from mead.events import ClosedError, Events
from mead.job import Job
from mead.jobs import Jobs, UnknownJobError
from tests.conftest import report

QUEUE = "latentrevisions_queue"
PULSE = 0.2  # seconds
LIMIT = 300  # pulses; far more than anything here takes


def enqueue(jobs: Jobs, job_id: str) -> str:
    return jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "teal"})


def end(jobs: Jobs, worker: str = "me") -> None:
    """Take the next job through its whole life."""
    job = jobs.claim(QUEUE, worker)
    assert job is not None
    report(jobs, job, 1, 2, 0.5)
    report(jobs, job, 2, 2, 0.25)
    assert jobs.succeed(job, worker, "/somewhere.png")


def changes(story: Iterator[Job | None]) -> list[Job]:
    """All that is told until the end."""
    told = []
    for quiet, job in enumerate(story):
        assert quiet < LIMIT
        if job is not None:
            told.append(job)
    return told


def test_a_whole_life_is_told_in_order(jobs: Jobs) -> None:
    enqueue(jobs, "a")
    story = Events(jobs).follow("a", PULSE)
    first = next(story)
    assert first is not None and first.status == "queued"
    assert next(story) is None  # quiet; by now, somebody listens
    end(jobs)
    told = changes(story)
    assert [job.seq for job in told] == sorted({job.seq for job in told})
    assert [job.steps for job in told] == sorted(job.steps for job in told)
    last = told[-1]
    assert last == jobs.get("a")
    assert (last.status, last.steps, last.out_path) == ("succeeded", 2, "/somewhere.png")


def test_an_ended_job_is_told_at_once(jobs: Jobs) -> None:
    enqueue(jobs, "a")
    end(jobs)
    assert [job.status for job in changes(Events(jobs).follow("a", PULSE))] == ["succeeded"]


def test_no_end_falls_between_looking_and_listening(jobs: Jobs) -> None:
    """Jobs end while others begin to follow them, the first of whom finds nobody listening yet."""
    events = Events(jobs)
    ids = [f"job{n}" for n in range(40)]
    for job_id in ids:
        enqueue(jobs, job_id)
    with ThreadPoolExecutor(20) as pool:
        followers = [pool.submit(changes, events.follow(job_id, PULSE)) for job_id in ids for _ in range(2)]
        for _ in ids:
            end(jobs)
        assert {future.result()[-1].status for future in followers} == {"succeeded"}


def test_many_followers_are_one_connection(jobs: Jobs, client: redis.Redis) -> None:
    events = Events(jobs)
    enqueue(jobs, "a")
    stories = [events.follow("a", PULSE) for _ in range(50)]
    for story in stories:
        assert next(story) is not None
    assert next(stories[0]) is None
    assert client.pubsub_numpat() == 1
    end(jobs)
    assert all(changes(story)[-1].ended for story in stories)
    assert not events._mailboxes


def test_listening_ends_when_nobody_follows(
    mortal_redis: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a quiet moment, or when Redis goes; and begins again with the next who follows."""
    monkeypatch.setattr("mead.events.QUIET", PULSE)
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 60)
    events = Events(jobs)
    enqueue(jobs, "a")

    def listeners() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "events"]

    before = listeners()
    for round_ in range(2):
        story = events.follow("a", PULSE)
        assert next(story) is not None and next(story) is None
        (listener,) = set(listeners()) - set(before)
        time.sleep(3 * PULSE)
        assert listener.is_alive()  # somebody follows
        if round_ == 1:
            monkeypatch.setattr("mead.events.QUIET", 60)
            next(story)
        del story
        if round_ == 1:
            mortal_redis.stop()
        listener.join(30)
        assert not listener.is_alive()
    assert "Redis is away" not in caplog.text


def test_an_unknown_job(jobs: Jobs) -> None:
    events = Events(jobs)
    with pytest.raises(UnknownJobError):
        next(events.follow("nobody", PULSE))
    assert not events._mailboxes


def test_a_record_that_goes_meanwhile(mortal_redis: Any) -> None:
    """Redis comes back without its data."""
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 60)
    enqueue(jobs, "a")
    story = Events(jobs).follow("a", PULSE)
    next(story), next(story)
    jobs.redis.flushall()
    mortal_redis.stop()
    mortal_redis.start()
    with pytest.raises(UnknownJobError):
        changes(story)


def test_redis_goes_and_comes_back(mortal_redis: Any) -> None:
    """The end is told although it came in while nobody could listen."""
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 60)
    events = Events(jobs)
    enqueue(jobs, "a")
    story = events.follow("a", PULSE)
    assert next(story) is not None and next(story) is None
    mortal_redis.stop()
    assert [next(story) for _ in range(3)] == [None] * 3
    with pytest.raises(redis.RedisError):  # the first look needs Redis
        next(events.follow("a", PULSE))
    mortal_redis.start()
    end(jobs)
    assert changes(story)[-1].status == "succeeded"


def test_closing_wakes_all(jobs: Jobs) -> None:
    events = Events(jobs)
    enqueue(jobs, "a")
    there = threading.Barrier(9)

    def follow() -> None:
        story = events.follow("a", pulse=600)
        next(story)
        there.wait(60)
        next(story)

    with ThreadPoolExecutor(8) as pool:
        followers = [pool.submit(follow) for _ in range(8)]
        there.wait(60)
        events.close()
        for follower in followers:
            assert isinstance(follower.exception(60), ClosedError)
    with pytest.raises(ClosedError):
        next(events.follow("a", PULSE))
