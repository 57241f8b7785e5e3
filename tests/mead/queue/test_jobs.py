"""The queue, on a real Redis."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from itertools import takewhile
from typing import Any

import pytest
import redis

from mead.imaging.faces import FoundFace
from mead.queue.errors import (
    DamagedRecordError,
    IdempotencyError,
    KeptLimitError,
    NotAloneError,
    QueueFullError,
    TooManyJobsError,
    UnknownJobError,
)
from mead.queue.job import JobProgress, KeptLimits, new_ids
from mead.queue.jobs import Jobs
from mead.queue.listing import jobs_of_group, newest_jobs
from mead.queue.recovery import Recovery
from tests.conftest import channel, end_of, eventually, recover, report

NOT_OURS = {"cmdstat_info", "cmdstat_config|resetstat"}
QUEUE = "latentrevisions_queue"
LIMIT = 60  # seconds; far more than anything here takes


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

    assert report(jobs, job, 3, 10, -1.25)
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
    put(jobs, "a")
    record, changes = client.hgetall("job:a"), client.info("persistence")["rdb_changes_since_last_save"]
    put(jobs, "a")
    assert client.lrange(QUEUE, 0, -1) == ["a"] and client.hgetall("job:a") == record
    # it has written something all the same, for WAIT to wait for
    assert client.info("persistence")["rdb_changes_since_last_save"] > changes


def test_unknown_job(jobs: Jobs) -> None:
    with pytest.raises(UnknownJobError):
        jobs.get("nobody")


def test_a_job_ends_once_and_only_by_its_holder(jobs: Jobs) -> None:
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    assert not jobs.succeed(job, "another", "x.png")
    assert jobs.report(QUEUE, "another", [JobProgress("a", 1, 2, 0.0)]).lost == {"a"}
    assert jobs.fail(job, "me", "no face found", "input", "img")
    assert not jobs.succeed(job, "me", "x.png")
    assert not jobs.requeue(QUEUE, "me", [job.id])
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
    jobs.requeue(QUEUE, "me", [second.id])
    jobs.requeue(QUEUE, "me", [first.id])
    assert [jobs.rank(jobs.get(name)) for name in "abcd"] == [0, 1, 2, 3]
    assert [job.id for _ in range(4) if (job := jobs.claim(QUEUE, "me"))] == list("abcd")
    put(jobs, "e", "f")
    assert [jobs.rank(jobs.get(name)) for name in "ef"] == [0, 1]


def test_put_back_leaves_no_trace_of_the_attempt(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    report(jobs, job, 3, 10)
    assert jobs.requeue(QUEUE, "me", [job.id])
    assert client.lrange(QUEUE, 0, -1) == ["a", "b"]
    again = jobs.get("a")
    assert again.status == "queued" and again.attempts == 0 and again.steps == 0
    assert again.worker is None and again.started_at is None and again.loss is None
    assert jobs.report(QUEUE, "me", []).held == ()


def test_a_queued_id_without_record_is_skipped(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    client.delete("job:a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.id == "b"
    assert jobs.report(QUEUE, "me", []).held == ("b",)
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
            assert end_of(jobs, name).status == "succeeded"
        client.set("enough", 1)
        done = [name for future in working for name in future.result()]
    assert sorted(done) == names


def test_waiting_for_work_changes_nothing(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b", "c")
    jobs.wait_for_work(QUEUE, 1)
    assert client.lrange(QUEUE, 0, -1) == ["a", "b", "c"]


def test_few_of_many_idle_workers_wait_on_the_queue(jobs: Jobs, client: redis.Redis) -> None:
    """A new job wakes all that do."""
    client.sadd("workers", *(f"worker-{n}" for n in range(10_000)))
    random.seed(1)
    put(jobs, "a")
    with client.monitor() as monitor:
        for _ in range(20):
            jobs.wait_for_work(QUEUE, 0.001)
        client.ping()
        seen = (command["command"] for command in monitor.listen())
        waits = Counter(command.split()[0] for command in takewhile(lambda command: command != "PING", seen))
    assert waits["SCARD"] == 20 and waits["BLMOVE"] < 5


def test_events_tell_the_whole_story(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    with channel(client, "a") as story:
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        assert report(jobs, job, 1, 2, 0.5) and report(jobs, job, 2, 2, 0.25)
        jobs.succeed(job, "me", "a.png")
        events = list(story)
    assert [event["seq"] for event in events] == [2, 3, 4, 5]
    assert [event["status"] for event in events] == ["processing", "processing", "processing", "succeeded"]
    assert [event.get("steps") for event in events] == [None, 1, 2, None]
    assert events[1] == {"seq": 3, "status": "processing", "steps": 1, "total_steps": 2, "loss": 0.5}


def test_live_workers(jobs: Jobs, client: redis.Redis) -> None:
    jobs.heartbeat("me", [QUEUE], 60)
    jobs.heartbeat("another", ["styleclip_queue"], 60)
    assert {name: list(heartbeat.queues) for name, heartbeat in jobs.workers().items()} == {
        "me": [QUEUE],
        "another": ["styleclip_queue"],
    }
    assert 0 < client.ttl("worker:me") <= 60
    client.delete("worker:another")  # as when its time is over
    assert set(jobs.workers()) == {"me"}
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    jobs.deregister("me", [QUEUE])
    assert jobs.workers() == {} and not client.exists("worker:me")
    assert client.smembers("workers") == {"me", "another"}  # not forgotten: it left a job behind
    jobs.requeue(QUEUE, "me", [job.id])
    jobs.deregister("me", [QUEUE])
    assert client.smembers("workers") == {"another"}


@pytest.mark.slow
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
                    jobs.requeue(QUEUE, "me", [job.id])
                job = jobs.claim(QUEUE, "me")
                assert job is not None
                jobs.succeed(job, "me", json.dumps("x"))
                client.delete("job:a")
        finally:
            stop.set()
        assert looking.result() > 0


# Cancelling


def test_cancelling_a_waiting_job(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b", "c")
    assert jobs.cancel("b") and not jobs.cancel("b")
    job = jobs.get("b")
    assert job.status == "cancelled" and job.finished_at is not None and job.attempts == 0
    assert 0 < client.ttl("job:b") <= jobs.ttl
    assert jobs.queue_length(QUEUE) == 2
    assert [jobs.rank(jobs.get(name)) for name in "abc"] == [0, 0, 1]
    claimed = [jobs.claim(QUEUE, "me") for _ in range(3)]
    assert [job.id if job else None for job in claimed] == ["a", "c", None] and jobs.queue_length(QUEUE) == 0
    assert not client.exists(f"{QUEUE}:cancelled")


def test_cancelling_a_running_job(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.cancel("a")
    assert jobs.get("a").status == "cancelled"
    assert not client.exists(f"{QUEUE}:processing:me")
    assert not report(jobs, job, 1, 2) and not jobs.succeed(job, "me", "a.png")
    assert not jobs.requeue(QUEUE, "me") and recover(jobs) == []
    assert jobs.get("a").status == "cancelled"


def test_cancelling_what_has_ended_or_never_was(jobs: Jobs) -> None:
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.succeed(job, "me", "a.png")
    assert not jobs.cancel("a") and jobs.get("a").status == "succeeded"
    with pytest.raises(UnknownJobError):
        jobs.cancel("nobody")


@pytest.mark.slow
def test_a_job_is_cancelled_or_taken_never_both(jobs: Jobs) -> None:
    with ThreadPoolExecutor(2) as pool:
        for n in range(200):
            name = f"{n}"
            put(jobs, name)
            cancelling = pool.submit(jobs.cancel, name)
            claiming = pool.submit(jobs.claim, QUEUE, "me")
            job = claiming.result()
            assert cancelling.result()
            assert job is None or not jobs.succeed(job, "me", "x.png")
            assert jobs.get(name).status == "cancelled"
    assert jobs.statistics()["lr"].ended == {"cancelled": 200, "failed": 0, "succeeded": 0}


# Idempotency and limits


def test_an_idempotency_key_makes_one_job(jobs: Jobs, client: redis.Redis) -> None:
    def ask(job_id: str, owner: str = "me", key: str = "k", fingerprint: str = "f") -> str:
        return jobs.enqueue(
            job_id, "lr", QUEUE, {}, owner=owner, idempotency_key=key, fingerprint=fingerprint, longest=3
        )

    assert ask("a") == "a" and ask("b") == "a" and ask("a") == "a"
    with pytest.raises(IdempotencyError, match="Idempotency-Key"):
        ask("c", fingerprint="g")
    assert ask("d", owner="you") == "d" and ask("e", key="l") == "e"
    assert client.lrange(QUEUE, 0, -1) == ["a", "d", "e"]
    assert ask("f") == "a"  # though the queue is full
    job = jobs.claim(QUEUE, "worker")
    assert job is not None and jobs.succeed(job, "worker", "a.png")
    assert ask("f") == "a"  # also when it has ended
    assert 0 < client.ttl("idempotency:me:k") <= jobs.ttl
    client.delete("job:a")
    assert ask("g") == "g"


def test_a_repeated_request_makes_one_job_however_many_come_at_once(jobs: Jobs, client: redis.Redis) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda n: jobs.enqueue(f"{n}", "lr", QUEUE, {}, idempotency_key="k"), range(40))
        assert len(set(made)) == 1
    assert client.llen(QUEUE) == 1


def test_the_queue_may_be_full(jobs: Jobs) -> None:
    for name in "ab":
        jobs.enqueue(name, "lr", QUEUE, {}, longest=2)
    with pytest.raises(QueueFullError, match="2 jobs are waiting"):
        jobs.enqueue("c", "lr", QUEUE, {}, longest=2)
    with pytest.raises(UnknownJobError):
        jobs.get("c")
    jobs.cancel("a")
    jobs.enqueue("c", "lr", QUEUE, {}, longest=2)


def test_a_client_may_have_so_many_unfinished_jobs(jobs: Jobs, client: redis.Redis) -> None:
    def ask(name: str, **who: str) -> str:
        return jobs.enqueue(name, "lr", QUEUE, {}, most=2, **who)

    for name in "ab":
        ask(name, owner="me")
    with pytest.raises(TooManyJobsError):
        ask("c", owner="me")
    ask("d", client="here")
    job = jobs.claim(QUEUE, "worker")
    assert job is not None and job.id == "a"
    with pytest.raises(TooManyJobsError):
        ask("c", owner="me")  # a running one counts
    jobs.fail(job, "worker", "no reason", "internal")
    ask("c", owner="me")
    with pytest.raises(TooManyJobsError):
        ask("e", owner="me")
    client.delete("job:c")  # by hand
    ask("e", owner="me")


# Workers that die


def test_a_dead_workers_jobs_come_back_in_their_order(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b", "c", "d")
    for _ in range(3):
        jobs.claim(QUEUE, "dead")
    jobs.heartbeat("dead", [QUEUE], 60)
    assert recover(jobs) == []  # it lives
    client.delete("worker:dead")
    assert sorted(recover(jobs)) == ["a", "b", "c"] and recover(jobs) == []
    assert client.lrange(QUEUE, 0, -1) == list("abcd")
    assert [jobs.get(name).attempts for name in "abcd"] == [1, 1, 1, 0]
    assert [jobs.rank(jobs.get(name)) for name in "abcd"] == [0, 1, 2, 3]
    assert not client.exists(f"{QUEUE}:processing:dead") and not client.exists("workers")

    with pytest.raises(NotAloneError):
        jobs.claim(QUEUE, "me", alone=False)
    assert jobs.get("a").status == "queued"
    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.id == "a" and job.attempts == 2 and job.runs_alone


def test_a_worker_that_recovers_others_knows_that_it_lives(jobs: Jobs, client: redis.Redis) -> None:
    """Its own heartbeat may be late: Redis was away, or the process was suspended."""
    put(jobs, "a", "b")
    for worker in ("me", "dead"):
        jobs.claim(QUEUE, worker)
    recovery = Recovery(jobs, [QUEUE], 3)
    assert recovery.recover(alive="me") == ["b"]
    assert jobs.get("a").status == "processing" and client.smembers("workers") == {"me"}
    assert recovery.recover(alive="dead") == ["a"]


def test_after_so_many_deaths_a_job_fails(jobs: Jobs) -> None:
    put(jobs, "a")
    for n in range(3):
        job = jobs.claim(QUEUE, f"worker-{n}")
        assert job is not None
        assert recover(jobs) == ["a"]
    ended = jobs.get("a")
    assert ended.status == "failed" and ended.error == "its worker died 3 times"
    assert ended.error_kind == "internal" and ended.attempts == 3
    assert jobs.claim(QUEUE, "me") is None
    assert not jobs.succeed(job, "worker-2", "a.png")


def test_many_reapers_recover_each_job_once(jobs: Jobs, client: redis.Redis) -> None:
    names = [f"{n:02}" for n in range(40)]
    put(jobs, *names)
    for n in range(40):
        jobs.claim(QUEUE, f"dead-{n % 5}")
    with ThreadPoolExecutor(8) as pool:
        recovered = [name for some in pool.map(lambda _: recover(jobs), range(16)) for name in some]
    assert sorted(recovered) == names == sorted(client.lrange(QUEUE, 0, -1))


def test_lists_that_were_tampered_with(jobs: Jobs, client: redis.Redis) -> None:
    """A lost name of a worker; an id without a record, one that another worker holds, one that has ended."""
    put(jobs, "a", "b", "c")
    for worker in ("lost", "other", "other"):
        jobs.claim(QUEUE, worker)
    jobs.heartbeat("other", [QUEUE], 60)
    jobs.cancel("c")
    client.delete("workers")
    client.rpush(f"{QUEUE}:processing:lost", "no record", "b", "c")
    assert recover(jobs) == []
    Recovery(jobs, [QUEUE], 3).register_holders()
    assert recover(jobs) == ["a"]
    assert client.lrange(QUEUE, 0, -1) == ["a"] and jobs.get("b").worker == "other"
    assert not client.exists(f"{QUEUE}:processing:lost")
    client.delete(QUEUE)  # also this
    put(jobs, "d")
    assert jobs.rank(jobs.get("d")) == 0 and jobs.queue_length(QUEUE) == 1


def test_a_result_told_twice_counts_once(jobs: Jobs) -> None:
    """As when the answer to the first call was lost."""
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    assert jobs.succeed(job, "me", "a.1.png") and jobs.succeed(job, "me", "a.1.png")
    assert not jobs.succeed(job, "me", "a.2.png")
    assert jobs.statistics()["lr"].ended["succeeded"] == 1 and jobs.get("a").out_path == "a.1.png"


# Seeing inside


def test_reports_of_many_jobs_in_one_go(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b", "c")
    for _ in range(3):
        jobs.claim(QUEUE, "me")
    jobs.cancel("b")
    jobs.ask_preview("c")
    assert 0 < client.ttl("preview:c") <= 10
    progress = [
        JobProgress("a", 1, 5, 0.5),
        JobProgress("b", 1, 5, 0.5),
        JobProgress("c", 2, 5, float("nan")),
    ]
    reply = jobs.report(QUEUE, "me", progress)
    assert reply.lost == {"b"} and reply.watched == {"c"} and reply.held == ("a", "c")
    assert jobs.get("a").steps == 1 and jobs.get("b").steps == 0
    assert jobs.get("c").steps == 2 and jobs.get("c").loss is None


def test_notes_are_a_json_list_in_the_record_and_the_event(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    with channel(client, "a") as story:
        job = jobs.claim(QUEUE, "me")
        assert job is not None and job.notes == () and job.parameters == jobs.get("a").parameters
        jobs.report(QUEUE, "me", [JobProgress("a", 1, 2, 0.5, ["not learned: Käse", "no effect"])])
        jobs.report(QUEUE, "me", [JobProgress("a", 2, 2, 0.5)])  # keeps them
        jobs.succeed(job, "me", "a.png")
        events = [event.get("notes") for event in story]
    assert events == [None, '["not learned: Käse", "no effect"]', None, None]
    assert client.hget("job:a", "notes") == events[1]
    assert jobs.get("a").notes == ("not learned: Käse", "no effect")
    assert jobs.get("a").parameters == job.parameters


def test_a_requeued_job_has_no_notes(jobs: Jobs, client: redis.Redis) -> None:
    """A worker of an older version may claim it, which would take them for a parameter."""
    put(jobs, "a", "b")
    for worker in ("me", "dead"):
        job = jobs.claim(QUEUE, worker)
        assert job is not None
        jobs.report(QUEUE, worker, [JobProgress(job.id, 1, 2, 0.5, ["no effect"])])
    jobs.requeue(QUEUE, "me")
    recover(jobs)
    for name in "ab":
        assert jobs.get(name).status == "queued" and not client.hexists(f"job:{name}", "notes")


def test_faces_are_a_json_list_in_the_record_and_the_event(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    faces = [
        FoundFace(number=1, box=(1, 2, 30, 40), angle=-5),
        FoundFace(number=2, box=(50, 2, 80, 40), angle=9),
    ]
    with channel(client, "a") as story:
        job = jobs.claim(QUEUE, "me")
        assert job is not None and job.faces == ()
        jobs.report(QUEUE, "me", [JobProgress("a", 1, 2, 0.5, faces=faces)])
        jobs.report(QUEUE, "me", [JobProgress("a", 2, 2, 0.5)])  # keeps them
        jobs.succeed(job, "me", "a.png")
        events = [event.get("faces") for event in story]
    assert events[0] is None and json.loads(events[1])[0] == {"number": 1, "box": [1, 2, 30, 40], "angle": -5}
    assert jobs.get("a").faces == tuple(faces) and jobs.get("a").parameters == job.parameters


def test_a_requeued_job_has_no_faces(jobs: Jobs, client: redis.Redis) -> None:
    """Like notes."""
    put(jobs, "a")
    jobs.claim(QUEUE, "me")
    found = FoundFace(number=1, box=(1, 2, 30, 40), angle=-5)
    jobs.report(QUEUE, "me", [JobProgress("a", 1, 2, 0.5, faces=[found])])
    jobs.requeue(QUEUE, "me")
    assert not client.hexists("job:a", "faces")


@pytest.mark.parametrize("faces", ["", "[", '"one"', "1", "[1]", '[{"number": 1}]', "[" * 100_000])
def test_faces_that_somebody_has_damaged(jobs: Jobs, client: redis.Redis, faces: str) -> None:
    put(jobs, "a")
    client.hset("job:a", "faces", faces)
    assert jobs.get("a").faces == ()


@pytest.mark.parametrize("notes", ["", "[", '"one"', "1", "[" * 100_000])
def test_notes_that_somebody_has_damaged(jobs: Jobs, client: redis.Redis, notes: str) -> None:
    put(jobs, "a")
    client.hset("job:a", "notes", notes)
    assert jobs.get("a").notes == ()


def test_every_change_has_the_next_number(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    numbers = [jobs.get("a").seq]
    with channel(client, "a") as story:
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        report(jobs, job, 1, 2)
        jobs.requeue(QUEUE, "me", ["a"])
        jobs.cancel("a")
        numbers += [event["seq"] for event in story]
    assert numbers == [1, 2, 3, 4, 5] and jobs.get("a").seq == 5


def test_events_say_nothing_of_the_owner(jobs: Jobs, client: redis.Redis) -> None:
    with channel(client, "a") as story:
        jobs.enqueue("a", "lr", QUEUE, {}, owner="o", client="c", idempotency_key="k", fingerprint="f")
        jobs.cancel("a")
        events = list(story)
    assert len(events) == 2
    assert not {"owner", "client", "idempotency_key", "fingerprint"} & {
        name for event in events for name in event
    }
    assert jobs.get("a").owner == "o"


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_times_in_records(jobs: Jobs) -> None:
    """For people, and in milliseconds for the scripts."""
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.started_at is not None
    assert job.created_ms == round(job.created_at.timestamp() * 1000)
    assert job.started_ms == round(job.started_at.timestamp() * 1000)
    assert set(job.parameters) == {"prompt", "w0"}
    jobs.requeue(QUEUE, "me")
    assert jobs.get("a").started_ms is None


def test_records_of_older_versions_are_finished_and_counted(jobs: Jobs, client: redis.Redis) -> None:
    """They lack times in milliseconds, so their jobs are left out of the histograms."""
    put(jobs, *"abcd")
    for name in "abcd":
        client.hdel(f"job:{name}", "created_ms")
    claimed = [jobs.claim(QUEUE, "me") for _ in range(3)]
    first, second, third = (job for job in claimed if job is not None)
    for name in "abc":
        client.hdel(f"job:{name}", "started_ms")
    assert report(jobs, first, 1, 2) and jobs.succeed(first, "me", "a.png", 10)
    assert jobs.fail(second, "me", "no reason", "internal")
    assert jobs.requeue(QUEUE, "me", [third.id]) == ["c"]
    assert jobs.cancel("c") and jobs.cancel("d")
    counted = jobs.statistics()["lr"]
    assert counted.accepted == 4 and counted.ended == {"cancelled": 2, "failed": 1, "succeeded": 1}
    assert counted.wait.count == counted.run.count == 0
    for name in "abcd":
        assert jobs.get(name).finished_at is not None and 0 < client.ttl(f"job:{name}") <= jobs.ttl
    assert client.zcount("kept", "+inf", "+inf") == 0 and client.zcard("kept") == 4


def test_statistics(jobs: Jobs, client: redis.Redis) -> None:
    assert jobs.statistics() == {}
    put(jobs, "a", "b", "c")
    client.hset("job:a", "created_ms", milliseconds(datetime(2024, 2, 28, 23, 59, 58, 500_000, timezone.utc)))
    first = jobs.claim(QUEUE, "me")
    second = jobs.claim(QUEUE, "me")
    assert first is not None and second is not None
    client.hset("job:b", "started_ms", milliseconds(datetime(1999, 12, 31, 23, 59, 59, 0, timezone.utc)))
    jobs.succeed(first, "me", "a.png")
    jobs.fail(second, "me", "no reason", "internal")
    jobs.cancel("c")
    counted = jobs.statistics()["lr"]
    assert counted.accepted == 3 and counted.recovered == 0
    assert counted.ended == {"cancelled": 1, "failed": 1, "succeeded": 1}
    assert counted.wait.count == counted.run.count == 2  # the third never ran
    assert counted.wait.buckets[3000] == 1 and counted.run.buckets[3000] == 1
    waited = (first.started_at or first.created_at) - datetime(2024, 2, 28, 23, 59, 58, 500000, timezone.utc)
    assert abs(counted.wait.sum - waited.total_seconds()) < LIMIT
    ran = datetime.now(timezone.utc) - datetime(1999, 12, 31, 23, 59, 59, 0, timezone.utc)
    assert abs(counted.run.sum - ran.total_seconds()) < LIMIT


@pytest.mark.slow
def test_a_long_queue_of_cancelled_jobs(jobs: Jobs) -> None:
    """Two thousand jobs; those cancelled in the middle are passed over a thousand at a time."""
    groups = [new_ids(250) for _ in range(8)]
    for group in groups:
        jobs.enqueue_group({job_id: {"prompt": "a house"} for job_id in group}, "lr", QUEUE)
    first, last = jobs.get(groups[0][0]), jobs.get(groups[-1][-1])
    assert jobs.rank(last) == 1999
    for group in groups:
        jobs.cancel_all([job_id for job_id in group if job_id not in (first.id, last.id)])
    assert jobs.rank(last) == 1 and jobs.queue_length(QUEUE) == 2
    claimed = [jobs.claim(QUEUE, "me") for _ in range(3)]
    assert [job.id if job else None for job in claimed] == [first.id, last.id, None]


# Records and lists that somebody has changed by hand


def test_a_damaged_record_is_no_job(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a")
    client.hset("job:a", "steps", "many")
    client.hset("job:b", "id", "b")
    client.rpush("job:c", "x")
    for name in "abc":
        with pytest.raises(DamagedRecordError):
            jobs.get(name)
    assert set(jobs.outcomes(list("abcd"))) == {"a"}


def test_damaged_records_stop_no_queue(jobs: Jobs, client: redis.Redis) -> None:
    """Ids without a record, of another type, with fields that cannot be read: the next good job is taken."""
    client.rpush(QUEUE, "nonsense", "a b c")
    client.rpush("job:list", "x")
    client.rpush(QUEUE, "list")
    client.hset(
        "job:evil", mapping={"id": "evil", "type": "lr", "status": "queued", "created_at": "yesterday"}
    )
    client.rpush(QUEUE, "evil")
    put(jobs, "good")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and job.id == "good"
    assert client.lrange(f"{QUEUE}:processing:me", 0, -1) == ["good"]
    status, error, kind = client.hmget("job:evil", "status", "error", "error_kind")
    assert status == "failed" and kind == "internal" and error.startswith("its record in Redis is damaged: ")
    assert client.ttl("job:evil") > 0


def test_a_heartbeat_that_cannot_be_read(jobs: Jobs, client: redis.Redis) -> None:
    jobs.heartbeat("me", [QUEUE], LIMIT)
    jobs.heartbeat("odd", [QUEUE], LIMIT)
    client.set("worker:odd", "hello")
    assert set(jobs.workers()) == {"me"}
    put(jobs, "a")
    assert jobs.claim(QUEUE, "odd") is not None
    assert recover(jobs) == [], "its key is there, so it lives"


def test_jobs_that_are_in_no_list_are_requeue(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, *"abcdefg")
    jobs.heartbeat("alive", [QUEUE], LIMIT)
    assert jobs.claim(QUEUE, "alive") and jobs.claim(QUEUE, "dead")  # a and b
    jobs.cancel("g")
    client.delete(QUEUE, f"{QUEUE}:processing:alive", f"{QUEUE}:processing:dead")
    put(jobs, "h")
    client.hset("job:probe", "x", 1)
    assert sorted(Recovery(jobs, [QUEUE], 3).restore()) == list("abcdef")
    assert client.lrange(f"{QUEUE}:processing:alive", 0, -1) == ["a"]
    assert sorted(client.lrange(QUEUE, 0, -1)) == list("bcdefh")
    assert Recovery(jobs, [QUEUE], 3).restore() == []
    alone = jobs.get("b")
    assert alone.status == "queued" and alone.attempts == 1
    for name in "cdefh":
        assert jobs.get(name).attempts == 0


def test_what_was_half_taken_is_requeue(jobs: Jobs, client: redis.Redis) -> None:
    """A claim that was stopped after it had moved the id, and before it wrote the record."""
    put(jobs, "a", "b")
    jobs.heartbeat("me", [QUEUE], LIMIT)
    for worker, undo in (
        ("me", lambda: jobs.requeue(QUEUE, "me")),
        ("dead", lambda: recover(jobs)),
    ):
        client.lmove(QUEUE, f"{QUEUE}:processing:{worker}", "LEFT", "RIGHT")
        client.sadd("workers", worker)
        assert undo() == ["a"]
        assert client.lrange(QUEUE, 0, -1) == ["a", "b"] and jobs.get("a").attempts == 0
        assert not client.exists(f"{QUEUE}:processing:{worker}")


# What is kept


def kept(client: redis.Redis, whose: str = "") -> tuple[int, int]:
    """Records and bytes that are counted, of all or of one client."""
    key = f"kept{whose}"
    return client.zcard(key), int(client.get(f"{key}:bytes") or 0)


def test_what_is_kept_is_counted(jobs: Jobs, client: redis.Redis) -> None:
    for name, owner in zip("abcd", ("ann", "ann", "ann", "bob"), strict=True):
        jobs.enqueue(name, "lr", QUEUE, {"prompt": name}, owner=owner, bytes_stored=100)
    assert kept(client) == (4, 400) and kept(client, ":ann") == (3, 300) and kept(client, ":bob") == (1, 100)
    assert jobs.cancel("a")
    assert kept(client, ":ann") == (3, 200)
    d, b, c = (jobs.claim(QUEUE, "me") for _ in "dbc")  # it is bob's turn
    assert b and c and d
    jobs.succeed(b, "me", "b.png", bytes_stored=30)
    jobs.fail(c, "me", "a bug", "internal")
    jobs.fail(d, "me", "no face", "input")
    assert kept(client, ":ann") == (3, 130) and kept(client, ":bob") == (1, 0) and kept(client) == (4, 130)
    assert 0 < client.ttl("kept:ann") <= jobs.ttl and 0 < client.ttl("kept:ann:bytes") <= jobs.ttl
    jobs.enqueue("e", "lr", QUEUE, {"prompt": "e"}, owner="ann", bytes_stored=5)
    assert client.ttl("kept:ann") == -1, "a job that has not ended is counted however long it waits"


def test_what_has_expired_is_not_counted(jobs: Jobs, client: redis.Redis) -> None:
    limits = KeptLimits(client_kept_jobs=2, client_kept_bytes=250)
    for name in "ab":
        jobs.enqueue(name, "lr", QUEUE, {}, owner="ann", bytes_stored=100, kept=limits)
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        jobs.fail(job, "me", "a bug", "internal")
    with pytest.raises(KeptLimitError) as refused:
        jobs.enqueue("c", "lr", QUEUE, {}, owner="ann", kept=limits)
    assert refused.value.seconds is not None and 0 < refused.value.seconds <= jobs.ttl
    assert f"try again in {refused.value.seconds} s" in str(refused.value)
    jobs.enqueue("c", "lr", QUEUE, {}, owner="bob", kept=limits)
    for name in "ab":  # as if their time to live were over
        client.delete(f"job:{name}")
        for key in ("kept", "kept:ann"):
            client.zadd(key, {f"{name}:100": 1}, xx=True)
    assert jobs.enqueue("d", "lr", QUEUE, {}, owner="ann", bytes_stored=7, kept=limits) == "d"
    assert kept(client, ":ann") == (1, 7) and kept(client) == (2, 7)


def test_latents_count_for_as_long_as_they_are_kept(jobs: Jobs, client: redis.Redis) -> None:
    limits = KeptLimits(client_kept_bytes=300)
    for name in "abc":
        jobs.enqueue(name, "lr", QUEUE, {}, owner="ann", bytes_stored=20, kept=limits)
    a, b = (jobs.claim(QUEUE, "me") for _ in "ab")
    assert a and b and jobs.succeed(a, "me", "a.png", 50, 100, 60)
    for whose in ("", ":ann"):
        assert kept(client, whose) == (3, 20 + 20 + 50 + 100 + 20), "its uploads stay as long as its latents"
        assert client.zrange(f"kept{whose}:latents", 0, -1) == ["a:120"]
    assert jobs.succeed(b, "me", "b.png", 50) and jobs.get("a").bytes == 50
    with pytest.raises(KeptLimitError) as refused:
        jobs.enqueue("d", "lr", QUEUE, {}, owner="ann", bytes_stored=100, kept=limits)
    assert refused.value.seconds is not None and refused.value.seconds <= 61, "the latents go first"
    for key in ("kept", "kept:ann"):
        client.zadd(f"{key}:latents", {"a:120": 1}, xx=True)  # as if their time were over
    jobs.enqueue("d", "lr", QUEUE, {}, owner="ann", bytes_stored=100, kept=limits)
    assert kept(client, ":ann") == (4, 50 + 50 + 20 + 100)
    assert jobs.cancel_all(["c", "d"]) == ["c", "d"]
    assert 0 < client.ttl("kept:ann:bytes") <= jobs.ttl


def test_latents_of_a_deleted_record_do_not_count(jobs: Jobs, client: redis.Redis) -> None:
    for name in "ab":
        jobs.enqueue(name, "lr", QUEUE, {}, owner="ann")
        job = jobs.claim(QUEUE, "me")
        assert job and jobs.succeed(job, "me", f"{name}.png", 50, 100, 60)
    assert kept(client) == (2, 300)
    assert 0 < client.ttl("kept:latents") <= jobs.ttl
    client.delete("job:a")
    Recovery(jobs, [QUEUE], 3).forget_deleted()
    assert kept(client) == kept(client, ":ann") == (1, 150)
    client.delete("job:b")
    Recovery(jobs, [QUEUE], 3).forget_deleted()
    assert not client.keys("kept*:bytes") and not client.keys("kept*:latents")


@pytest.mark.slow
def test_how_many_commands_a_job_takes(jobs: Jobs, client: redis.Redis) -> None:
    """From its acceptance, with all limits, to its end: the scripts' own commands."""

    def commands() -> int:
        return sum(one["calls"] for name, one in client.info("commandstats").items() if name not in NOT_OURS)

    limits = KeptLimits(10_000, 10_000_000, 10_000, 10_000_000)
    for number in range(40):
        jobs.enqueue(
            f"first-{number}", "lr", QUEUE, {}, client="ann", bytes_stored=5, longest=1000, kept=limits
        )
    client.config_resetstat()
    for number in range(100):
        jobs.enqueue(f"{number}", "lr", QUEUE, {}, client="ann", bytes_stored=5, longest=1000, kept=limits)
    assert commands() <= 21 * 100
    client.config_resetstat()
    for _ in range(100):
        job = jobs.claim(QUEUE, "me")
        assert job is not None and jobs.succeed(job, "me", f"{job.id}.png", 7)
    assert commands() <= 36 * 100


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (KeptLimits(kept_jobs=2), "MAX_KEPT_JOBS"),
        (KeptLimits(kept_bytes=250), "MAX_KEPT_BYTES"),
        (KeptLimits(client_kept_jobs=2), "MAX_CLIENT_KEPT_JOBS"),
        (KeptLimits(client_kept_bytes=250), "MAX_CLIENT_KEPT_BYTES"),
    ],
)
def test_no_more_is_kept_than_may_be(jobs: Jobs, client: redis.Redis, limits: KeptLimits, named: str) -> None:
    """Cancelled jobs count as well: a client cannot pass the limits by cancelling what it has made."""
    for name in "ab":
        jobs.enqueue(name, "lr", QUEUE, {}, owner="ann", bytes_stored=100, kept=limits)
    if named.endswith("JOBS"):
        jobs.cancel("a")
    with pytest.raises(KeptLimitError, match=named) as refused:
        jobs.enqueue("c", "lr", QUEUE, {}, owner="ann", bytes_stored=100, idempotency_key="k", kept=limits)
    assert (refused.value.seconds is None) == named.endswith("BYTES"), "a cancelled job's record will expire"
    assert (
        not client.exists("job:c")
        and not client.exists("idempotency:ann:k")
        and jobs.queue_length(QUEUE) <= 2
    )


