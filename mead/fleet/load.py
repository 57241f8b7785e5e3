"""Measuring the load of a fleet in Redis."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from mead.fleet.scaling import QueueLoad
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key, processing_key
from mead.registry import MODELS
from mead.settings import Settings

ARRIVALS_SECONDS = 60.0  # over which the arrival rate is measured
WEIGHT = 0.3  # of the newest value in a moving average


@dataclass(frozen=True)
class FleetLoad:
    """What a fleet has to do and what it does.

    Attributes:
        queues: by the queue's name.
        workers: the heartbeats of live workers, by name.
        held: number of jobs that each live worker holds now.
    """

    queues: Mapping[str, QueueLoad]
    workers: Mapping[str, Heartbeat]
    held: Mapping[str, int]


class LoadObserver:
    """Measures the load at regular intervals; arrival rates and speeds are averages over several calls."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self.jobs = jobs
        self.queues = {settings.queue(spec): spec.type for spec in MODELS.values()}
        self.capacities = {settings.queue(spec): settings.threads(spec) for spec in MODELS.values()}
        self._accepted: deque[tuple[float, dict[str, int]]] = deque()  # by type of job
        self._steps_per_job: dict[str, float] = {}
        self._steps_per_second: dict[str, float] = {}

    def observe(self) -> FleetLoad:
        """The load now.

        Raises:
            redis.RedisError: Redis is not reachable or refuses a command.
        """
        workers = self.jobs.workers()
        held = self._held(workers)
        self._measure(workers, held)
        queues = {}
        for queue, kind in self.queues.items():
            loads = [beat.queues[queue] for beat in workers.values() if queue in beat.queues]
            queues[queue] = QueueLoad(
                waiting=self.jobs.queue_length(queue),
                running=sum(len(ids) for (_, of), ids in held.items() if of == queue),
                arrivals=self._arrivals(kind),
                capacity=max((load.capacity for load in loads), default=0) or self.capacities[queue],
                steps_per_job=self._steps_per_job.get(queue),
                steps_per_second=self._steps_per_second.get(queue),
            )
        by_worker = {
            name: sum(len(ids) for (holder, _), ids in held.items() if holder == name) for name in workers
        }
        return FleetLoad(queues, workers, by_worker)

    def _held(self, workers: Iterable[str]) -> dict[tuple[str, str], list[str]]:
        """The ids of the jobs that workers hold, by worker and queue (LRANGE of each, in one round trip)."""
        pairs = [(worker, queue) for worker in workers for queue in self.queues]
        with self.jobs.redis.pipeline(transaction=False) as pipe:
            for worker, queue in pairs:
                pipe.lrange(processing_key(queue, worker), 0, -1)
            return dict(zip(pairs, pipe.execute() if pairs else [], strict=True))

    def _measure(self, workers: Mapping[str, Heartbeat], held: Mapping[tuple[str, str], list[str]]) -> None:
        """Take the jobs and speeds of this moment into the averages (HGET of each job's steps)."""
        now = time.monotonic()
        counted = self.jobs.statistics()
        self._accepted.append((now, {kind: one.accepted for kind, one in counted.items()}))
        while len(self._accepted) > 2 and self._accepted[1][0] <= now - ARRIVALS_SECONDS:
            self._accepted.popleft()
        for queue in self.queues:
            ids = [job_id for (_, of), held_ids in held.items() if of == queue for job_id in held_ids]
            with self.jobs.redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hget(job_key(job_id), "total_steps")
                totals = [int(total) for total in (pipe.execute() if ids else []) if total]
            if totals:
                _average(self._steps_per_job, queue, fmean(totals))
            speeds = [
                beat.queues[queue].steps_per_second
                for beat in workers.values()
                if queue in beat.queues and beat.queues[queue].running
            ]
            if fastest := max(speeds, default=0.0):  # others were not busy all the time
                _average(self._steps_per_second, queue, fastest)

    def _arrivals(self, kind: str) -> float:
        """Jobs of a type accepted per second, over the last ARRIVALS_SECONDS."""
        (then, before), (now, counted) = self._accepted[0], self._accepted[-1]
        accepted = counted.get(kind, 0) - before.get(kind, 0)
        return max(0.0, accepted / max(now - then, ARRIVALS_SECONDS / 4))


def _average(averages: dict[str, float], name: str, value: float) -> None:
    averages[name] = value + (1 - WEIGHT) * (averages.get(name, value) - value)
