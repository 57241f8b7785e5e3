"""Reading the hash `statistics`, in which the Lua scripts count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mead.queue.job import ENDED

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Upper bounds of the histograms of wait and run times, in seconds; a last bucket has none."""


@dataclass(frozen=True)
class Histogram:
    """A histogram as in Prometheus.

    Attributes:
        buckets: how many times were at most so long, by the bound in seconds; the last bound is infinite.
        sum: of all times, in seconds.
    """

    buckets: Mapping[float, int]
    sum: float

    @property
    def count(self) -> int:
        return self.buckets[math.inf]


@dataclass(frozen=True)
class KindStatistics:
    """Counts of one type of job, since Redis was empty."""

    accepted: int
    ended: Mapping[str, int]  # by status
    failed: Mapping[str, int]  # by what was at fault, the "input" or the service ("internal")
    recovered: int  # times a job was requeued because its worker had died
    wait: Histogram  # from joining the queue to a worker, first attempts
    run: Histogram  # from a worker to the end, last attempts


Statistics: TypeAlias = Mapping[str, KindStatistics]
"""By type of job."""


def read_statistics(counted: Mapping[str, str]) -> Statistics:
    """The statistics in the fields of the hash (see `mead.queue.keys.STATISTICS_KEY`)."""

    def number(kind: str, what: str) -> int:
        return int(counted.get(f"{kind}:{what}", 0))

    def histogram(kind: str, what: str) -> Histogram:
        buckets, total = {}, 0
        for bound in (*BUCKETS, math.inf):
            total += number(kind, f"{what}:{bound}")
            buckets[bound] = total
        return Histogram(buckets, float(counted.get(f"{kind}:{what}:sum", 0)))

    kinds = sorted({name.split(":")[0] for name in counted})
    return {
        kind: KindStatistics(
            accepted=number(kind, "accepted"),
            ended={status: number(kind, status) for status in sorted(ENDED)},
            failed={fault: number(kind, f"failed:{fault}") for fault in ("input", "internal")},
            recovered=number(kind, "recovered"),
            wait=histogram(kind, "wait"),
            run=histogram(kind, "run"),
        )
        for kind in kinds
    }
