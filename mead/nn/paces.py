"""Whether steps are faster on all of PyTorch's threads or on one, found out by measuring them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

COST = 0.02  # the share of all steps' time that tries may take
SOONEST = 10  # steps until the slower way is tried again
LATEST = 60  # steps on one thread until all are tried again: what has held them up may have ended
LONG = 0.5  # seconds; in longer steps threads seldom wait for each other, and a try would cost much
SIZES = 100  # that are remembered, those used last


class Pace:
    """What the last steps of one size have taken on all threads, and on one.

    The shorter of the last two times counts: a first step takes long, since PyTorch chooses its kernels for a
    number of threads, and any step may be held up.
    """

    def __init__(self) -> None:
        self._times: dict[bool, list[float]] = {False: [], True: []}  # by whether on one thread
        self._steps = 0  # since the slower way was tried

    def choose_one(self) -> bool:
        """Whether to take the next step on one thread: that has been faster, or is to be tried again."""
        on_all, on_one = self._times[False], self._times[True]
        if on_all and min(on_all) > LONG:
            return False
        if len(on_one) < 2:  # first in turn: both have a first step
            return len(on_one) < len(on_all)
        one = min(on_one) < min(on_all)
        slower = min(self._times[not one]) / min(self._times[one]) - 1
        wait = max(SOONEST, slower / COST)
        self._steps += 1
        if self._steps <= (min(wait, LATEST) if one else wait):
            return one
        self._steps = 0
        return not one

    def note(self, one: bool, seconds: float) -> None:
        """Note what a step has taken, on one thread or on all."""
        self._times[one] = [*self._times[one][-1:], seconds]


class Paces:
    """Takes steps on all threads or on one, whichever has been faster lately for steps of that size.

    All threads are faster on idle cores. Beside other busy processes they may be several times slower, since
    each waits for the others to get their turn.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paces: dict[Hashable, Pace] = {}

    def __deepcopy__(self, memo: object) -> Paces:
        """For a copy of a pipeline, whose networks may be changed: nothing is known of its steps."""
        return Paces(self._clock)

    def take(self, step: Callable[[bool], None], size: Hashable) -> None:
        """Take a step of this size, by calling it with whether to use one thread. Thread-safe."""
        with self._lock:
            pace = self._paces[size] = self._paces.pop(size, Pace())  # now the last
            if len(self._paces) > SIZES:
                del self._paces[next(iter(self._paces))]
            one = pace.choose_one()
        began = self._clock()
        step(one)
        with self._lock:
            pace.note(one, self._clock() - began)
