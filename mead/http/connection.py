"""Clients' connections, as the loop reads them and as threads write to them."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from gunicorn.workers.gthread import TConn

from mead.http.incoming import Arrived, Incoming
from mead.http.sse import Stream
from mead.settings import Settings

SEND_SECONDS = 30.0  # that a client may take to read SEND_BYTES of an answer
SEND_BYTES = 256 * 2**10
VANISHED_SECONDS = 60  # without a sign of life after which a client is gone

Stage: TypeAlias = "dict[Connection, None]"
"""Connections in the same state, in the order in which they entered it."""


class Client(socket.socket):
    """A client's socket, as a thread writes to it. Who does not read what it is sent counts as hung up."""

    takes_over = True
    """Whether the server can go on with a stream of events without the thread that began it."""
    begin_to_wait: Callable[[], None]
    """Says that its request takes no work from here on, but waits."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of it; SEND_BYTES at least must be taken in SEND_SECONDS."""
        view, taken, deadline = memoryview(data), 0, time.monotonic() + SEND_SECONDS
        while view:
            try:
                sent = self.send(view, flags)
            except BlockingIOError:
                self.begin_to_wait()
                poll = select.poll()
                poll.register(self, select.POLLOUT)
                if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                    raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from None
                continue
            view, taken = view[sent:], taken + sent
            if taken >= SEND_BYTES:
                taken, deadline = 0, time.monotonic() + SEND_SECONDS

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send `count` bytes of a file, in the same pieces."""
        file.seek(offset)
        sent = 0
        while piece := file.read(SEND_BYTES if count is None else min(SEND_BYTES, count - sent)):
            self.sendall(piece)
            sent += len(piece)
        return sent


class Connection(TConn):
    """A connection and the request that comes in over it.

    Attributes:
        host: address of the client, behind trusted proxies as well.
        stage: what the loop waits for; None while a thread has it, or it waits for one.
        deadline: when the loop's patience ends (time.monotonic).
        kept: whether it can serve another request after this one.
        stream: of events, which the loop goes on with; None where there is none.
        chunked: whether the stream's events are chunks (RFC 9112, 7.1).
        unsent: of the stream, what the client does not take yet.
    """

    def __init__(self, cfg: Any, sock: Client, client: Any, server: Any, settings: Settings) -> None:
        super().__init__(cfg, sock, client, server)
        self.settings = settings
        self.incoming = Incoming(settings.max_upload_bytes)
        self.host = ""
        self.stage: Stage | None = None
        self.entered = self.deadline = 0.0
        self.noted = 0  # bytes of its body when its rate was last looked at
        self.space = 0  # bytes it has taken of `Worker.space`
        self.has_turn = False
        self.kept = False
        self.stream: Stream | None = None
        self.chunked = False
        self.unsent = b""
        self.data_ready = True  # a thread need not wait for the first byte

    def init(self) -> None:
        """Make the parser read what has come in. Runs in the thread."""
        super().init()
        self.sock.setblocking(False)
        self.parser.unreader = Arrived(self.incoming)

    def enter(self, stage: Stage, seconds: float) -> None:
        """Be in another stage from now on, for so long."""
        if self.stage is not None:
            del self.stage[self]
        stage[self] = None
        self.stage = stage
        self.entered = time.monotonic()
        self.deadline = self.entered + seconds

    def identify(self) -> None:
        """Find out whose request it is; a Unix socket has no address."""
        own = str(self.client[0]) if isinstance(self.client, tuple) else ""
        self.host = self.incoming.forwarded_for(self.settings.trusted_proxies) or own

    def next_request(self) -> bytes:
        """Begin anew; what has come in of the next request already."""
        rest: bytes = self.parser.unreader.rest()
        self.incoming.close()
        self.incoming = Incoming(self.settings.max_upload_bytes)
        return rest


def notice_the_vanished(listener: socket.socket) -> None:
    """Have the system find out about clients that vanish without a word; connections inherit this (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, VANISHED_SECONDS // 2)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, VANISHED_SECONDS // 6)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_SECONDS * 1000)