# Groups


def put_group(jobs: Jobs, n: int, **request: Any) -> list[str]:
    group = {job_id: {"prompt": "teal", "seed": seed} for seed, job_id in enumerate(new_ids(n))}
    return jobs.enqueue_group(group, "lr", QUEUE, **request)


def test_a_group_is_several_jobs_in_order(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "before")
    ids = put_group(jobs, 3)
    assert client.lrange(QUEUE, 0, -1) == ["before", *ids]
    found = [jobs.get(job_id) for job_id in ids]
    assert [job.parameters for job in found] == [{"prompt": "teal", "seed": f"{seed}"} for seed in range(3)]
    assert {(job.group, job.n) for job in found} == {(ids[0], 3)}
    assert jobs.ranks(found) == [1, 2, 3]
    assert (jobs.get("before").group, jobs.get("before").n) == (None, 1)
    assert not client.hexists("job:before", "group") and not client.hexists("job:before", "n")
    assert jobs_of_group(client, ids[0]) == found
    client.delete(f"job:{ids[0]}")  # its record has expired before theirs
    assert jobs_of_group(client, ids[0]) == found[1:]
    assert jobs_of_group(client, ids[1]) == []


def test_a_group_is_made_once(jobs: Jobs) -> None:
    first = put_group(jobs, 3, idempotency_key="k", fingerprint="f")
    assert put_group(jobs, 3, idempotency_key="k", fingerprint="f") == first
    with pytest.raises(IdempotencyError):
        put_group(jobs, 4, idempotency_key="k", fingerprint="g")
    assert jobs.queue_length(QUEUE) == 3


