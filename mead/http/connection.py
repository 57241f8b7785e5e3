"""Client connections, as the loop reads from them and threads write to them."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from gunicorn.workers.gthread import TConn

from mead.http.incoming import BufferedUnreader, IncomingRequest
from mead.http.job_stream import JobStream
from mead.settings import Settings

SEND_SECONDS = 30.0  # that a client may take to read SEND_BYTES of an answer
SEND_BYTES = 256 * 2**10
RATE_SECONDS = 10.0  # over which the rate of a body is measured
KEEPALIVE_SECONDS = 60  # after which a silent, unreachable client counts as disconnected

Stage: TypeAlias = "dict[Connection, None]"
"""The connections in one state, in the order in which they entered it."""


class ClientSocket(socket.socket):
    """A client's socket, as a thread writes to it. A client that does not read its answer is disconnected."""

    can_hand_over = True
    """Whether the server can continue a stream of events without the thread that has started it."""
    start_waiting: Callable[[], None]
    """Tells the scheduler that the request only waits from now on."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all data. The client must read at least SEND_BYTES in SEND_SECONDS."""
        view, taken, deadline = memoryview(data), 0, time.monotonic() + SEND_SECONDS
        while view:
            try:
                sent = self.send(view, flags)
            except BlockingIOError:
                self.start_waiting()
                poll = select.poll()
                poll.register(self, select.POLLOUT)
                if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                    raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from None
                continue
            view, taken = view[sent:], taken + sent
            if taken >= SEND_BYTES:
                taken, deadline = 0, time.monotonic() + SEND_SECONDS

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send `count` bytes of a file, under the same limit."""
        file.seek(offset)
        sent = 0
        while piece := file.read(SEND_BYTES if count is None else min(SEND_BYTES, count - sent)):
            self.sendall(piece)
            sent += len(piece)
        return sent


class Connection(TConn):
    """A connection and its current request.

    Attributes:
        host: the client's address, also behind trusted proxies.
        stage: what the loop waits for; None while a thread serves the request, or it is queued for one.
        deadline: when the loop stops waiting (time.monotonic).
        keep_alive: whether another request may follow this one.
        stream: the stream of events that the loop continues, if any.
        chunked: whether the stream is sent in chunks (RFC 9112, 7.1).
        unsent: data of the stream that the client has not accepted yet.
    """

    def __init__(self, cfg: Any, sock: ClientSocket, client: Any, server: Any, settings: Settings) -> None:
        super().__init__(cfg, sock, client, server)
        self.settings = settings
        self.incoming = IncomingRequest(settings.max_upload_bytes)
        self.host = ""
        self.stage: Stage | None = None
        self.entered = self.deadline = 0.0
        self.rate_size = 0  # bytes of the request when its rate was last checked
        self.reserved = 0  # bytes of `Worker.buffer_budget`
        self.has_slot = False
        self.keep_alive = False
        self.stream: JobStream | None = None
        self.chunked = False
        self.unsent = b""
        self.data_ready = True  # so that gunicorn's thread does not wait for the first byte

    def init(self) -> None:
        """Let the parser read the buffered request. Runs in the thread."""
        super().init()
        self.sock.setblocking(False)
        self.parser.unreader = BufferedUnreader(self.incoming)

    def enter(self, stage: Stage, seconds: float) -> None:
        """Enter a stage, for at most `seconds`."""
        if self.stage is not None:
            del self.stage[self]
        stage[self] = None
        self.stage = stage
        self.entered = time.monotonic()
        self.deadline = self.entered + seconds

    def identify(self) -> None:
        """Set `host`; a Unix socket has no address."""
        own = str(self.client[0]) if isinstance(self.client, tuple) else ""
        self.host = self.incoming.forwarded_for(self.settings.trusted_proxies) or own

    def next_request(self) -> bytes:
        """Prepare for the next request; returns what was already received of it."""
        rest: bytes = self.parser.unreader.rest()
        self.incoming.close()
        self.incoming = IncomingRequest(self.settings.max_upload_bytes)
        return rest


class Stages:
    """The connections that the loop waits for, by what it waits for.

    Attributes:
        lingering: the last answer was sent.
        heads: headers are being received.
        idle: kept for another request.
        bodies: a body is being received.
    """

    def __init__(self) -> None:
        self.lingering: Stage = {}
        self.heads: Stage = {}
        self.idle: Stage = {}
        self.bodies: Stage = {}
        # with the seconds after which a connection may be evicted
        self._all = ((self.lingering, 0.0), (self.heads, 1.0), (self.idle, 1.0), (self.bodies, RATE_SECONDS))

    def evictable(self) -> Connection | None:
        """The connection that matters least, if any may be closed to make room for others."""
        now = time.monotonic()
        for stage, seconds in self._all:
            oldest = next(iter(stage), None)
            if oldest is not None and now - oldest.entered >= seconds:
                return oldest
        return None

    def expired(self, now: float, force: bool = False) -> Iterator[Connection]:
        """The connections whose deadline has passed; with `force`, all of them."""
        return (conn for stage, _ in self._all for conn in stage if force or conn.deadline <= now)

    def cap_idle(self, deadline: float) -> None:
        """Wait only until `deadline` for requests that have hardly begun."""
        for stage in (self.idle, self.heads):
            for conn in stage:
                conn.deadline = min(conn.deadline, deadline)


def enable_keepalive(listener: socket.socket) -> None:
    """Let the system detect unreachable clients (TCP keepalive); on Linux, connections inherit this."""
    with contextlib.suppress(OSError, AttributeError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS // 2)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // 6)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEPALIVE_SECONDS * 1000)
