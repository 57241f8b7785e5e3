"""Sending webhooks from the outbox, with a real Redis and real receivers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from mead.cli.local_redis import free_port
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.keys import WEBHOOKS_KEY, job_key
from mead.queue.outbox import Entry, Outbox
from mead.receivers import AllowedReceivers
from mead.worker.webhooks import PER_CLIENT, PER_RECEIVER, SLOTS, Lane, Lanes, WebhookLoop, _lane_of
from tests.colours import QUEUE
from tests.conftest import eventually, recover, report, running
from tests.receiver import Receiver

SECRETS = [SecretStr(f"whsec_{base64.b64encode(letter * 32).decode()}") for letter in (b"a", b"b")]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def loop(jobs: Jobs) -> Callable[..., WebhookLoop]:
    def make(**changes: Any) -> WebhookLoop:
        usual = {"allowed": AllowedReceivers(["127.0.0.0/8"]), "timeout": 5.0}
        return WebhookLoop("me", jobs, **{**usual, **changes})

    return make


@pytest.fixture
def enqueue(jobs: Jobs) -> Callable[..., None]:
    def enqueue(job_id: str, url: str, events: str = "completed", client: str = "somebody") -> None:
        fields = {"prompt": "red", "seed": 1, "webhook": url, "webhook_events_filter": events}
        jobs.enqueue(job_id, "lr", QUEUE, fields, client=client)

    return enqueue


def run_next(jobs: Jobs, worker: str = "me") -> Job:
    """The next job once it has succeeded."""
    job = jobs.claim(QUEUE, worker)
    assert job is not None
    assert report(jobs, job, 1, 1) and jobs.succeed(job, worker, f"{job.id}.png")
    return jobs.get(job.id)


def settled(jobs: Jobs, *ids: str) -> list[str | None]:
    """What became of these jobs' webhooks, once nothing is to be sent any more."""
    outbox = Outbox(jobs.redis)
    eventually(lambda: outbox.counts().waiting == 0)
    return [jobs.get(job_id).webhook_status for job_id in ids]