def test_a_group_is_accepted_whole_or_not_at_all(jobs: Jobs, client: redis.Redis) -> None:
    put_group(jobs, 2, owner="me", bytes_stored=10)
    before = sorted(client.keys("*"))
    with pytest.raises(QueueFullError, match="with these 3, more than 4 jobs would wait"):
        put_group(jobs, 3, owner="me", longest=4)
    with pytest.raises(KeptLimitError, match="CLIENT_KEPT_JOBS"):
        put_group(jobs, 3, owner="me", kept=KeptLimits(client_kept_jobs=4))
    with pytest.raises(KeptLimitError, match="KEPT_BYTES"):
        put_group(jobs, 3, owner="me", bytes_stored=10, kept=KeptLimits(kept_bytes=49))
    assert sorted(client.keys("*")) == before
    assert jobs.kept() == (2, 20) and jobs.queue_length(QUEUE) == 2
    assert len(put_group(jobs, 2, owner="me", most=2)) == 2
    with pytest.raises(TooManyJobsError, match="with these 2, more than 3"):
        put_group(jobs, 2, owner="me", most=3)
    assert jobs.queue_length(QUEUE) == 4 and jobs.kept() == (4, 20)
    assert len(put_group(jobs, 3, owner="me", longest=7, kept=KeptLimits(kept_jobs=7))) == 3


