"""Prometheus collectors for the service and the server's processes.

All values are read on request from Redis, the disk and the system. No process keeps counts of its own, so
every process reports the same numbers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis
from flask import request
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mead.log import reason
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.outbox import Outbox, OutboxCounts
from mead.queue.statistics import Histogram, Statistics
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)


class ServiceCollector(Collector):
    """Metrics of the queue, the workers and the disk."""

    def __init__(self, settings: Settings, jobs: Jobs, storage: Storage) -> None:
        self.settings = settings
        self.jobs = jobs
        self.storage = storage
        self.outbox = Outbox(jobs.redis)

    def collect(self) -> Iterator[Metric]:
        """The current metrics; without those from Redis if it is unavailable."""
        try:
            statistics = self.jobs.statistics()
            lengths = {queue: self.jobs.queue_length(queue) for queue in self.settings.queues}
            workers = self.jobs.workers()
            records, size = self.jobs.kept()
            webhooks = self.outbox.counts()
        except redis.RedisError as error:
            log.warning("metrics without Redis", extra={"error": reason(error)})
            yield _gauge("mead_redis_up", "Whether Redis answers.", {(): 0})
        else:
            yield _gauge("mead_redis_up", "Whether Redis answers.", {(): 1})
            yield from _job_metrics(statistics)
            yield _gauge(
                "mead_queue_length", "Queued jobs.", {(q,): n for q, n in lengths.items()}, ["queue"]
            )
            yield from _worker_metrics(workers, lengths)
            yield _gauge("mead_kept_jobs", "Jobs whose records are kept.", {(): records})
            yield _gauge("mead_kept_bytes", "Size of their files.", {(): size})
            yield from _webhook_metrics(webhooks)
        try:
            free = self.storage.free_bytes()
        except OSError as error:
            log.warning("metrics without the disk", extra={"error": reason(error)})
        else:
            if free is not None:
                yield _gauge("mead_disk_free_bytes", "Free space for uploads and results.", {(): free})

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask Redis."""
        return iter(())


class ServerCollector(Collector):
    """The usual metrics of a process (memory, CPU time, open files), for each process of this server."""

    def collect(self) -> Iterator[Metric]:
        """The metrics, each with the label `pid`."""
        metrics: dict[str, Metric] = {}
        for pid in self.processes():
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                merged = metrics.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    merged.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from metrics.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing, since the processes are only known during a request."""
        return iter(())

    def processes(self) -> list[int]:
        """The ids of this process and, under gunicorn, of its siblings."""
        if not request.environ["wsgi.multiprocess"]:
            return [os.getpid()]
        master = os.getppid()
        try:
            return sorted(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))
        except OSError:  # not Linux
            return [os.getpid()]


def _job_metrics(statistics: Statistics) -> Iterator[Metric]:
    accepted = CounterMetricFamily("mead_jobs_accepted", "Jobs accepted.", labels=["type"])
    ended = CounterMetricFamily(
        "mead_jobs_ended", "Jobs that have ended, by status.", labels=["type", "status"]
    )
    failed = CounterMetricFamily(
        "mead_jobs_failed", "Jobs that have failed, by what was at fault.", labels=["type", "fault"]
    )
    recovered = CounterMetricFamily(
        "mead_jobs_recovered", "Times a job was requeued because its worker had died.", labels=["type"]
    )
    wait = HistogramMetricFamily(
        "mead_job_wait_seconds", "Time in the queue, first attempts only.", labels=["type"]
    )
    run = HistogramMetricFamily(
        "mead_job_run_seconds", "Time from start to end, last attempts only.", labels=["type"]
    )
    for kind, counted in statistics.items():
        accepted.add_metric([kind], counted.accepted)
        for status, number in counted.ended.items():
            ended.add_metric([kind, status], number)
        for fault, number in counted.failed.items():
            failed.add_metric([kind, fault], number)
        recovered.add_metric([kind], counted.recovered)
        wait.add_metric([kind], _buckets(counted.wait), counted.wait.sum)
        run.add_metric([kind], _buckets(counted.run), counted.run.sum)
    yield from (accepted, ended, failed, recovered, wait, run)


def _webhook_metrics(counts: OutboxCounts) -> Iterator[Metric]:
    sent = CounterMetricFamily("mead_webhooks", "Webhooks delivered or given up.", labels=["outcome"])
    sent.add_metric(["delivered"], counts.delivered)
    sent.add_metric(["failed"], counts.failed)
    yield sent
    yield _gauge("mead_webhooks_waiting", "Webhooks that are to be sent.", {(): counts.waiting})
    yield _gauge("mead_webhooks_late_seconds", "How long the first one that is due waits.", {(): counts.late})


def _worker_metrics(workers: Mapping[str, Heartbeat], queues: Iterable[str]) -> Iterator[Metric]:
    alive = {(queue,): sum(queue in beat.queues for beat in workers.values()) for queue in queues}
    yield _gauge("mead_workers", "Live workers of a queue.", alive, ["queue"])
    memory = {(name,): beat.memory_bytes for name, beat in workers.items()}
    yield _gauge("mead_worker_memory_bytes", "Resident memory of a worker's process.", memory, ["worker"])
    loads = {(name, queue): load for name, beat in workers.items() for queue, load in beat.queues.items()}
    for metric, about, attribute in (
        ("mead_batch_occupancy", "Jobs that a worker runs in a batch now.", "running"),
        ("mead_batch_capacity", "Jobs that a worker can run in a batch.", "capacity"),
        ("mead_steps_per_second", "Optimisation steps per second, of all its jobs.", "steps_per_second"),
    ):
        values = {labels: getattr(load, attribute) for labels, load in loads.items()}
        yield _gauge(metric, about, values, ["worker", "queue"])


def _gauge(
    name: str, about: str, values: Mapping[Any, float], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """A gauge with a value for each tuple of label values."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [(floatToGoString(bound), number) for bound, number in histogram.buckets.items()]
