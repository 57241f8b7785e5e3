"""What Prometheus reads, and why the service is not ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.http import services
from mead.http.app import create_app
from mead.queue.heartbeats import EngineLoad
from mead.queue.jobs import Jobs
from tests.conftest import RedisServer

QUEUES = ("latentrevisions_queue", "styleclip_queue")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def door(settings: Settings) -> FlaskClient:
    """A client of the API."""
    return create_app(settings).test_client()


def samples(door: FlaskClient) -> Callable[..., float | None]:
    """What /metrics says now, checked by Prometheus's own parser: a function of a name and its labels."""
    answer = door.get("/metrics")
    assert answer.status_code == 200 and answer.content_type.startswith("text/plain")
    found: Samples = {}
    for family in parse(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return lambda name, **labels: found.get((name, tuple(sorted(labels.items()))))


def make(jobs: Jobs, job_id: str, kind: str = "lr", queue: str = "latentrevisions_queue") -> None:
    """Queue a job."""
    jobs.enqueue(job_id, kind, queue, {"prompt": "a house"})


def test_an_idle_service(door: FlaskClient, settings: Settings) -> None:
    value = samples(door)
    assert value("mead_redis_up") == 1
    for queue in QUEUES:
        assert value("mead_queue_length", queue=queue) == 0
        assert value("mead_workers", queue=queue) == 0
    resident = value("process_resident_memory_bytes", pid=str(os.getpid()))
    assert resident is not None and 10e6 < resident < 10e9
    free = value("mead_disk_free_bytes")
    assert free is not None and free > 0


def test_jobs_by_type_and_end(door: FlaskClient, jobs: Jobs) -> None:
    for number in range(5):
        make(jobs, f"a{number}")
    make(jobs, "b", "sc", "styleclip_queue")
    jobs.cancel("a4")
    one, two = (jobs.claim("latentrevisions_queue", "worker") for _ in range(2))
    assert one is not None and two is not None
    jobs.succeed(one, "worker", "/nowhere.png")
    jobs.fail(two, "worker", "no", "internal")

    value = samples(door)
    assert value("mead_jobs_accepted_total", type="lr") == 5
    assert value("mead_jobs_accepted_total", type="sc") == 1
    for status in ("succeeded", "failed", "cancelled"):
        assert value("mead_jobs_ended_total", type="lr", status=status) == 1
        assert value("mead_jobs_ended_total", type="sc", status=status) == 0
    assert value("mead_jobs_failed_total", type="lr", fault="internal") == 1
    assert value("mead_jobs_failed_total", type="lr", fault="input") == 0
    assert value("mead_queue_length", queue="latentrevisions_queue") == 2
    assert value("mead_queue_length", queue="styleclip_queue") == 1
    assert value("mead_job_wait_seconds_count", type="lr") == 2
    assert value("mead_job_run_seconds_count", type="lr") == 2
    assert value("mead_job_run_seconds_bucket", type="lr", le="+Inf") == 2


def test_histograms_add_up(door: FlaskClient, jobs: Jobs) -> None:
    make(jobs, "a")
    make(jobs, "b")
    first = jobs.claim("latentrevisions_queue", "worker")
    assert first is not None
    time.sleep(0.05)  # so that it ran for a while, however long
    jobs.succeed(first, "worker", "/nowhere.png")
    families = {family.name: family for family in parse(door.get("/metrics").text)}
    run = families["mead_job_run_seconds"]
    assert run.type == families["mead_job_wait_seconds"].type == "histogram"
    buckets = [sample for sample in run.samples if sample.name.endswith("_bucket")]
    assert [float(sample.labels["le"]) for sample in buckets] == sorted(
        float(s.labels["le"]) for s in buckets
    )
    counts = [sample.value for sample in buckets]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 1
    (total,) = [sample.value for sample in run.samples if sample.name.endswith("_sum")]
    assert total >= 0.05


def test_what_workers_say(door: FlaskClient, jobs: Jobs) -> None:
    load = EngineLoad(running=3, capacity=4, steps_per_second=17.5)
    jobs.heartbeat(
        "first",
        {"latentrevisions_queue": load, "styleclip_queue": EngineLoad(capacity=2)},
        600,
        memory_bytes=10**9,
    )
    jobs.heartbeat("second", {"latentrevisions_queue": EngineLoad(capacity=8)}, 600)
    value = samples(door)
    assert value("mead_workers", queue="latentrevisions_queue") == 2
    assert value("mead_workers", queue="styleclip_queue") == 1
    assert value("mead_worker_memory_bytes", worker="first") == 10**9
    of_first: dict[str, Any] = {"worker": "first", "queue": "latentrevisions_queue"}
    assert value("mead_batch_occupancy", **of_first) == 3
    assert value("mead_batch_capacity", **of_first) == 4
    assert value("mead_steps_per_second", **of_first) == 17.5
    assert value("mead_batch_capacity", worker="second", queue="latentrevisions_queue") == 8
    jobs.deregister("second", ["latentrevisions_queue"])
    assert samples(door)("mead_workers", queue="latentrevisions_queue") == 1


def test_openmetrics_for_those_who_ask(door: FlaskClient, jobs: Jobs) -> None:
    make(jobs, "a")
    answer = door.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert {"mead_jobs_accepted", "mead_queue_length"} <= {one.name for one in parse_openmetrics(answer.text)}


# Not ready


def test_ready(door: FlaskClient, jobs: Jobs) -> None:
    not_yet = door.get("/readyz")
    assert not_yet.status_code == 503 and int(not_yet.headers["Retry-After"]) > 0
    for queue in QUEUES:
        assert f"no live worker serves {queue}" in not_yet.get_json()["message"]
    jobs.heartbeat("worker", QUEUES[:1], 600)
    message = door.get("/readyz").get_json()["message"]
    assert QUEUES[1] in message and QUEUES[0] not in message
    jobs.heartbeat("worker", QUEUES, 600)
    assert door.get("/readyz").status_code == 200


def test_a_disk_that_is_nearly_full(settings: Settings, jobs: Jobs) -> None:
    jobs.heartbeat("worker", QUEUES, 600)
    free = FolderStorage(settings.data_dir).free_bytes()
    greedy = settings.model_copy(update={"min_free_disk_bytes": 100 * free})
    door = create_app(greedy).test_client()
    answer = door.get("/readyz")
    assert answer.status_code == 503 and "MB free" in answer.get_json()["message"]
    refused = door.post("/latent_revision", data={"prompt": "a house"}, headers={"Prefer": "respond-async"})
    assert refused.status_code == 503 and jobs.queue_length(QUEUES[0]) == 0
    assert "disk" in refused.get_json()["message"]


def test_a_folder_that_cannot_be_written(settings: Settings, jobs: Jobs) -> None:
    jobs.heartbeat("worker", QUEUES, 600)
    settings.data_dir.parent.mkdir(parents=True, exist_ok=True)
    settings.data_dir.write_text("a file where the folder should be")
    answer = create_app(settings).test_client().get("/readyz")
    assert answer.status_code == 503
    message = answer.get_json()["message"]
    assert "results cannot be stored" in message and os.sep not in message


def test_redis_is_away(mortal_redis: RedisServer, settings: Settings) -> None:
    door = create_app(settings.model_copy(update={"redis_url": mortal_redis.url})).test_client()
    mortal_redis.stop()
    answer = door.get("/readyz")
    assert answer.status_code == 503
    message = answer.get_json()["message"]
    assert "Redis is away" in message and str(mortal_redis.port) not in message
    value = samples(door)
    assert value("mead_redis_up") == 0 and value("process_resident_memory_bytes", pid=str(os.getpid()))
    mortal_redis.start()
    assert samples(door)("mead_redis_up") == 1


def test_a_queue_that_is_no_list(door: FlaskClient, jobs: Jobs) -> None:
    jobs.heartbeat("me", QUEUES, 60, weights="demo")
    jobs.redis.set(QUEUES[1], "text")
    answer = door.get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["message"] == f"the key {QUEUES[1]} in Redis is not a list, but a string"


@pytest.mark.slow
def test_a_redis_that_hangs(
    mortal_redis: RedisServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alive and says nothing: clients are told before they give up."""
    monkeypatch.setattr(services, "REDIS_TIMEOUT", 1.0)
    door = create_app(settings.model_copy(update={"redis_url": mortal_redis.url})).test_client()
    mortal_redis.process.send_signal(signal.SIGSTOP)
    try:
        for path in ("/readyz", "/jobs/none"):
            answer = door.get(path)
            assert answer.status_code == 503 and "Redis is away" in answer.get_json()["message"]
        assert "mead_redis_up 0.0" in door.get("/metrics").text
    finally:
        mortal_redis.process.send_signal(signal.SIGCONT)


def test_weights_must_be_those_of_the_workers(door: FlaskClient, jobs: Jobs) -> None:
    jobs.heartbeat("me", QUEUES, 60, weights="full")
    answer = door.get("/readyz")
    assert answer.status_code == 503
    for queue in QUEUES:
        assert (
            f"the live worker of {queue} has the weights 'full', not 'demo'" in answer.get_json()["message"]
        )
    assert door.post("/latent_revision", data={"prompt": "a house"}).status_code == 503
    jobs.heartbeat("me", QUEUES, 60, weights="demo")
    assert door.get("/readyz").get_json() == {"status": "success"}