def test_a_group_is_cancelled_at_once(jobs: Jobs) -> None:
    ids = put_group(jobs, 4)
    first, second = jobs.claim(QUEUE, "me"), jobs.claim(QUEUE, "me")
    assert first and second and jobs.succeed(first, "me", "a.png")
    assert jobs.cancel(ids[3])
    assert jobs.cancel_all(ids) == ids[1:3]
    assert jobs.cancel_all([*ids, "nobody"]) == []
    assert [jobs.get(job_id).status for job_id in ids] == ["succeeded", *["cancelled"] * 3]
    assert jobs.queue_length(QUEUE) == 0 and not jobs.report(QUEUE, "me", []).held


# Listing


def test_jobs_are_listed_newest_first_in_pages(jobs: Jobs, client: redis.Redis) -> None:
    made = [jobs.enqueue(f"{n:03}", "lr", QUEUE, {}, owner="me") for n in range(250)]
    jobs.enqueue("other", "lr", QUEUE, {}, owner="you")
    newest = sorted(made, key=lambda name: (jobs.get(name).created_ms, name), reverse=True)
    page = newest_jobs(client, "me", 7)
    listed = [job.id for job in page.jobs]
    assert listed == newest[:7]
    jobs.enqueue("new", "lr", QUEUE, {}, owner="me")  # between two pages
    while page.end is not None:
        page = newest_jobs(client, "me", 120, page.end)
        listed += [job.id for job in page.jobs]
    assert listed == newest
    assert [job.id for job in newest_jobs(client, "you", 5).jobs] == ["other"]
    assert newest_jobs(client, "nobody", 5) == ([], None)


