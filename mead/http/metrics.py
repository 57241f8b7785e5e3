"""Seeing inside: what Prometheus reads at /metrics.

Everything is read at the moment of asking: from Redis, from the disk, and from the system for each of the
server's processes. None of them counts on its own, so that the numbers are the same whichever is asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mead.http.openapi import Description, describe
from mead.log import reason
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.statistics import Histogram, Statistics
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)


def blueprint(settings: Settings, jobs: Jobs, storage: Storage) -> Blueprint:
    """GET /metrics."""
    routes = Blueprint("metrics", __name__)
    registry = CollectorRegistry()
    registry.register(ServiceCollector(settings, jobs, storage))
    registry.register(ServerCollector())

    @routes.get("/metrics")
    @describe(Description({200: ["text/plain", "application/openmetrics-text"]}))
    def metrics() -> Response:
        """What Prometheus reads."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    return routes


class ServiceCollector(Collector):
    """What Redis and the disk say, as Prometheus's metrics."""

    def __init__(self, settings: Settings, jobs: Jobs, storage: Storage) -> None:
        self.settings = settings
        self.jobs = jobs
        self.storage = storage

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now; without those of Redis when it is away."""
        try:
            statistics = self.jobs.statistics()
            lengths = {queue: self.jobs.queue_length(queue) for queue in self.settings.queues}
            workers = self.jobs.workers()
            records, size = self.jobs.kept()
        except redis.RedisError as error:
            log.warning("metrics without Redis", extra={"error": reason(error)})
            yield _gauge("mead_redis_up", "Whether Redis answers.", {(): 0})
        else:
            yield _gauge("mead_redis_up", "Whether Redis answers.", {(): 1})
            yield from _of_jobs(statistics)
            yield _gauge(
                "mead_queue_length", "Jobs that wait.", {(q,): n for q, n in lengths.items()}, ["queue"]
            )
            yield from _of_workers(workers, lengths)
            yield _gauge("mead_kept_jobs", "Jobs whose records are kept.", {(): records})
            yield _gauge("mead_kept_bytes", "Size of the files that are kept of them.", {(): size})
        try:
            free = self.storage.free_bytes()
        except OSError as error:
            log.warning("metrics without the disk", extra={"error": reason(error)})
        else:
            yield _gauge("mead_disk_free_bytes", "Free space for uploads and results.", {(): free})

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not ask Redis."""
        return iter(())


class ServerCollector(Collector):
    """What Prometheus's clients tell of their process (memory, processor time, open files), for each of the
    processes that answer here.
    """

    def collect(self) -> Iterator[Metric]:
        """The usual metrics, each with a label for the process."""
        metrics: dict[str, Metric] = {}
        for pid in self.processes():
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                of_all = metrics.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    of_all.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from metrics.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the processes are known as they are asked."""
        return iter(())

    def processes(self) -> list[int]:
        """This process, and those beside it if gunicorn runs several."""
        if not request.environ["wsgi.multiprocess"]:
            return [os.getpid()]
        master = os.getppid()
        try:
            return sorted(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))
        except OSError:  # not a Linux
            return [os.getpid()]


def _of_jobs(statistics: Statistics) -> Iterator[Metric]:
    accepted = CounterMetricFamily("mead_jobs_accepted", "Jobs ever queued.", labels=["type"])
    ended = CounterMetricFamily("mead_jobs_ended", "Jobs that ended, by how.", labels=["type", "status"])
    recovered = CounterMetricFamily(
        "mead_jobs_recovered", "Times a job was put back because its worker had died.", labels=["type"]
    )
    wait = HistogramMetricFamily(
        "mead_job_wait_seconds", "From joining the queue to a worker, first attempts.", labels=["type"]
    )
    run = HistogramMetricFamily(
        "mead_job_run_seconds", "From a worker to the end, last attempts.", labels=["type"]
    )
    for kind, counted in statistics.items():
        accepted.add_metric([kind], counted.accepted)
        for status, number in counted.ended.items():
            ended.add_metric([kind, status], number)
        recovered.add_metric([kind], counted.recovered)
        wait.add_metric([kind], _buckets(counted.wait), counted.wait.sum)
        run.add_metric([kind], _buckets(counted.run), counted.run.sum)
    yield from (accepted, ended, recovered, wait, run)


def _of_workers(workers: Mapping[str, Heartbeat], queues: Iterable[str]) -> Iterator[Metric]:
    alive = {(queue,): sum(queue in beat.queues for beat in workers.values()) for queue in queues}
    yield _gauge("mead_workers", "Live workers that serve a queue.", alive, ["queue"])
    memory = {(name,): beat.memory_bytes for name, beat in workers.items()}
    yield _gauge("mead_worker_memory_bytes", "Resident memory of a worker's process.", memory, ["worker"])
    loads = {(name, queue): load for name, beat in workers.items() for queue, load in beat.queues.items()}
    for metric, about, attribute in (
        ("mead_batch_occupancy", "Jobs that a worker runs together now.", "running"),
        ("mead_batch_capacity", "Jobs that a worker would run together at most.", "capacity"),
        ("mead_steps_per_second", "Optimisation steps of all its jobs together.", "steps_per_second"),
    ):
        values = {labels: getattr(load, attribute) for labels, load in loads.items()}
        yield _gauge(metric, about, values, ["worker", "queue"])


def _gauge(
    name: str, about: str, values: Mapping[Any, float], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """A gauge with a value for each tuple of labels."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [(floatToGoString(bound), number) for bound, number in histogram.buckets.items()]
