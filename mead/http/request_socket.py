"""The client's socket behind a Flask request."""

from __future__ import annotations

import select
import socket
from typing import Any

from flask import Request


def is_disconnected(request: Request) -> bool:
    """Whether the client has closed its connection, or its sending side of it; False if that is unknown."""
    connection = _socket_of(request)
    if connection is None:
        return False
    if hasattr(select, "POLLRDHUP"):
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)  # POLLHUP and POLLERR are always reported
        return bool(poll.poll(0))
    try:  # other systems: only unread data can hide a closed connection
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # open, and nothing to read
        return False
    except ValueError:  # TLS sockets cannot peek
        return False
    except OSError:
        return True


def start_waiting(request: Request) -> None:
    """Tell our gunicorn worker that this request only waits from now on, and needs no slot of its client."""
    callback = getattr(_socket_of(request), "start_waiting", None)
    if callback is not None:
        callback()


def can_hand_over(request: Request) -> bool:
    """Whether the server can continue a stream without the thread that has started it."""
    return bool(getattr(_socket_of(request), "can_hand_over", False))


def _socket_of(request: Request) -> Any:
    return request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