def test_jobs_of_one_status_are_listed(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, *"abcd")
    for name in "bd":
        jobs.cancel(name)
    cancelled = newest_jobs(client, "", 10, wanted=lambda job: job.status == "cancelled")
    assert {job.id for job in cancelled.jobs} == {"b", "d"} and cancelled.end is None
    assert newest_jobs(client, "", 10, wanted=lambda job: job.status == "failed").jobs == []


def test_the_list_loses_jobs_whose_records_are_gone(jobs: Jobs, client: redis.Redis) -> None:
    brief = Jobs(client, ttl=1)
    for name in "ab":
        brief.enqueue(name, "lr", QUEUE, {}, owner="me")
    brief.cancel("a")
    assert client.ttl("kept_jobs:me") == -1  # b has not ended
    eventually(lambda: not client.exists("job:a"))
    assert [job.id for job in newest_jobs(client, "me", 10).jobs] == ["b"]
    eventually(lambda: client.time()[0] > client.zscore("kept", "a:0"))
    for n in range(16):  # the list is tidied up once in a while
        brief.enqueue(f"{n}", "lr", QUEUE, {}, owner="me")
    assert client.zscore("kept_jobs:me", "a") is None
    brief.cancel_all(["b", *(f"{n}" for n in range(16))])
    assert 0 < client.ttl("kept_jobs:me") <= 1


