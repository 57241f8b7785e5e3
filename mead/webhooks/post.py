"""One POST to a receiver that nobody trusts.

HTTP clients follow redirects, read whole answers, wait for each byte anew, and look up names themselves. This
sends one request to an address that was checked, reads no more than the head of the answer, and is done when
its time is up. It uses no proxy of the environment: that would look up the name again.
"""

from __future__ import annotations

import base64
import functools
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from mead.receivers import NOT_PUBLIC, AllowedReceivers, port_of

CONNECT_SECONDS = 5.0  # to connect to one address
LONGEST_HEAD = 16 * 2**10  # bytes of an answer that are read at most

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])\b")


class NotSentError(Exception):
    """There is no answer. The message says why, and nothing of the URL."""


class NotAllowedError(NotSentError):
    """The receiver has no address that may be connected to."""


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: AllowedReceivers, seconds: float) -> int:
    """Send a request; returns the status of the answer. Redirects are not followed.

    Args:
        seconds: until the head of the answer must be there. Looking up the name may take longer.

    Raises:
        NotSentError: there is no answer in time, or it is no HTTP.
        NotAllowedError: no address of the host is allowed.
    """
    parts = urlsplit(url)
    until = time.monotonic() + seconds
    try:
        with _connected(parts, allowed, until) as connection:
            connection.settimeout(_left(until))
            connection.sendall(_head(parts, {**headers, "Content-Length": str(len(body))}) + body)
            return _status(connection, until)
    except TimeoutError:
        raise NotSentError(f"there was no answer within {seconds:g} seconds") from None
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or "the connection broke off"
        raise NotSentError(f"TLS: {why}") from None
    except OSError as error:
        raise NotSentError(f"cannot connect: {error.strerror or type(error).__name__}") from None


def _connected(parts: SplitResult, allowed: AllowedReceivers, until: float) -> socket.socket:
    """A connection to the receiver, with TLS if its scheme says so.

    Raises:
        NotAllowedError, OSError
    """
    host = parts.hostname or ""
    failure: OSError | None = None
    for family, address in _addresses(parts):
        if not allowed.allows(host, str(address[0]), port_of(parts)):
            continue
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(min(CONNECT_SECONDS, _left(until)))
            connection.connect(address)
            connection.settimeout(_left(until))
            if parts.scheme == "https":
                return _tls().wrap_socket(connection, server_hostname=host)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure or NotAllowedError(NOT_PUBLIC)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all certificates, which takes tens of milliseconds


def _addresses(parts: SplitResult) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The receiver's addresses, each with its family.

    Raises:
        NotSentError: its name is not known.
    """
    try:
        found = socket.getaddrinfo(parts.hostname, port_of(parts), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSentError("its name cannot be looked up") from None
    yield from ((family, address) for family, *_, address in found)


def _head(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """The request's line and headers."""
    user, at, host = parts.netloc.rpartition("@")
    login = {}
    if at:
        name, _, password = user.partition(":")
        pair = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
        login["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{name}: {value}" for name, value in {**headers, **login, "Connection": "close"}.items()]
    return "\r\n".join([f"POST {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("ascii")


def _status(connection: socket.socket, until: float) -> int:
    """The status of the final answer; what comes after its line is not read."""
    received = b""
    while True:
        line, ended, rest = received.partition(b"\r\n")
        if ended:
            found = _STATUS.match(line)
            if found is None:
                raise NotSentError("the answer is not HTTP")
            if not found[1].startswith(b"1"):
                return int(found[1])
            _, ended, rest = received.partition(b"\r\n\r\n")  # an interim answer
            if ended:
                received = rest
                continue
        if len(received) > LONGEST_HEAD:
            raise NotSentError("the answer is not HTTP")
        connection.settimeout(_left(until))
        chunk = connection.recv(4096)
        if not chunk:
            raise NotSentError("the connection was closed without an answer")
        received += chunk


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
