"""Writes streams of events from the loop: to hundreds of clients, without blocking."""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import time
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from mead.http.connection import SEND_SECONDS, Connection, Stage

if TYPE_CHECKING:
    from mead.http.gunicorn_worker import Worker

WRITE_BATCH = 64  # streams that are written to before the loop continues
EXPIRED_BATCH = 50  # connections that get a heartbeat, or are closed, at a time
LAST_CHUNK = b"0\r\n\r\n"


class StreamWriter:
    """Continues the streams that threads have started. For the loop only, except `wake`.

    For a client that does not read fast enough, only the rest of a partly sent event and the latest change
    are kept. A client that reads nothing for SEND_SECONDS is disconnected. A client that has closed only its
    sending side may still read: it gets a heartbeat, which a closed connection answers with a reset.

    Args:
        heartbeat: seconds between heartbeats on an idle stream.
    """

    def __init__(self, worker: Worker, heartbeat: float) -> None:
        self.worker = worker
        self.heartbeat = heartbeat
        self.idle: Stage = {}  # everything is sent; in the order of the last sending
        self.blocked: Stage = {}  # in the order in which they last accepted data
        self.woken: deque[Connection] = deque()
        self.write_scheduled = False
        self.unread: dict[int, Connection] = {}  # by file descriptor: sent data that is not read yet
        self.disconnects = select.poll()  # of these; a selector cannot wait for disconnects only

    def take_over(self, conn: Connection) -> None:
        """Write the rest of a connection's stream."""
        assert conn.stream is not None
        conn.sock.setblocking(False)
        self.worker.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_ready, conn))
        conn.enter(self.idle, self.heartbeat)
        conn.stream.wake = partial(self.wake, conn)
        self.write(conn)

    def discard(self, conn: Connection) -> None:
        """Close a connection's stream, and stop watching the connection."""
        self.worker.stop_watching(conn)
        if self.unread.pop(conn.sock.fileno(), None):
            self.disconnects.unregister(conn.sock)
        conn.unsent = b""
        if conn.stream is not None:
            conn.stream.close()
            conn.stream = None

    def wake(self, conn: Connection) -> None:
        """There may be a next event. May be called in any thread."""
        self.woken.append(conn)
        if not self.write_scheduled:
            self.write_scheduled = True
            self.worker.method_queue.defer(self.write_woken)

    def write_woken(self) -> None:
        """Write to woken streams, in batches if there are many."""
        self.write_scheduled = False
        for _ in range(min(len(self.woken), WRITE_BATCH)):
            self.write(self.woken.popleft())
        if self.woken and not self.write_scheduled:
            self.write_scheduled = True
            self.worker.method_queue.defer(self.write_woken)

    def check(self) -> None:
        """Drop clients that have disconnected or read nothing; send heartbeats to idle ones."""
        for descriptor, _ in self.disconnects.poll(0):
            self.worker.drop(self.unread[descriptor])
        now = time.monotonic()
        for conn in self.expired(self.blocked, now):
            self.worker.drop(conn)
        for conn in self.expired(self.idle, now):
            if conn.stream is not None:
                self.send(conn, conn.stream.heartbeat())

    def expired(self, stage: Stage, now: float) -> list[Connection]:
        """The first connections of a stage that are past their deadline."""
        return [conn for conn in islice(stage, EXPIRED_BATCH) if conn.deadline <= now]

    def on_ready(self, conn: Connection, _: object) -> None:
        """The client accepts data, has disconnected, or has sent data after its request."""
        if conn.unsent:
            self.send(conn)
        if conn.stream is None or conn.sock.fileno() in self.unread:
            return
        try:
            closed = not conn.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self.worker.drop(conn)
            return
        self.unread[conn.sock.fileno()] = conn  # possibly its next request, which has to wait
        self.disconnects.register(conn.sock, 0)
        self.watch(conn)
        if closed and not conn.unsent:
            self.send(conn, conn.stream.heartbeat())

    def write(self, conn: Connection) -> None:
        """Send the next events, as long as the client accepts them."""
        while (stream := conn.stream) is not None:
            if conn.unsent:
                stream.skip()
                return
            text = stream.next_event()
            if text is None:
                return
            self.send(conn, text)

    def send(self, conn: Connection, text: str = "") -> None:
        """Send unsent data and `text`, as far as the client accepts them; after the last event, finish."""
        assert conn.stream is not None
        data = conn.unsent + self.encode(conn, text)
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.worker.drop(conn)
            return
        was_blocked, conn.unsent = bool(conn.unsent), data[sent:]
        if conn.unsent:
            if sent or not was_blocked:
                conn.enter(self.blocked, SEND_SECONDS)
        elif conn.stream.finished:
            self.discard(conn)
            self.worker.finish(conn)
            return
        else:
            conn.enter(self.idle, self.heartbeat)
        if was_blocked != bool(conn.unsent):
            self.watch(conn)
            if was_blocked:
                self.wake(conn)

    def encode(self, conn: Connection, text: str) -> bytes:
        """A text as it is sent: as a chunk, if the stream is chunked."""
        assert conn.stream is not None
        data = text.encode()
        if conn.chunked and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
            if conn.stream.finished:
                data += LAST_CHUNK
        return data

    def watch(self, conn: Connection) -> None:
        """Register with the loop the events that matter for this connection now."""
        events = selectors.EVENT_WRITE if conn.unsent else 0
        if conn.sock.fileno() not in self.unread:
            events |= selectors.EVENT_READ
        with contextlib.suppress(KeyError):
            self.worker.poller.unregister(conn.sock)
        if events:
            self.worker.poller.register(conn.sock, events, partial(self.on_ready, conn))