# Retrying


def test_a_failed_job_runs_again(jobs: Jobs, client: redis.Redis) -> None:
    asked = {"owner": "me", "idempotency_key": "k", "bytes_stored": 5}
    jobs.enqueue("a", "lr", QUEUE, {"prompt": "teal"}, **asked)
    put(jobs, "b")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.fail(job, "me", "the disk is full", "internal")
    assert jobs.retry("a") and not jobs.retry("a") and not jobs.retry("b")
    again = jobs.get("a")
    assert (
        again.status == "queued" and again.attempts == 0 and again.error is None and again.finished_at is None
    )
    assert [client.ttl(key) for key in ("job:a", "idempotency:me:k", "kept:me", "kept_jobs:me")] == [-1] * 4
    assert client.zscore("kept:me", "a:5") == float("inf") and jobs.kept() == (2, 5)
    assert jobs.rank(again) == 1
    taken = [jobs.claim(QUEUE, "me") for _ in range(2)]
    assert (
        [job.id for job in taken if job] == ["b", "a"] and taken[1] and jobs.succeed(taken[1], "me", "a.png")
    )


def test_what_cannot_run_again(jobs: Jobs) -> None:
    put(jobs, "a")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.fail(job, "me", "no face", "input", "img")
    assert not jobs.retry("a")
    with pytest.raises(UnknownJobError):
        jobs.retry("nobody")


