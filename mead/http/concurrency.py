"""Limits on requests that stay open, in total and per client.

A POST that waits for its picture holds a thread until the job has ended, a stream of events a connection.
The limit is lower than the number of threads, so that other requests always find one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from mead.http.errors import ApiError
from mead.setting_checks import open_requests
from mead.settings import Settings

INSTEAD = "try again later, or send `Prefer: respond-async` and poll for the job"


class ConcurrencyLimit:
    """Counts the open requests of this process.

    Args:
        limit: of all clients.
        limit_per_client: of one client.
    """

    def __init__(self, limit: int, limit_per_client: int) -> None:
        self.limit = limit
        self.limit_per_client = limit_per_client
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, client: str) -> Callable[[], None]:
        """Count an open request of this client.

        Returns:
            A function to call when the request has ended; a second call does nothing.

        Raises:
            ApiError: 429 if this client has too many open requests, 503 if all clients have.
        """
        with self._lock:
            if self._open[client] >= self.limit_per_client:
                raise ApiError(
                    429,
                    f"{self.limit_per_client} of your requests are already waiting or streaming; {INSTEAD}",
                )
            if self._open.total() >= self.limit:
                raise ApiError(503, f"too many requests are already waiting or streaming; {INSTEAD}")
            self._open[client] += 1
        entered = [client]

        def leave() -> None:
            with self._lock:
                if not entered:
                    return
                entered.clear()
                self._open[client] -= 1
                if not self._open[client]:
                    del self._open[client]

        return leave


def open_request_limit(settings: Settings) -> ConcurrencyLimit:
    """The limit from the settings; by default three quarters of the threads, and five sixths of that for one
    client.
    """
    limit = open_requests(settings)
    return ConcurrencyLimit(limit, settings.max_open_requests_per_client or max(1, limit * 5 // 6))
