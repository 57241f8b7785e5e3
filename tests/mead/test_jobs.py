"""The queue, on a real Redis."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from mead.jobs import Jobs, UnknownJobError

QUEUE = "latentrevisions_queue"


def put(jobs: Jobs, *names: str) -> None:
    for name in names:
        jobs.enqueue(name, "lr", QUEUE, {"prompt": f"picture {name}", "w0": 0.5})


def test_what_redis_holds(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    assert client.lrange(QUEUE, 0, -1) == ["a", "b"]
    record = client.hgetall("job:a")
    assert record["status"] == "queued" and record["type"] == "lr" and record["prompt"] == "picture a"
    assert record["w0"] == "0.5" and record["created_at"].endswith("+00:00")

    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.id == "a" and job.attempts == 1
    assert client.lrange(QUEUE, 0, -1) == ["b"]
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == ["a"]
    assert client.hget("job:a", "status") == "processing" and client.hget("job:a", "worker") == "me"

    assert jobs.progress(job, "me", 3, 10, -1.25)
    assert client.hmget("job:a", "steps", "total_steps", "loss") == ["3", "10", "-1.25"]

    assert jobs.succeed(job, "me", "/somewhere/a.png")
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == []
    assert client.hmget("job:a", "status", "out_path") == ["succeeded", "/somewhere/a.png"]
    assert client.hget("job:a", "finished_at")
    assert 0 < client.ttl("job:a") <= jobs.ttl


def test_parameters_come_back_as_they_went(jobs: Jobs) -> None:
    asked = {"prompt": "Ein Mädchen 👩‍🎤 <b>紫</b>\n", "seed": 7, "w3": -0.125, "img_path": "/x/y.png"}
    jobs.enqueue("a", "lr", QUEUE, asked)
    assert jobs.get("a").parameters == {name: str(value) for name, value in asked.items()}


def test_enqueueing_twice_is_once(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "a")
    assert client.lrange(QUEUE, 0, -1) == ["a"]


def test_unknown_job(jobs: Jobs) -> None:
    with pytest.raises(UnknownJobError):
        jobs.get("nobody")
    with pytest.raises(UnknownJobError):
        jobs.wait("nobody", 5)


def test_a_job_ends_once_and_only_by_its_holder(jobs: Jobs) -> None:
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    assert not jobs.succeed(job, "another", "x.png")
    assert not jobs.progress(job, "another", 1, 2, 0.0)
    assert jobs.fail(job, "me", "no face found", "input", "img")
    assert not jobs.succeed(job, "me", "x.png")
    assert not jobs.put_back(job, "me")
    ended = jobs.get("a")
    assert ended.status == "failed" and ended.error == "no face found"
    assert ended.error_kind == "input" and ended.error_field == "img"


def test_rank(jobs: Jobs) -> None:
    put(jobs, "a", "b", "c")
    assert [jobs.rank(jobs.get(name)) for name in "abc"] == [0, 1, 2]
    first, second = jobs.claim(QUEUE, "me"), jobs.claim(QUEUE, "me")
    assert first is not None and second is not None
    assert [jobs.rank(jobs.get(name)) for name in "abc"] == [0, 0, 0]
    put(jobs, "d")
    assert jobs.rank(jobs.get("d")) == 1
    jobs.put_back(second, "me")
    jobs.put_back(first, "me")
    assert [jobs.rank(jobs.get(name)) for name in "abcd"] == [0, 1, 2, 3]
    assert [job.id for _ in range(4) if (job := jobs.claim(QUEUE, "me"))] == list("abcd")
    put(jobs, "e", "f")
    assert [jobs.rank(jobs.get(name)) for name in "ef"] == [0, 1]


def test_put_back_leaves_no_trace_of_the_attempt(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    jobs.progress(job, "me", 3, 10, 1.0)
    assert jobs.put_back(job, "me")
    assert client.lrange(QUEUE, 0, -1) == ["a", "b"]
    again = jobs.get("a")
    assert again.status == "queued" and again.attempts == 0 and again.steps == 0
    assert again.worker is None and again.started_at is None and again.loss is None
    assert jobs.held_by(QUEUE, "me") == []


def test_a_queued_id_without_record_is_skipped(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    client.delete("job:a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.id == "b"
    assert [held.id for held in jobs.held_by(QUEUE, "me")] == ["b"]
    assert jobs.claim(QUEUE, "me") is None


def test_many_workers_share_out_every_job_once(jobs: Jobs, client: redis.Redis) -> None:
    """Eight blocked workers; forty jobs put in meanwhile; each is claimed by exactly one, oldest first."""
    names = [f"{n:02}" for n in range(40)]

    def work(worker: str) -> list[str]:
        mine: list[str] = []
        while not client.exists("enough"):
            jobs.wait_for_work(QUEUE, 0.2)
            while job := jobs.claim(QUEUE, worker):
                mine.append(job.id)
                jobs.succeed(job, worker, "x.png")
        return mine

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work, f"worker-{n}") for n in range(8)]
        put(jobs, *names)
        for name in names:
            assert jobs.wait(name, 30).status == "succeeded"
        client.set("enough", 1)
        done = [name for future in working for name in future.result()]
    assert sorted(done) == names


def test_waiting_for_work_changes_nothing(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b", "c")
    jobs.wait_for_work(QUEUE, 1)
    assert client.lrange(QUEUE, 0, -1) == ["a", "b", "c"]


def test_events_tell_the_whole_story(jobs: Jobs) -> None:
    put(jobs, "a")
    story = jobs.events("a", 30)
    assert next(story)["status"] == "queued"  # subscribed from here on
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    jobs.progress(job, "me", 1, 2, 0.5)
    jobs.progress(job, "me", 2, 2, 0.25)
    jobs.succeed(job, "me", "a.png")
    told = list(story)
    assert [event["status"] for event in told] == ["processing", "processing", "processing", "succeeded"]
    assert [event.get("steps") for event in told] == [None, 1, 2, None]
    assert told[1] == {"status": "processing", "steps": 1, "total_steps": 2, "loss": 0.5}


def test_waiting(jobs: Jobs) -> None:
    put(jobs, "a")
    assert jobs.wait("a", 0.05).status == "queued"  # not in time
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(jobs.wait, "a", 30) for _ in range(5)]
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        jobs.succeed(job, "me", "a.png")
        assert [future.result().status for future in waiting] == ["succeeded"] * 5
    assert jobs.wait("a", 30).status == "succeeded"  # ended before it was asked


def test_waiting_rides_out_a_restart(mortal_redis) -> None:  # type: ignore[no-untyped-def]
    jobs = Jobs(redis.Redis.from_url(mortal_redis.url, decode_responses=True), 60)
    put(jobs, "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.wait, "a", 60)
        mortal_redis.stop()
        mortal_redis.start()
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        jobs.succeed(job, "me", "a.png")
        assert waiting.result().status == "succeeded"


def test_live_workers(jobs: Jobs, client: redis.Redis) -> None:
    jobs.beat("me", [QUEUE], 60)
    jobs.beat("another", ["styleclip_queue"], 60)
    assert jobs.workers() == {"me": [QUEUE], "another": ["styleclip_queue"]}
    assert 0 < client.ttl("worker:me") <= 60
    client.delete("worker:another")  # as when its time is over
    assert jobs.workers() == {"me": [QUEUE]}
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    jobs.leave("me", [QUEUE])
    assert jobs.workers() == {} and not client.exists("worker:me")
    assert client.smembers("workers") == {"me", "another"}  # not forgotten: it left a job behind
    jobs.put_back(job, "me")
    jobs.leave("me", [QUEUE])
    assert client.smembers("workers") == {"another"}


def test_no_reader_sees_half_a_change(jobs: Jobs, client: redis.Redis) -> None:
    """While jobs run through, each read finds an id in exactly the list that its record says."""
    stop = threading.Event()

    def look() -> int:
        looks = 0
        while not stop.is_set() or not looks:
            with client.pipeline(transaction=True) as pipe:
                pipe.lrange(QUEUE, 0, -1)
                pipe.lrange(f"{QUEUE}:processing:me", 0, -1)
                pipe.hget("job:a", "status")
                waiting, held, status = pipe.execute()
            lists = {"queued": (["a"], []), "processing": ([], ["a"]), "succeeded": ([], []), None: ([], [])}
            assert (waiting, held) == lists[status]
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for _ in range(100):
                put(jobs, "a")
                for _ in range(2):
                    job = jobs.claim(QUEUE, "me")
                    assert job is not None
                    jobs.put_back(job, "me")
                job = jobs.claim(QUEUE, "me")
                assert job is not None
                jobs.succeed(job, "me", json.dumps("x"))
                client.delete("job:a")
        finally:
            stop.set()
        assert looking.result() > 0