def test_a_job_that_runs_again_counts_as_unfinished(jobs: Jobs, client: redis.Redis) -> None:
    jobs.enqueue("a", "lr", QUEUE, {}, client="ann", most=1)
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.fail(job, "me", "the disk is full", "internal")
    assert jobs.retry("a", most=1)
    with pytest.raises(TooManyJobsError):
        jobs.enqueue("b", "lr", QUEUE, {}, client="ann", most=1)


# Records that were deleted


def test_deleted_jobs_do_not_count_for_ever(jobs: Jobs, client: redis.Redis) -> None:
    limits = KeptLimits(kept_jobs=3, kept_bytes=1000)
    for name in ("waits", "runs", "failed"):
        asked = {"owner": "ann", "idempotency_key": name, "bytes_stored": 100, "most": 9, "kept": limits}
        jobs.enqueue(name, "lr", QUEUE, {"prompt": name}, **asked)
        if name != "waits":
            client.lrem(QUEUE, 1, "waits")
            job = jobs.claim(QUEUE, "me")
            assert job is not None
    jobs.fail(job, "me", "a bug", "internal")
    client.delete("job:waits", "job:runs", "job:failed")
    with pytest.raises(KeptLimitError):
        jobs.enqueue("next", "lr", QUEUE, {}, owner="ann", kept=limits)
    recovery = Recovery(jobs, [QUEUE], 3)
    assert recovery.forget_deleted() > 0
    assert client.keys("kept*") + client.keys("idempotency:*") + client.keys("unfinished:*") == []
    assert jobs.enqueue("next", "lr", QUEUE, {}, owner="ann", bytes_stored=7, kept=limits) == "next"
    assert kept(client) == kept(client, ":ann") == (1, 7)
    assert recovery.forget_deleted() == 0
    client.delete("job:next")
    assert recovery.forget_deleted() == 3 and jobs.kept() == (0, 0)
    jobs.enqueue("last", "lr", QUEUE, {}, owner="ann")
    client.delete("job:last", "kept")
    assert recovery.forget_deleted() == 2 and client.keys("kept*") == ["kept:bytes"]
    assert jobs.kept() == (0, 0)


