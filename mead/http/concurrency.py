"""How many requests may stay open at once, in all and for each client.

A POST that waits for its picture holds a thread until the job has ended, a stream of events a connection.
There are fewer of them than threads, so that whatever is answered at once always finds one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from mead.http.forms import ApiError
from mead.settings import Settings


class ConcurrencyLimit:
    """Counts the requests of this process that stay open.

    Args:
        most: in all.
        most_per_client: of one client.
    """

    def __init__(self, most: int, most_per_client: int) -> None:
        self.most = most
        self.most_per_client = most_per_client
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, client: str) -> Callable[[], None]:
        """Count one more request of this client.

        Returns:
            What to call when it has ended; a second call does nothing.

        Raises:
            ApiError: 429 where this client has too many, 503 where there are too many in all.
        """
        with self._lock:
            if self._open[client] >= self.most_per_client:
                raise ApiError(
                    429, f"{self.most_per_client} of your requests wait or follow events already; {INSTEAD}"
                )
            if self._open.total() >= self.most:
                raise ApiError(503, f"too many requests wait or follow events already; {INSTEAD}")
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


INSTEAD = "try again later, or send `Prefer: respond-async` and ask for the job now and then"


def open_requests(settings: Settings) -> ConcurrencyLimit:
    """The limit that the settings say: unset, three quarters of the threads, of which one client may have
    five sixths.
    """
    most = settings.max_open_requests or max(1, settings.http_threads * 3 // 4)
    return ConcurrencyLimit(most, settings.max_open_requests_per_client or max(1, most * 5 // 6))
