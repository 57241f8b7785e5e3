"""Steps on all threads or on one, by a clock of the test."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence

import pytest

from mead.nn.paces import SIZES, Paces

ALONE = (0.048, 0.065)  # seconds of a step on all threads, on one
BESIDE_ANOTHER = (0.24, 0.07)


class Machine:
    """Takes steps in the time that they take on a machine, and knows how.

    Attributes:
        seconds: of a step on all threads, on one.
        ways: of the steps so far: whether on one thread.
    """

    def __init__(self, seconds: tuple[float, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.ways: list[bool] = []
        self.paces = Paces(lambda: self.now)

    def take(self, steps: int, size: Hashable = 0) -> Sequence[bool]:
        """Take so many steps; whether each was on one thread."""
        for _ in range(steps):
            self.paces.take(self._step, size)
        return self.ways[-steps:]

    def _step(self, one: bool) -> None:
        self.ways.append(one)
        self.now += self.seconds[one]


@pytest.mark.parametrize(("seconds", "one"), [(ALONE, False), (BESIDE_ANOTHER, True)])
def test_both_are_tried_then_the_faster_one_is_taken(seconds: tuple[float, float], one: bool) -> None:
    machine = Machine(seconds)
    assert machine.take(4)[:3] == [False, True, False]
    assert machine.take(10) == [one] * 10


@pytest.mark.parametrize("on_one", [0.049, 0.065, 0.2, 0.9])
def test_tries_cost_little_on_idle_cores(on_one: float) -> None:
    machine = Machine((0.048, on_one))
    machine.take(4)
    began = machine.now
    ways = machine.take(2000)
    assert sum(ways) >= 2
    assert machine.now - began <= 1.021 * 2000 * 0.048


def test_long_steps_stay_on_all_threads() -> None:
    machine = Machine((1.1, 1.6))
    assert not any(machine.take(200))


def test_other_processes_begin_and_end() -> None:
    machine = Machine(ALONE)
    machine.take(200)
    machine.seconds = BESIDE_ANOTHER
    assert sum(machine.take(10)) >= 7
    assert sum(machine.take(200)) >= 196
    machine.seconds, began = ALONE, machine.now
    while machine.take(1)[0]:
        pass
    assert machine.now - began < 5
    assert sum(machine.take(100)) <= 6


def test_a_step_that_is_held_up_once_changes_nothing() -> None:
    machine = Machine(ALONE)
    machine.take(6)
    machine.seconds = (3.0, 3.0)
    machine.take(1)
    machine.seconds = ALONE
    assert machine.take(5) == [False] * 5


def test_a_first_step_takes_long() -> None:
    machine = Machine((0.2, 0.24))
    machine.take(2)
    machine.seconds = BESIDE_ANOTHER
    machine.take(2)
    assert machine.take(5) == [True] * 5


def test_each_size_has_its_own() -> None:
    machine = Machine(ALONE)
    machine.take(4, "small")
    machine.seconds = BESIDE_ANOTHER
    machine.take(4, "large")
    machine.seconds = ALONE
    assert machine.take(5, "small") == [False] * 5
    machine.seconds = BESIDE_ANOTHER
    assert machine.take(5, "large") == [True] * 5


def test_sizes_that_were_used_long_ago_are_forgotten() -> None:
    machine = Machine(BESIDE_ANOTHER)
    machine.take(4, "first")
    for size in range(SIZES):
        machine.take(1, size)
        machine.take(1, "used")
    assert len(machine.paces._paces) == SIZES
    assert machine.take(1, "used") == [True]
    assert machine.take(1, "first") == [False]


def test_a_copy_begins_anew() -> None:
    machine = Machine(BESIDE_ANOTHER)
    machine.take(4)
    machine.paces = copy.deepcopy(machine.paces)
    assert machine.take(2) == [False, True]


def test_a_step_that_fails_is_not_counted() -> None:
    paces = Machine(ALONE).paces
    ways: list[bool] = []

    def fail(one: bool) -> None:
        ways.append(one)
        raise ArithmeticError

    for _ in range(3):
        with pytest.raises(ArithmeticError):
            paces.take(fail, 0)
    assert ways == [False] * 3