def test_jobs_that_are_there_are_not_forgotten(jobs: Jobs, client: redis.Redis) -> None:
    jobs.enqueue("gone", "lr", QUEUE, {}, owner="2001:db8::1", idempotency_key="k:1", bytes_stored=5, most=9)
    jobs.enqueue("here", "lr", QUEUE, {}, owner="2001:db8::1", idempotency_key="k:2", bytes_stored=7, most=9)
    client.delete("job:gone")
    assert Recovery(jobs, [QUEUE], 3).forget_deleted() == 5  # kept twice, kept_jobs, unfinished, idempotency
    assert kept(client) == kept(client, ":2001:db8::1") == (1, 7)
    assert client.zrange("kept_jobs:2001:db8::1", 0, -1) == ["here"]
    assert client.smembers("unfinished:2001:db8::1") == {"here"}
    assert client.keys("idempotency:*") == ["idempotency:2001:db8::1:k:2"]


def test_bytes_of_a_deleted_set_do_not_count(jobs: Jobs, client: redis.Redis) -> None:
    limits = KeptLimits(kept_bytes=10)
    jobs.enqueue("a", "lr", QUEUE, {}, bytes_stored=9, kept=limits)
    client.delete("kept")
    assert jobs.enqueue("b", "lr", QUEUE, {}, bytes_stored=9, kept=limits) == "b"


def test_a_retry_in_a_queue_that_was_deleted(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "a", "b")
    job = jobs.claim(QUEUE, "me")
    assert job is not None and jobs.fail(job, "me", "the disk is full", "internal") and jobs.cancel("b")
    client.delete(QUEUE)
    assert jobs.retry("a") and jobs.rank(jobs.get("a")) == 0 and jobs.queue_length(QUEUE) == 1
