"""The requests of each address: few are worked on at a time, so that a crowd leaves room for others."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable

from mead.http.connection import Connection
from mead.http.incoming import Incoming

TURNS = 4  # requests of one address that are worked on at a time


class Addresses:
    """Gives the requests of each address their turns. For the loop alone, but for `begin_to_wait`.

    Args:
        most: requests of one address that may wait for their turn.
        start: has a thread work on a request.
    """

    def __init__(self, most: int, start: Callable[[Connection], None]) -> None:
        self.most = most
        self.start = start
        self._turns: Counter[str] = Counter()
        self._queues: dict[str, deque[Connection]] = defaultdict(deque)
        self._waiting: deque[tuple[Connection, Incoming]] = deque()

    def take_in(self, conn: Connection) -> bool:
        """Work on a connection's request once it is its turn; False if too many of its address wait."""
        if self._turns[conn.host] < TURNS:
            self._begin(conn)
        elif len(self._queues[conn.host]) < self.most:
            self._queues[conn.host].append(conn)
        else:
            return False
        return True

    def begin_to_wait(self, conn: Connection) -> None:
        """A request takes no work from here on: its turn ends with the next `look`, so that a crowd of those
        that begin to wait at once is spread over time. Called in any thread.
        """
        self._waiting.append((conn, conn.incoming))

    def look(self) -> None:
        """End the turns of those that wait."""
        for _ in range(len(self._waiting)):
            conn, request = self._waiting.popleft()
            if conn.incoming is request:  # else it has ended meanwhile, and the turn is the next one's
                self.end(conn)

    def end(self, conn: Connection) -> None:
        """End a request's turn, if it has one; the next one from there gets it."""
        if not conn.has_turn:
            return
        conn.has_turn = False
        self._turns[conn.host] -= 1
        if queue := self._queues.get(conn.host):
            self._begin(queue.popleft())
        else:
            self._queues.pop(conn.host, None)
            if not self._turns[conn.host]:
                del self._turns[conn.host]

    def _begin(self, conn: Connection) -> None:
        self._turns[conn.host] += 1
        conn.has_turn = True
        self.start(conn)
