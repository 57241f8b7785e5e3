"""Streams of events, as the loop writes them: to hundreds of clients, without waiting for any."""

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

WRITTEN_AT_ONCE = 64  # streams, before the loop gets its turn
LATE_AT_ONCE = 50  # that are told that they are still open, or closed
LAST_CHUNK = b"0\r\n\r\n"


class StreamWriter:
    """Goes on with the streams that threads have begun. For the loop alone, but for `wake`.

    A client that does not take what it is sent is told the latest change once it does; nothing is kept for it
    but that, and the rest of what it has taken a part of. One that takes nothing for SEND_SECONDS is dropped.
    One that has closed its own side only may still read: it is sent a comment, which one that is gone
    answers with a reset.

    Args:
        heartbeat: seconds of quiet after which a comment is sent.
    """

    def __init__(self, worker: Worker, heartbeat: float) -> None:
        self.worker = worker
        self.heartbeat = heartbeat
        self.quiet: Stage = {}  # nothing is left to send; by when they were sent something
        self.blocked: Stage = {}  # by when they took something
        self.woken: deque[Connection] = deque()
        self.waking = False  # whether the loop knows of them
        self.deaf: dict[int, Connection] = {}  # those that nothing is read from, by their descriptors
        self.hang_ups = select.poll()  # of these; a selector has to wait for more than that

    def take_over(self, conn: Connection) -> None:
        """Write what the connection's stream tells from here on."""
        assert conn.stream is not None
        conn.sock.setblocking(False)
        self.worker.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_ready, conn))
        conn.enter(self.quiet, self.heartbeat)
        conn.stream.wake = partial(self.wake, conn)
        self.write(conn)

    def forget(self, conn: Connection) -> None:
        """Have nothing more to do with the connection, and close its stream."""
        self.worker.wait_no_more(conn)
        if self.deaf.pop(conn.sock.fileno(), None):
            self.hang_ups.unregister(conn.sock)
        conn.unsent = b""
        if conn.stream is not None:
            conn.stream.close()
            conn.stream = None

    def wake(self, conn: Connection) -> None:
        """There is something to tell. Called in any thread."""
        self.woken.append(conn)
        if not self.waking:
            self.waking = True
            self.worker.method_queue.defer(self.write_to_woken)

    def write_to_woken(self) -> None:
        """Write to those there is something for; if they are many, to the next ones in a moment."""
        self.waking = False
        for _ in range(min(len(self.woken), WRITTEN_AT_ONCE)):
            self.write(self.woken.popleft())
        if self.woken and not self.waking:
            self.waking = True
            self.worker.method_queue.defer(self.write_to_woken)

    def look(self) -> None:
        """Drop who is gone or takes nothing, and tell others that their streams are open still."""
        for descriptor, _ in self.hang_ups.poll(0):
            self.worker.drop(self.deaf[descriptor])
        now = time.monotonic()
        for conn in self.late(self.blocked, now):
            self.worker.drop(conn)
        for conn in self.late(self.quiet, now):
            if conn.stream is not None:
                self.send(conn, conn.stream.heartbeat())

    def late(self, stage: Stage, now: float) -> list[Connection]:
        return [conn for conn in islice(stage, LATE_AT_ONCE) if conn.deadline <= now]

    def on_ready(self, conn: Connection, _: object) -> None:
        """The client takes more, has hung up, or has sent what is no part of its request."""
        if conn.unsent:
            self.send(conn)
        if conn.stream is None or conn.sock.fileno() in self.deaf:
            return
        try:
            closed = not conn.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self.worker.drop(conn)
            return
        self.deaf[conn.sock.fileno()] = conn  # its next request, if it is one, waits
        self.hang_ups.register(conn.sock, 0)
        self.watch(conn)
        if closed and not conn.unsent:
            self.send(conn, conn.stream.heartbeat())

    def write(self, conn: Connection) -> None:
        """Send what there is to tell, as long as the client takes it."""
        while (stream := conn.stream) is not None:
            if conn.unsent:
                stream.skip()
                return
            text = stream.next_text()
            if text is None:
                return
            self.send(conn, text)

    def send(self, conn: Connection, text: str = "") -> None:
        """Send what is unsent and `text`, as far as the client takes it; after the end, go on."""
        assert conn.stream is not None
        data = conn.unsent + self.framed(conn, text)
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
        elif conn.stream.over:
            self.forget(conn)
            self.worker.go_on(conn)
            return
        else:
            conn.enter(self.quiet, self.heartbeat)
        if was_blocked != bool(conn.unsent):
            self.watch(conn)
            if was_blocked:
                self.wake(conn)

    def framed(self, conn: Connection, text: str) -> bytes:
        """A text as it goes over the wire."""
        assert conn.stream is not None
        data = text.encode()
        if conn.chunked and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
            if conn.stream.over:
                data += LAST_CHUNK
        return data

    def watch(self, conn: Connection) -> None:
        """Have the loop wait for what there is to wait for."""
        awaited = selectors.EVENT_WRITE if conn.unsent else 0
        if conn.sock.fileno() not in self.deaf:
            awaited |= selectors.EVENT_READ
        with contextlib.suppress(KeyError):
            self.worker.poller.unregister(conn.sock)
        if awaited:
            self.worker.poller.register(conn.sock, awaited, partial(self.on_ready, conn))
