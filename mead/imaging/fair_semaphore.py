"""A semaphore that is shared fairly among clients."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 30.0  # seconds


class BusyError(Exception):
    """Too many pictures are being decoded; nothing is wrong with this one.

    Attributes:
        field: the form field of the picture.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"{field}: too many pictures are being decoded; try again soon")
        self.field = field


class FairSemaphore:
    """A semaphore that serves waiting clients in turn, however many requests each of them has.

    Args:
        slots: how many requests may hold the semaphore.
        queue_limit: how many may wait for it; half of them of one client.
        timeout: seconds that a request waits.
    """

    def __init__(self, slots: int, queue_limit: int, timeout: float = TIMEOUT) -> None:
        self.waiting = 0
        self._timeout = timeout
        self._free = slots
        self._queue_limit = queue_limit
        self._lock = threading.Lock()
        self._queues: dict[str, deque[threading.Event]] = {}  # by client, the next one first

    @contextmanager
    def acquire(self, client: str, field: str) -> Iterator[None]:
        """Hold the semaphore for the length of the block.

        Raises:
            BusyError: too many requests wait, or this one has waited for too long.
        """
        self._acquire(client, field)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, client: str, field: str) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            queue = self._queues.get(client, deque())
            if self.waiting >= self._queue_limit or len(queue) >= max(1, self._queue_limit // 2):
                raise BusyError(field)
            granted = threading.Event()
            queue.append(granted)
            self._queues[client] = queue
            self.waiting += 1
        if granted.wait(self._timeout):
            return
        with self._lock:
            if granted.is_set():  # just after the timeout
                return
            self._remove(client, granted)
        raise BusyError(field)

    def _release(self) -> None:
        with self._lock:
            if not self._queues:
                self._free += 1
                return
            client, queue = next(iter(self._queues.items()))
            granted = queue[0]
            self._remove(client, granted)
            if queue:  # behind the other clients
                self._queues[client] = self._queues.pop(client)
            granted.set()

    def _remove(self, client: str, granted: threading.Event) -> None:
        self._queues[client].remove(granted)
        self.waiting -= 1
        if not self._queues[client]:
            del self._queues[client]
