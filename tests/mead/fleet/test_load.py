"""The load that is measured in Redis."""

from __future__ import annotations

import pytest

from caching_config import Settings
from mead.fleet.load import LoadObserver
from mead.queue.heartbeats import EngineLoad
from mead.queue.jobs import Jobs
from tests.colours import QUEUE
from tests.conftest import report


@pytest.fixture
def observer(settings: Settings, jobs: Jobs) -> LoadObserver:
    """An observer that has seen the empty queues."""
    observer = LoadObserver(settings, jobs)
    observer.observe()
    return observer


def beat(jobs: Jobs, worker: str, running: int, speed: float) -> None:
    """Send a heartbeat of a worker that runs up to four jobs."""
    load = EngineLoad(running=running, capacity=4, steps_per_second=speed)
    jobs.heartbeat(worker, {QUEUE: load}, 60)


def test_jobs_are_counted_where_they_are(observer: LoadObserver, jobs: Jobs) -> None:
    for number in range(6):
        jobs.enqueue(f"{number:032}", "lr", QUEUE, {"prompt": "red"})
    beat(jobs, "one", 0, 0.0)
    beat(jobs, "two", 0, 0.0)
    for worker in ("one", "one", "two"):
        jobs.claim(QUEUE, worker)
    load = observer.observe()
    queue = load.queues[QUEUE]
    assert (queue.waiting, queue.running, queue.capacity) == (3, 3, 4)
    assert load.held == {"one": 2, "two": 1} and load.workers.keys() == {"one", "two"}
    assert 0 < queue.arrivals <= 6
    assert queue.seconds_per_job is None  # no step has been reported
    assert {one.waiting + one.running for name, one in load.queues.items() if name != QUEUE} == {0}


def test_what_a_job_takes_is_remembered(observer: LoadObserver, jobs: Jobs) -> None:
    jobs.enqueue(f"{1:032}", "lr", QUEUE, {"prompt": "red"})
    beat(jobs, "one", 1, 12.0)
    beat(jobs, "idle", 0, 0.0)
    job = jobs.claim(QUEUE, "one")
    assert job is not None
    report(jobs, job, 1, 60)
    assert observer.observe().queues[QUEUE].seconds_per_job == pytest.approx(5.0)
    jobs.succeed(job, "one", "picture.png")
    beat(jobs, "one", 0, 0.0)
    assert observer.observe().queues[QUEUE].seconds_per_job == pytest.approx(5.0)


def test_other_jobs_change_the_average_slowly(observer: LoadObserver, jobs: Jobs) -> None:
    for number, steps in enumerate((100, 100, 400)):
        jobs.enqueue(f"{number:032}", "lr", QUEUE, {"prompt": "red"})
        job = jobs.claim(QUEUE, "one")
        assert job is not None
        beat(jobs, "one", 1, 10.0)
        report(jobs, job, 1, steps)
        load = observer.observe().queues[QUEUE]
        jobs.succeed(job, "one", "picture.png")
    assert load.steps_per_job == pytest.approx(190.0)
