"""How many servers a load needs, and how their number follows it."""

from __future__ import annotations

import pytest

from mead.fleet.scaling import QueueLoad, ScalingPolicy, servers_needed, servers_wanted

POLICY = ScalingPolicy(minimum=1, maximum=8, drain_seconds=60, quiet_seconds=300)
MEASURED = {"capacity": 4, "steps_per_job": 100.0, "steps_per_second": 10.0}  # 10 seconds a job


@pytest.mark.parametrize(
    ("loads", "needed"),
    [
        ([], 1),
        ([QueueLoad()], 1),
        ([QueueLoad(waiting=100, capacity=4)], 8),  # the speed is unknown: a server for each batch
        ([QueueLoad(waiting=9, running=4, capacity=4)], 4),
        ([QueueLoad(waiting=9, capacity=4), QueueLoad(waiting=1, capacity=2)], 3),
        ([QueueLoad(waiting=1, **MEASURED)], 1),
        ([QueueLoad(waiting=6, **MEASURED)], 1),  # 60 seconds of work in 60 seconds
        ([QueueLoad(waiting=7, **MEASURED)], 2),
        ([QueueLoad(waiting=24, **MEASURED)], 4),
        ([QueueLoad(waiting=1000, **MEASURED)], 8),
        ([QueueLoad(arrivals=0.4, running=8, **MEASURED)], 5),  # 4 seconds of work a second, at 80 %
        ([QueueLoad(arrivals=0.4, running=2, **MEASURED)], 2),  # servers without a job would be idle
        ([QueueLoad(arrivals=0.4, waiting=6, running=8, **MEASURED)], 6),
        ([QueueLoad(running=12, **MEASURED)], 3),  # never fewer than the jobs that run need
        ([QueueLoad(waiting=3, **MEASURED), QueueLoad(waiting=3, **MEASURED)], 1),
    ],
)
def test_servers_needed(loads: list[QueueLoad], needed: int) -> None:
    assert servers_needed(loads, POLICY) == needed


def test_limits() -> None:
    busy = [QueueLoad(waiting=1000, **MEASURED)]
    assert servers_needed(busy, ScalingPolicy(1, 3)) == 3
    assert servers_needed([], ScalingPolicy(2, 3)) == 2


def test_a_shorter_time_needs_more_servers() -> None:
    load = [QueueLoad(waiting=24, **MEASURED)]
    assert servers_needed(load, ScalingPolicy(drain_seconds=240)) == 1
    assert servers_needed(load, ScalingPolicy(drain_seconds=40)) == 6


@pytest.mark.parametrize(
    ("history", "current", "wanted"),
    [
        ([(0, 1)], 0, 1),  # the first look
        ([(0, 4)], 1, 4),  # more at once
        ([(0, 1), (400, 4)], 2, 4),
        ([(0, 1)], 4, 4),  # fewer only after a quiet time
        ([(0, 1), (299, 1)], 4, 4),
        ([(0, 1), (300, 1)], 4, 1),
        ([(0, 4), (1, 1), (301, 1)], 4, 1),
        ([(0, 4), (1, 1), (299, 1)], 4, 4),
        ([(0, 1), (200, 3), (400, 1)], 4, 3),  # as many as the busiest moment of that time needed
        ([(0, 1), (200, 6), (400, 1)], 4, 4),  # but no more
        ([(0, 8), (400, 8)], 12, 8),  # a lower maximum
    ],
)
def test_servers_wanted(history: list[tuple[float, int]], current: int, wanted: int) -> None:
    assert servers_wanted(history, current, POLICY) == wanted


@pytest.mark.parametrize(
    "limits", [{"minimum": 0}, {"minimum": 9}, {"drain_seconds": 0}, {"quiet_seconds": -1}]
)
def test_wrong_limits(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"min=|seconds"):
        ScalingPolicy(**limits)