def test_the_end_of_a_job_is_sent_and_signed(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url("/hook?token=secret"))
    run_next(jobs)
    with running(loop(secrets=SECRETS).run):
        assert settled(jobs, "a") == ["delivered"]
    (sent,) = receiver.received
    assert sent.path == "/hook?token=secret" and sent.headers["content-type"] == "application/json"
    assert (
        sent.job["id"] == "a" and sent.job["status"] == "succeeded" and sent.job["image"] == "/jobs/a/image"
    )
    assert sent.job["webhook"] == receiver.url("") and "secret" not in sent.body.decode()
    message_id, timestamp = sent.headers["webhook-id"], sent.headers["webhook-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = f"{message_id}.{timestamp}.".encode() + sent.body
    digests = [hmac.new(letter * 32, signed, hashlib.sha256).digest() for letter in (b"a", b"b")]
    assert sent.headers["webhook-signature"].split() == [
        f"v1,{base64.b64encode(one).decode()}" for one in digests
    ]
    assert Outbox(jobs.redis).counts() == (0, 1, 0, 0)


def test_without_a_secret_nothing_is_signed(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url())
    jobs.cancel("a")
    with running(loop().run):
        settled(jobs)
    (sent,) = receiver.received
    assert sent.job["status"] == "cancelled" and "webhook-signature" not in sent.headers


def test_every_way_to_end_is_told(jobs: Jobs, enqueue: Callable[..., None]) -> None:
    for name in ("succeeds", "fails", "dies", "cancelled"):
        enqueue(name, "http://127.0.0.1/")
    jobs.enqueue("without", "lr", QUEUE, {"prompt": "red"})
    run_next(jobs)
    failing, dying = jobs.claim(QUEUE, "me"), jobs.claim(QUEUE, "dead")
    assert failing and dying
    jobs.fail(failing, "me", "no such colour", "input")
    assert recover(jobs, attempts=1) == ["dies"]
    jobs.cancel_all(["cancelled", "without"])
    _, entries = Outbox(jobs.redis).take(10, 60)
    assert {(one.event, one.job_id) for one in entries} == {  # those of one millisecond by name
        ("completed", name) for name in ("succeeds", "fails", "dies", "cancelled")
    }
    assert all(entry.number == jobs.get(entry.job_id).seq for entry in entries)


def test_a_retry_of_a_job_is_another_event(jobs: Jobs, enqueue: Callable[..., None]) -> None:
    enqueue("a", "http://127.0.0.1/")
    for _ in range(2):
        job = jobs.claim(QUEUE, "me")
        assert job is not None
        jobs.fail(job, "me", "the disk is full", "internal")
        jobs.retry("a")
    _, entries = Outbox(jobs.redis).take(10, 60)
    assert len({entry.number for entry in entries}) == 2


def test_start_and_output(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url(), "start,output,completed")
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    for steps in range(1, 6):  # of which is told once
        assert report(jobs, job, steps, 5)
    with running(loop().run):
        eventually(lambda: len(receiver.received) == 2)
        assert jobs.succeed(job, "me", "a.png")
        settled(jobs)
    told = [(one.job["status"], one.job["steps"]) for one in receiver.received]
    assert told == [("processing", 5), ("processing", 5), ("succeeded", 5)]
    ids = {one.headers["webhook-id"].partition(".")[2] for one in receiver.received}
    assert ids == {"start.1", "output.7", f"completed.{jobs.get('a').seq}"}


def test_what_is_overtaken_by_the_end_is_not_sent(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url(), "start,output,completed")
    run_next(jobs)
    with running(loop().run):
        settled(jobs)
    assert receiver.statuses() == {"succeeded": 1}


@pytest.mark.slow
def test_a_failed_webhook_is_sent_again(
    jobs: Jobs,
    loop: Callable[..., WebhookLoop],
    enqueue: Callable[..., None],
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    enqueue("a", receiver.url("/flaky?token=secret"))
    run_next(jobs)
    with running(loop(secrets=SECRETS[:1]).run):
        eventually(lambda: jobs.get("a").webhook_status == "waiting")
        assert jobs.get("a").webhook_error == "the receiver has answered 500"
        assert settled(jobs, "a") == ["delivered"]
    assert jobs.get("a").webhook_error is None
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1 and len(receiver.received) == 3
    events = [record.message for record in caplog.records if record.name == "mead.worker.webhooks"]
    assert events == ["webhook failed, sent again later"] * 2 + ["webhook delivered"]
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "token" not in logged and SECRETS[0].get_secret_value() not in logged


@pytest.mark.parametrize("path", ["/500", "/redirect", "/410"])
def test_an_end_of_trying(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver, path: str
) -> None:
    enqueue("a", receiver.url(path))
    run_next(jobs)
    with running(loop(retry_seconds=3600 if path == "/410" else 0).run):
        assert settled(jobs, "a") == ["failed"]
    assert len(receiver.received) == 1
    assert (jobs.get("a").webhook_error or "").startswith("the receiver has answered ")
    assert Outbox(jobs.redis).counts() == (0, 0, 1, 0)


def test_a_private_address_is_never_connected_to(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url())
    run_next(jobs)
    with running(loop(allowed=AllowedReceivers()).run):
        assert settled(jobs, "a") == ["failed"]
    assert receiver.received == [] and "not a public one" in (jobs.get("a").webhook_error or "")


def test_dead_and_slow_receivers_hold_nobody_up(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    slow, dead = Receiver(), free_port()
    for number in range(4 * SLOTS):  # due before the others
        enqueue(f"slow-{number}", slow.url("/slow"))
        enqueue(f"dead-{number}", f"http://127.0.0.1:{dead}/")
    ids = [f"quick-{number}" for number in range(20)]
    for job_id in ids:
        enqueue(job_id, receiver.url())
    jobs.cancel_all([f"{kind}-{number}" for kind in ("slow", "dead") for number in range(4 * SLOTS)])
    jobs.cancel_all(ids)
    with running(loop(timeout=30).run):
        eventually(lambda: len(receiver.received) == 20)
        assert 0 < len(slow.received) <= PER_RECEIVER
        slow.stop()


def test_one_client_leaves_slots_for_others(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    slow = [Receiver() for _ in range(SLOTS)]
    for number, one in enumerate(slow):
        enqueue(f"slow-{number}", one.url("/slow"), client="greedy")
    enqueue("other", receiver.url(), client="modest")
    jobs.cancel_all([f"slow-{number}" for number in range(SLOTS)])
    jobs.cancel("other")
    with running(loop(timeout=30).run):
        eventually(lambda: receiver.received)
        for one in slow:
            one.stop()


def job_for(url: str, client: str = "somebody") -> Job:
    fields = {"id": url, "type": "lr", "queue": QUEUE, "status": "succeeded", "ticket": 1, "created_at": 0}
    return Job.model_validate({**fields, "client": client, "webhook": url})


def test_a_lane_is_a_clients_host() -> None:
    lanes = Lanes()
    one = job_for("http://me:secret@A.example/hook")
    assert [lanes.enter(one) for _ in range(PER_RECEIVER)] == [0.0] * PER_RECEIVER
    assert lanes.enter(job_for("http://a.example/other")) > 0, (
        "it is the same host, whatever its path and login"
    )
    for other in ("http://b.example/", "http://a.example:8080/"):
        assert lanes.enter(job_for(other)) == 0.0
    assert lanes.enter(job_for("http://a.example/", "another client")) == 0.0
    lanes.leave(one, answered=True)
    assert lanes.enter(one) == 0.0


def test_a_host_that_does_not_answer_rests_for_its_client_only() -> None:
    lanes, dead = Lanes(), job_for("http://a.example/")
    for failures in range(1, 4):
        lanes._lanes[_lane_of(dead)] = Lane(failures=failures - 1)
        assert lanes.enter(dead) == 0.0
        lanes.leave(dead, answered=False)
        rest = lanes.enter(dead)
        assert 2**failures - 1 < rest <= 2**failures + 1, "its rest doubles"
    assert lanes.enter(job_for("http://a.example/", "another client")) == 0.0, "its own lane"
    assert lanes.enter(job_for("http://b.example/")) == 0.0


def test_a_client_has_at_most_its_share_of_the_slots() -> None:
    lanes = Lanes()
    for number in range(PER_CLIENT):
        assert lanes.enter(job_for(f"http://{number}.example/", "greedy")) == 0.0
    assert lanes.enter(job_for("http://new.example/", "greedy")) > 0
    for number in range(SLOTS - PER_CLIENT):
        assert lanes.enter(job_for(f"http://{number}.example/", f"client {number}")) == 0.0
    assert lanes.enter(job_for("http://new.example/", "one more")) > 0, "all slots are taken"
    lanes.leave(job_for("http://0.example/", "greedy"), answered=True)
    assert lanes.enter(job_for("http://new.example/", "one more")) == 0.0


def test_how_late_webhooks_are(jobs: Jobs, enqueue: Callable[..., None]) -> None:
    outbox = Outbox(jobs.redis)
    for name in ("due", "again"):
        enqueue(name, "http://127.0.0.1/")
        jobs.cancel(name)
    now, entries = outbox.take(10, 60)
    assert outbox.counts().late == 0.0, "nobody waits for a sender"
    outbox.postpone({entries[0]: now - 90_000, entries[1]: now + 90_000})
    assert 90 <= outbox.counts().late < 100


def test_a_sender_that_dies_leaves_its_webhooks_to_others(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url())
    run_next(jobs)
    outbox = Outbox(jobs.redis)
    now, entries = outbox.take(10, 0.2)  # and is killed
    assert [one.job_id for one in entries] == ["a"] and abs(now / 1000 - time.time()) < 60
    assert outbox.take(10, 60)[1] == []
    with running(loop().run):
        assert settled(jobs, "a") == ["delivered"]
    outbox.delivered(entries[0])  # too late
    assert outbox.counts() == (0, 1, 0, 0)


def test_jobs_without_records_and_entries_that_are_none(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url(), "start,completed")
    run_next(jobs)
    jobs.redis.delete(job_key("a"))
    jobs.redis.zadd(WEBHOOKS_KEY, {"noise": 0, "other:a:1:1:1": 0})
    with running(loop().run):
        settled(jobs)
    assert receiver.received == [] and Outbox(jobs.redis).counts() == (0, 0, 1, 0)
    with pytest.raises(UnknownJobError):  # no record was made
        jobs.get("a")


def test_an_outbox_without_memory_can_be_emptied(
    jobs: Jobs, loop: Callable[..., WebhookLoop], enqueue: Callable[..., None], receiver: Receiver
) -> None:
    enqueue("a", receiver.url())
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    jobs.redis.config_set("maxmemory", 1)
    try:
        assert jobs.succeed(job, "me", "a.png")
        with running(loop().run):
            assert settled(jobs, "a") == ["delivered"]
    finally:
        jobs.redis.config_set("maxmemory", 0)
    assert len(receiver.received) == 1


def test_entries() -> None:
    entry = Entry.parse("completed:a:7:2:1795409109927")
    assert (
        entry == Entry("completed", "a", 7, 2, 1795409109927)
        and str(entry) == "completed:a:7:2:1795409109927"
    )
    assert entry.next_attempt().attempts == 3


def test_a_stopped_loop_ends_at_once(jobs: Jobs, loop: Callable[..., WebhookLoop]) -> None:
    stop = threading.Event()
    stop.set()
    loop().run(stop)
