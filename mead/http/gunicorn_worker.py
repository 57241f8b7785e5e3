"""gunicorn's worker for the API: one loop for everything that waits for clients, threads for the rest.

The loop accepts connections, receives requests, keeps idle connections and closes them, without blocking. A
thread gets a request once it is complete, so a slow or silent client costs a connection but no thread.
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

from mead.http.connection import RATE_SECONDS, ClientSocket, Connection, Stage, Stages, enable_keepalive
from mead.http.errors import DISK_FULL, DISK_FULL_ERRNOS, ApiError
from mead.http.incoming import ByteBudget
from mead.http.job_stream import Handover
from mead.http.refusals import malformed, refusal
from mead.http.scheduler import Scheduler
from mead.http.services import services_of
from mead.http.stream_writer import StreamWriter

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0  # that a client has to read the end of an answer and close its connection
READ_BYTES = 64 * 2**10  # at a time
ACCEPT_BATCH = 16  # connections
CHECK_SECONDS = 0.1  # between two checks for expired connections
CLOSE_BATCH = 50  # connections
EXTRA_QUEUED = 12  # requests of one address that may be queued, besides half the connections
LARGEST_BODIES = 16  # bodies of the largest size that may be received at once
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Worker(ThreadWorker):
    """A gunicorn worker with a loop and threads.

    Timeouts and limits are the service's settings (HEADER_TIMEOUT, BODY_TIMEOUT, BODY_MIN_RATE, KEEP_ALIVE,
    MAX_UPLOAD_BYTES). A stream of events holds a thread only until its first event is sent. /healthz has
    threads of its own, as have /readyz and /metrics. On SIGTERM, waiting requests are answered 503 with their
    job's id. TLS and the PROXY protocol are left to gunicorn's own loop and threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stages = Stages()
        self.scheduler = Scheduler(self.worker_connections // 2 + EXTRA_QUEUED, self.submit)
        self.next_check = self.accept_again = 0.0

    def init_process(self) -> None:
        """Start the threads reserved for health routes; then the loop."""
        health, reports = ThreadPoolExecutor(2, "healthz"), ThreadPoolExecutor(4, "reports")
        self.reserved_threads = {b"/healthz": health, b"/readyz": reports, b"/metrics": reports}
        super().init_process()

    def run(self) -> None:
        """The loop."""
        self.settings = services_of(self.wsgi).settings
        self.buffer_budget = ByteBudget(LARGEST_BODIES * self.settings.max_upload_bytes)
        self.streams = StreamWriter(self, self.settings.sse_heartbeat)
        for listener in self.sockets:
            enable_keepalive(listener.sock)
        super().run()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Accept no more requests, and answer those that wait."""
        super().handle_exit(sig, frame)
        if hasattr(self, "wsgi"):  # otherwise it is still starting
            self.method_queue.defer(
                services_of(self.wsgi).events.close
            )  # takes a lock: not in a signal handler

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a malformed request in the API's format."""
        if (answer := malformed(exc)) is None:
            super().handle_error(req, client, addr, exc)
            return
        with contextlib.suppress(OSError):
            client.sendall(answer)

    # Accepting

    def accept(self, listener: Any) -> None:
        """Accept pending connections; if there are no descriptors left, close idle ones."""
        if self.cfg.is_ssl or self.cfg.proxy_protocol != "off":
            super().accept(listener)
            return
        for _ in range(ACCEPT_BATCH):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                self.wait_for_descriptors(error)
                return
            sock = ClientSocket(accepted.family, accepted.type, accepted.proto, accepted.detach())
            conn = Connection(self.cfg, sock, address, listener.getsockname(), self.settings)
            sock.start_waiting = partial(self.scheduler.start_waiting, conn)
            self.nr_conns += 1
            self.watch(conn, self.stages.heads, self.settings.header_timeout)
            if self.nr_conns >= self.worker_connections and not self.evict():
                return

    def set_accept_enabled(self, enabled: bool) -> None:
        """As gunicorn's, but not before `accept_again`."""
        super().set_accept_enabled(enabled and time.monotonic() >= self.accept_again)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As gunicorn's, but so that `murder_keepalived` runs every CHECK_SECONDS."""
        timeout = min(timeout, CHECK_SECONDS, self.scheduler.seconds_to_release)
        super().wait_for_and_dispatch_events(timeout)
        self.scheduler.release_waiting()

    def wait_for_descriptors(self, error: OSError) -> None:
        """Close a connection to free its descriptor; if none can be closed, pause accepting."""
        if not self.evict():
            log.warning("cannot accept", extra={"error": error.strerror, "connections": self.nr_conns})
            self.accept_again = time.monotonic() + 0.5
            self.set_accept_enabled(False)

    def evict(self) -> bool:
        """Close the connection that matters least; False if all are needed."""
        conn = self.stages.evictable()
        if conn is None:
            return False
        self.drop(conn)
        return True

    # Receiving

    def watch(self, conn: Connection, stage: Stage, seconds: float) -> None:
        """Wait for data from the client, for at most `seconds`."""
        if conn.stage is None:
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_readable, conn))
        conn.enter(stage, seconds)

    def stop_watching(self, conn: Connection) -> None:
        """Wait no more for the client."""
        if conn.stage is not None:
            del conn.stage[conn]
            conn.stage = None
            with contextlib.suppress(KeyError, ValueError, OSError):
                self.poller.unregister(conn.sock)

    def on_readable(self, conn: Connection, _: object) -> None:
        """Read the data that the client has sent."""
        if conn.stage is None:  # it was closed in the same round
            return
        try:
            data = conn.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if conn.stage is not self.stages.lingering:
                self.receive(conn, data)
        elif conn.stage is self.stages.bodies:  # the client may still read
            self.refuse(conn, 400, "the body of the request is incomplete")
        else:
            self.drop(conn)

    def receive(self, conn: Connection, data: bytes) -> None:
        """Add data to a request; serve it once it is complete."""
        incoming = conn.incoming
        try:
            incoming.feed(data)
        except ApiError as error:
            self.refuse(conn, error.status, error.message)
            return
        except OSError as error:
            log.error("a request cannot be stored", extra={"error": error.strerror})
            full = error.errno in DISK_FULL_ERRNOS
            self.refuse(conn, 503, DISK_FULL if full else "the request cannot be stored; try again later")
            return
        if incoming.ready:
            self.serve(conn)
        elif not self.reserve(conn, len(data)):
            self.refuse(conn, 503, "the service is receiving too many large requests; try again soon")
        elif not incoming.has_head:
            if conn.stage is not self.stages.heads:
                self.watch(conn, self.stages.heads, self.settings.header_timeout)
        else:
            self.receive_body(conn)

    def receive_body(self, conn: Connection) -> None:
        """Start to wait for a body, or extend the deadline if it arrives fast enough."""
        incoming = conn.incoming
        if conn.stage is not self.stages.bodies:
            self.watch(conn, self.stages.bodies, min(RATE_SECONDS, self.settings.body_timeout))
            conn.rate_size = incoming.size
            if incoming.expects_continue:
                with contextlib.suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif incoming.size - conn.rate_size >= RATE_SECONDS * self.settings.body_min_rate:
            conn.rate_size = incoming.size
            end = conn.entered + self.settings.body_timeout
            conn.deadline = min(time.monotonic() + RATE_SECONDS, end)

    def reserve(self, conn: Connection, size: int) -> bool:
        """Reserve bytes for received data; if there are too few, drop the oldest unfinished bodies."""
        while not self.buffer_budget.take(size):
            oldest = next((other for other in self.stages.bodies if other is not conn), None)
            if oldest is None:
                return False
            self.drop(oldest)
        conn.reserved += size
        return True

    def murder_keepalived(self, force: bool = False) -> None:
        """Close expired connections, a few at a time, and more if there are too many. gunicorn calls this."""
        super().murder_keepalived(force)
        if self.nr_conns >= self.worker_connections:
            all(self.evict() for _ in range(ACCEPT_BATCH))
        now = time.monotonic()
        if now < self.next_check and not force:
            return
        self.next_check = now + CHECK_SECONDS
        self.streams.check()
        expired = self.stages.expired(now, force)
        slow = 0
        for conn in list(expired if force else islice(expired, CLOSE_BATCH)):
            if conn.incoming.size and conn.stage is not self.stages.lingering:
                slow += 1
                self.refuse(conn, 408, "the request took too long to arrive")
            else:
                self.drop(conn)
        if slow:
            log.info("slow clients", extra={"closed": slow})

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait only until `deadline` for requests that have hardly begun. Called by gunicorn as it stops."""
        super()._cap_keepalive(deadline)
        self.stages.cap_idle(deadline)

    # Serving

    def serve(self, conn: Connection) -> None:
        """Give a complete request to a thread, or queue it behind other requests of its address."""
        self.stop_watching(conn)
        if pool := self.reserved_threads.get(conn.incoming.path):
            self.submit(conn, pool)
            return
        conn.identify()
        if not self.scheduler.submit(conn):
            self.refuse(conn, 429, "too many of your requests are already queued; try again soon")

    def submit(self, conn: Connection, pool: ThreadPoolExecutor | None = None) -> None:
        """Serve a request in a thread of `pool`, by default gunicorn's."""
        future = (pool or self.tpool).submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def handle(self, conn: TConn) -> bool:
        """Serve a request, in a thread; returns whether the connection can be used again."""
        if isinstance(conn, Connection):
            self.buffer_budget.give_back(conn.reserved)
            conn.reserved = 0
        keep_alive = bool(super().handle(conn))
        return keep_alive and not (isinstance(conn, Connection) and conn.parser.unreader.exhausted)

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """As gunicorn's, but a stream may be handed over to the loop."""
        req._expected_100_continue = False  # the loop has already answered it
        if isinstance(conn, Connection) and conn.incoming.truncated:
            req.force_close()
        try:
            return bool(super().handle_request(req, conn))
        except Handover as handover:
            assert isinstance(conn, Connection)
            conn.stream = handover.stream
            conn.chunked = req.version > (1, 0)  # as gunicorn sends content without a length
            return conn.chunked and not req.should_close() and self.alive

    def finish_request(self, conn: TConn, future: Future[bool]) -> None:
        """Continue a connection whose thread has ended."""
        if not isinstance(conn, Connection):
            super().finish_request(conn, future)
            return
        try:
            conn.keep_alive = future.result()
        except Exception:  # the request has failed
            self.drop(conn)
            return
        if conn.stream is not None:  # its slot is released with those of waiting requests
            self.streams.take_over(conn)
        else:
            self.finish(conn)

    def finish(self, conn: Connection) -> None:
        """Wait for a connection's next request, or close it."""
        if not conn.keep_alive:
            self.lingering_close(conn)
            return
        self.scheduler.release(conn)
        try:
            rest = conn.next_request()
            self.watch(conn, self.stages.idle, self.settings.keep_alive if self.alive else LINGER_SECONDS)
        except (OSError, ValueError):  # the socket is closed
            self.drop(conn)
            return
        if rest:
            self.receive(conn, rest)

    # Closing

    def refuse(self, conn: Connection, status: int, message: str) -> None:
        """Answer a request that does not reach the app, and close its connection."""
        with contextlib.suppress(OSError):
            conn.sock.send(refusal(status, message, self.settings.client_sleep))
        self.lingering_close(conn)

    def lingering_close(self, conn: Connection) -> None:
        """Close once the client has read the answer: closing at once may lose its end (RFC 9112, 9.6)."""
        self.release(conn)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self.watch(conn, self.stages.lingering, LINGER_SECONDS)
        except (OSError, ValueError):  # already closed
            self.drop(conn)

    def drop(self, conn: Connection) -> None:
        """Close a connection."""
        self.stop_watching(conn)
        self.release(conn)
        self.nr_conns -= 1
        conn.close()

    def release(self, conn: Connection) -> None:
        """Release what a connection's request holds."""
        self.scheduler.release(conn)
        if conn.stream is not None:
            self.streams.discard(conn)
        self.buffer_budget.give_back(conn.reserved)
        conn.reserved = 0
        conn.incoming.close()
