"""gunicorn's worker for the API: threads for whole requests, one loop for whatever clients take time for.

The loop accepts connections, reads requests as they come in, keeps idle connections and sees closed ones off,
all of it without waiting for anybody. A thread is given a request once all of it is there, so that slow and
silent clients cost a connection each and no thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

from mead.http.addresses import Addresses
from mead.http.app import FULL
from mead.http.connection import Client, Connection, Stage, notice_the_vanished
from mead.http.incoming import RefusedError, Space
from mead.http.refusals import malformed, refusal
from mead.http.sse import TakenOver
from mead.http.stream_writer import StreamWriter
from mead.settings import Settings

log = logging.getLogger(__name__)

RATE_SECONDS = 10.0  # over which a body's rate is looked at
FAREWELL_SECONDS = 2.0  # that a client is given to read the end of an answer and hang up
READ_BYTES = 64 * 2**10  # at a time
ACCEPTED_AT_ONCE = 16  # connections
LOOK_SECONDS = 0.1  # between two looks at who is late
CLOSED_AT_ONCE = 50
QUEUED = 12  # requests of one address that may wait for their turn, beside half the connections
LARGEST_BODIES = 16  # that may come in at once, if all were of the largest size
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Worker(ThreadWorker):
    """Threads for whole requests; SIGTERM wakes those that wait: each is answered 503 with its job's id.

    Its times and limits are the service's settings (HEADER_TIMEOUT, BODY_TIMEOUT, BODY_MIN_RATE, KEEP_ALIVE,
    MAX_UPLOAD_BYTES). A stream of events has a thread until its first event is sent. /healthz has threads of
    its own, /readyz and /metrics have too. TLS, and the PROXY protocol, are left to gunicorn and the threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leaving: Stage = {}  # answered for the last time
        self.heads: Stage = {}  # headers come in
        self.idle: Stage = {}  # kept for the next request
        self.bodies: Stage = {}
        # what is given up where room is needed, and after how many seconds at the earliest
        self.stages = ((self.leaving, 0.0), (self.heads, 1.0), (self.idle, 1.0), (self.bodies, RATE_SECONDS))
        self.addresses = Addresses(self.worker_connections // 2 + QUEUED, self.submit)
        self.next_look = self.accept_again = 0.0

    def init_process(self) -> None:
        """Start the threads that the health routes have for themselves; then the loop."""
        health, reports = ThreadPoolExecutor(2, "healthz"), ThreadPoolExecutor(4, "reports")
        self.own_threads = {b"/healthz": health, b"/readyz": reports, b"/metrics": reports}
        super().init_process()

    def run(self) -> None:
        """The loop."""
        self.settings: Settings = self.wsgi.extensions["settings"]
        self.space = Space(LARGEST_BODIES * self.settings.max_upload_bytes)
        self.streams = StreamWriter(self, self.settings.sse_heartbeat)
        for listener in self.sockets:
            notice_the_vanished(listener.sock)
        super().run()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests, and answer those that wait."""
        super().handle_exit(sig, frame)
        if hasattr(self, "wsgi"):  # else it is told to stop while it starts
            self.method_queue.defer(self.wsgi.extensions["events"].close)  # no lock in a signal handler

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that is malformed, as every error is answered."""
        if (answer := malformed(exc)) is None:
            super().handle_error(req, client, addr, exc)
            return
        with contextlib.suppress(OSError):
            client.sendall(answer)

    # Accepting

    def accept(self, listener: Any) -> None:
        """Take the connections that wait; where there is no descriptor left for them, give up idle ones."""
        if self.cfg.is_ssl or self.cfg.proxy_protocol != "off":
            super().accept(listener)
            return
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                self.wait_for_descriptors(error)
                return
            sock = Client(accepted.family, accepted.type, accepted.proto, accepted.detach())
            conn = Connection(self.cfg, sock, address, listener.getsockname(), self.settings)
            sock.begin_to_wait = partial(self.addresses.begin_to_wait, conn)
            self.nr_conns += 1
            self.wait_for(conn, self.heads, self.settings.header_timeout)
            if self.nr_conns >= self.worker_connections and not self.make_room():
                return

    def set_accept_enabled(self, enabled: bool) -> None:
        """As gunicorn's; not before descriptors may be free again."""
        super().set_accept_enabled(enabled and time.monotonic() >= self.accept_again)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As gunicorn's; but `murder_keepalived` gets its turn ten times a second."""
        super().wait_for_and_dispatch_events(min(timeout, LOOK_SECONDS))

    def wait_for_descriptors(self, error: OSError) -> None:
        """Close a connection that nobody would miss; if there is none, accept nothing for a moment."""
        if not self.make_room():
            log.warning("cannot accept", extra={"error": error.strerror, "connections": self.nr_conns})
            self.accept_again = time.monotonic() + 0.5
            self.set_accept_enabled(False)

    def make_room(self) -> bool:
        """Close the connection that is missed least; False if there is none that could be spared."""
        now = time.monotonic()
        for stage, seconds in self.stages:
            oldest = next(iter(stage), None)
            if oldest is not None and now - oldest.entered >= seconds:
                self.drop(oldest)
                return True
        return False

    # What the loop waits for

    def wait_for(self, conn: Connection, stage: Stage, seconds: float) -> None:
        """Have the loop wait for the client, so long at most."""
        if conn.stage is None:
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_readable, conn))
        conn.enter(stage, seconds)

    def wait_no_more(self, conn: Connection) -> None:
        """The loop does not look at this connection any more."""
        if conn.stage is not None:
            del conn.stage[conn]
            conn.stage = None
            with contextlib.suppress(KeyError, ValueError, OSError):
                self.poller.unregister(conn.sock)

    def on_readable(self, conn: Connection, _: object) -> None:
        """Read what has come in."""
        if conn.stage is None:  # it was given up a moment ago
            return
        try:
            data = conn.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if conn.stage is not self.leaving:
                self.receive(conn, data)
        elif conn.stage is self.bodies:  # the client may still listen
            self.refuse(conn, 400, "the request's body is cut off")
        else:
            self.drop(conn)

    def receive(self, conn: Connection, data: bytes) -> None:
        """Take a piece of a request; once it is whole, serve it."""
        incoming = conn.incoming
        try:
            incoming.feed(data)
        except RefusedError as error:
            self.refuse(conn, error.status, str(error))
            return
        except OSError as error:
            log.error("a request cannot be stored", extra={"error": error.strerror})
            why = "the disk is full" if error.errno in FULL else "the request cannot be stored"
            self.refuse(conn, 503, f"{why}; try again later")
            return
        if incoming.whole:
            self.serve(conn)
        elif not self.take_space(conn, len(data)):
            self.refuse(conn, 503, "too much is being sent to the service; try again soon")
        elif not incoming.has_head:
            if conn.stage is not self.heads:
                self.wait_for(conn, self.heads, self.settings.header_timeout)
        elif conn.stage is not self.bodies:
            self.wait_for(conn, self.bodies, min(RATE_SECONDS, self.settings.body_timeout))
            conn.noted = incoming.size
            if incoming.expects_continue:
                with contextlib.suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif incoming.size - conn.noted >= RATE_SECONDS * self.settings.body_min_rate:
            conn.noted = incoming.size
            end = conn.entered + self.settings.body_timeout
            conn.deadline = min(time.monotonic() + RATE_SECONDS, end)

    def take_space(self, conn: Connection, size: int) -> bool:
        """Take space for what has come in; the bodies that have been coming in longest make room for it."""
        while not self.space.take(size):
            oldest = next((other for other in self.bodies if other is not conn), None)
            if oldest is None:
                return False
            self.drop(oldest)
        conn.space += size
        return True

    def murder_keepalived(self, force: bool = False) -> None:
        """Close what is late, few at a time, and what there is no room for; gunicorn's loop calls this."""
        super().murder_keepalived(force)
        if self.nr_conns >= self.worker_connections:
            all(self.make_room() for _ in range(ACCEPTED_AT_ONCE))
        now = time.monotonic()
        if now < self.next_look and not force:
            return
        self.next_look = now + LOOK_SECONDS
        self.addresses.look()
        self.streams.look()
        late = (conn for stage, _ in self.stages for conn in stage if force or conn.deadline <= now)
        slow = 0
        for conn in list(late if force else islice(late, CLOSED_AT_ONCE)):
            if conn.incoming.size and conn.stage is not self.leaving:
                slow += 1
                self.refuse(conn, 408, "the request did not come in in time")
            else:
                self.drop(conn)
        if slow:
            log.info("slow clients", extra={"closed": slow})

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait no longer for requests that have hardly begun: it stops (gunicorn calls this)."""
        super()._cap_keepalive(deadline)
        for stage in (self.idle, self.heads):
            for conn in stage:
                conn.deadline = min(conn.deadline, deadline)

    # Serving

    def serve(self, conn: Connection) -> None:
        """Give a whole request to a thread, or let it wait for its client's turn."""
        self.wait_no_more(conn)
        if own := self.own_threads.get(conn.incoming.path):
            self.submit(conn, own)
            return
        conn.identify()
        if not self.addresses.take_in(conn):
            self.refuse(conn, 429, "too many of your requests wait already; try again soon")

    def submit(self, conn: Connection, pool: ThreadPoolExecutor | None = None) -> None:
        """Have a thread serve the request; one of gunicorn's pool, unless another is given."""
        future = (pool or self.tpool).submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def handle(self, conn: TConn) -> bool:
        """Serve a request, in a thread; whether the connection can serve another."""
        if isinstance(conn, Connection):
            self.space.give_back(conn.space)
            conn.space = 0
        kept = bool(super().handle(conn))
        return kept and not (isinstance(conn, Connection) and conn.parser.unreader.short)

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """As gunicorn's."""
        req._expected_100_continue = False  # the loop has said it
        if isinstance(conn, Connection) and conn.incoming.cut:
            req.force_close()
        try:
            return bool(super().handle_request(req, conn))
        except TakenOver as taken:
            assert isinstance(conn, Connection)
            conn.stream = taken.stream
            conn.chunked = req.version > (1, 0)  # as gunicorn frames what has no length
            return conn.chunked and not req.should_close() and self.alive

    def finish_request(self, conn: TConn, future: Future[bool]) -> None:
        """Wait for the connection's next request, or see it off."""
        if not isinstance(conn, Connection):
            super().finish_request(conn, future)
            return
        try:
            conn.kept = future.result()
        except Exception:  # the request has failed
            self.drop(conn)
            return
        if conn.stream is not None:  # its turn ends as that of one that waits
            self.streams.take_over(conn)
        else:
            self.go_on(conn)

    def go_on(self, conn: Connection) -> None:
        """Wait for the next request of a connection whose last one is answered, or see it off."""
        if not conn.kept:
            self.see_off(conn)
            return
        self.addresses.end(conn)
        try:
            rest = conn.next_request()
            self.wait_for(conn, self.idle, self.settings.keep_alive if self.alive else FAREWELL_SECONDS)
        except (OSError, ValueError):  # the socket is closed
            self.drop(conn)
            return
        if rest:
            self.receive(conn, rest)

    # Closing

    def refuse(self, conn: Connection, status: int, message: str) -> None:
        """Answer a request that does not reach the app, and see its client off."""
        with contextlib.suppress(OSError):
            conn.sock.send(refusal(status, message, self.settings.client_sleep))
        self.see_off(conn)

    def see_off(self, conn: Connection) -> None:
        """Let the client read it all and hang up: closing at once may lose the end (RFC 9112, 9.6)."""
        self.release(conn)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self.wait_for(conn, self.leaving, FAREWELL_SECONDS)
        except (OSError, ValueError):  # it is gone
            self.drop(conn)

    def drop(self, conn: Connection) -> None:
        """Close a connection."""
        self.wait_no_more(conn)
        self.release(conn)
        self.nr_conns -= 1
        conn.close()

    def release(self, conn: Connection) -> None:
        """Give back what the connection's request takes up."""
        self.addresses.end(conn)
        if conn.stream is not None:
            self.streams.forget(conn)
        self.space.give_back(conn.space)
        conn.space = 0
        conn.incoming.close()
