"""A semaphore that is fair among clients."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_WAIT = 30.0  # seconds


class BusyError(Exception):
    """Too many pictures are being decoded; this one may be fine.

    Attributes:
        field: the form field that held it.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"{field}: too many pictures are being decoded; try again soon")
        self.field = field


class Turns:
    """A semaphore that is fair among clients: those that wait take turns, round robin.

    Args:
        number: how many may hold it at a time.
        places: how many may wait; one client may have half of them.
        longest_wait: in seconds.
    """

    def __init__(self, number: int, places: int, longest_wait: float = LONGEST_WAIT) -> None:
        self.waiting = 0
        self._longest_wait = longest_wait
        self._free = number
        self._places = places
        self._lock = threading.Lock()
        self._queues: dict[str, deque[threading.Event]] = {}  # by client, the next one first

    @contextmanager
    def turn(self, client: str, field: str) -> Iterator[None]:
        """Wait for the semaphore and hold it during the block.

        Raises:
            BusyError: if it was not free in time, or too many wait already.
        """
        self._take(client, field)
        try:
            yield
        finally:
            self._give_to_next()

    def _take(self, client: str, field: str) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            queue = self._queues.get(client, deque())
            if self.waiting >= self._places or len(queue) >= max(1, self._places // 2):
                raise BusyError(field)
            turn = threading.Event()
            queue.append(turn)
            self._queues[client] = queue
            self.waiting += 1
        if turn.wait(self._longest_wait):
            return
        with self._lock:
            if turn.is_set():  # at the last moment
                return
            self._remove(client, turn)
        raise BusyError(field)

    def _give_to_next(self) -> None:
        with self._lock:
            if not self._queues:
                self._free += 1
                return
            client, queue = next(iter(self._queues.items()))
            turn = queue[0]
            self._remove(client, turn)
            if queue:  # behind the other clients
                self._queues[client] = self._queues.pop(client)
            turn.set()

    def _remove(self, client: str, turn: threading.Event) -> None:
        self._queues[client].remove(turn)
        self.waiting -= 1
        if not self._queues[client]:
            del self._queues[client]
