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
from mead.http.errors import ShuttingDownError
from mead.http.events import Events
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from tests.conftest import RedisServer, report

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


def listeners() -> set[threading.Thread]:
    """The threads that listen to events."""
    return {thread for thread in threading.enumerate() if thread.name == "events"}


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
    def listening() -> set[str]:
        return {connection["id"] for connection in client.client_list(_type="pubsub")}

    events, others = Events(jobs), listening()
    enqueue(jobs, "a")
    stories = [events.follow("a", PULSE) for _ in range(50)]
    for story in stories:
        assert next(story) is not None
    assert next(stories[0]) is None
    assert len(listening() - others) == 1
    end(jobs)
    assert all(changes(story)[-1].ended for story in stories)
    assert not events.followed_jobs()


@pytest.mark.slow
def test_listening_ends_when_nobody_follows(
    mortal_redis: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a quiet moment, or when Redis goes; and begins again with the next who follows."""
    monkeypatch.setattr("mead.http.events.IDLE_SECONDS", PULSE)
    jobs = Jobs(connect(Settings(redis_url=mortal_redis.url)), 60)
    events = Events(jobs)
    enqueue(jobs, "a")

    before = listeners()
    for round_ in range(2):
        story = events.follow("a", PULSE)
        assert next(story) is not None and next(story) is None
        (listener,) = listeners() - before
        time.sleep(3 * PULSE)
        assert listener.is_alive()  # somebody follows
        if round_ == 1:
            monkeypatch.setattr("mead.http.events.IDLE_SECONDS", 60)
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
    assert not events.followed_jobs()


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
            assert isinstance(follower.exception(60), ShuttingDownError)
    with pytest.raises(ShuttingDownError):
        next(events.follow("a", PULSE))


@pytest.mark.parametrize("gone", ["del", "flushall"])
def test_a_record_that_vanishes_is_noticed(jobs: Jobs, client: redis.Redis, gone: str) -> None:
    """Redis stays up all the while, and tells nobody."""
    events = Events(jobs)
    enqueue(jobs, "a")
    stories = [events.follow("a", pulse=600) for _ in range(5)]
    for story in stories:
        next(story)
    client.delete("job:a") if gone == "del" else client.flushall()
    for story in stories:
        with pytest.raises(UnknownJobError):
            changes(story)
    assert not events.followed_jobs()


STRAYS = [
    b"\xff\xfe\x00",
    b"hello",
    b"",
    b"7",
    b"null",
    b"[1, 2]",
    b'{"status": "succeeded"}',
    b'{"seq": "9", "steps": 1}',
    b'{"seq": null}',
    b'{"seq": 99, "steps": "many"}',
    b'{"seq": 99, "status": "melted"}',
    b'{"seq": 1e999}',
    b"[" * 100_000,
]


def test_stray_messages_change_nothing(
    jobs: Jobs, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """On the job's channel, on others, and from another database: channels are common to all."""
    events = Events(jobs)
    enqueue(jobs, "a")
    before = listeners()
    story = events.follow("a", PULSE)
    assert next(story) is not None and next(story) is None
    (thread,) = listeners() - before
    with redis.Redis.from_url(redis_server.url, db=9) as other:
        for stray in STRAYS:
            for name in ("events:a", "events:", "events:other", b"events:\xff\xfe"):
                other.publish(name, stray)
    assert next(story) is None
    end(jobs)
    told = changes(story)
    assert [job.status for job in told] == ["processing"] * 3 + ["succeeded"]
    assert listeners() - before == {thread}
    assert caplog.text.count("stray messages are ignored") == 1


@pytest.mark.slow
@pytest.mark.parametrize("forged", ['"status": "succeeded", "out_path": "/etc/passwd"', '"steps": 7'])
def test_the_record_decides(jobs: Jobs, client: redis.Redis, forged: str) -> None:
    """A message that looks like ours ends nothing, nor does it hide what comes after it."""
    enqueue(jobs, "a")
    story = Events(jobs).follow("a", PULSE)
    assert next(story) is not None and next(story) is None
    client.publish("events:a", f'{{"seq": 1000000, {forged}}}')
    for job in [next(story) for _ in range(3)]:
        assert job is None or not job.ended
    end(jobs)
    last = changes(story)[-1]
    assert last == jobs.get("a") and last.out_path == "/somewhere.png"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_started_again(
    jobs: Jobs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(jobs)
    assert events.problem() is None  # nobody follows, nobody need listen
    enqueue(jobs, "a")
    before = listeners()
    story = events.follow("a", pulse=600)
    next(story)

    def die(message: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(events, "handle_message", die)
        (thread,) = listeners() - before
        jobs.redis.publish("events:a", "")
        thread.join(30)
        assert events.problem() == "no thread listens to the events of jobs"
    end(jobs)  # nobody hears
    assert changes(story)[-1].status == "succeeded"
    assert events.problem() is None

    def fail(message: Any) -> None:
        raise RuntimeError("a bug")

    enqueue(jobs, "b")
    story = events.follow("b", PULSE)
    next(story)
    with monkeypatch.context() as patched:
        patched.setattr(events, "handle_message", fail)
        while events.problem() is None:
            jobs.redis.publish("events:b", "")
            time.sleep(0.05)
        assert events.problem() == "the events of jobs cannot be received (RuntimeError)"
    end(jobs)
    assert changes(story)[-1].status == "succeeded"
    assert "a bug" in caplog.records[-1].__dict__["error"]


def test_a_crowd_costs_one_look_at_a_time(
    jobs: Jobs, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a job is read once for all who follow it."""
    monkeypatch.setattr("mead.http.events.REFRESH_SECONDS", PULSE)

    def reads() -> int:
        return int(client.info("commandstats")["cmdstat_hgetall"]["calls"])

    events = Events(jobs)
    enqueue(jobs, "a")
    stories = [events.follow("a", PULSE) for _ in range(50)]
    for story in stories:
        next(story)
    began, before = time.monotonic(), reads()
    while (looks := reads() - before) < 5:
        time.sleep(0.01)
    assert looks <= 2 * (time.monotonic() - began) / PULSE + 10  # far fewer than one of each follower
    del stories, story


def test_a_change_is_one_object_for_all(jobs: Jobs) -> None:
    """Also for those who do not listen to it yet; nobody waits for them."""
    events = Events(jobs)
    enqueue(jobs, "a")
    told: list[list[Any]] = [[] for _ in range(3)]
    first = [events.subscribe("a", updates.append) for updates in told]
    assert first[0] is first[1] is first[2]
    end(jobs)
    deadline = time.monotonic() + 60
    while not all(updates and updates[-1].job.ended for updates in told):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert told[0] == told[1] == told[2]  # the same objects
    for updates in told:
        events.unsubscribe("a", updates.append)
    assert not events.followed_jobs()
