"""Incoming requests, buffered piece by piece until they are complete.

This only finds where a request ends, so that threads get complete requests. gunicorn's parser then reads the
same bytes: where the two disagree, the parser reaches the end of the buffered data.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import threading
from typing import IO, Protocol

from gunicorn.http.unreader import Unreader

from mead.http.errors import ApiError

MAX_HEAD = 64 * 2**10  # bytes of the request line and headers
IN_MEMORY = 256 * 2**10  # bytes of a request; a longer one is written to a temporary file
MAX_READ = 2**20  # bytes that the parser reads at a time
MAX_CHUNK_LINE = 8190  # as gunicorn's parser has it

BARE_NEWLINE = re.compile(rb"(?<!\r)\n")
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked[ \t]*\r\n", re.IGNORECASE)
EXPECT_CONTINUE = re.compile(rb" HTTP/1\.1\r\n(?:.*\r\n)*?expect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
NEEDS_HOST = re.compile(rb"\A(?:\r\n)*[^\r\n]* HTTP/1\.1\r\n")
HOST = re.compile(rb"\r\nhost:", re.IGNORECASE)
FORWARDED_FOR = re.compile(rb"\r\nx-forwarded-for:([^\r\n]*)", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\r\n")


class IncomingRequest:
    """A request that is received piece by piece.

    Args:
        max_body: bytes; a request with a longer body is `ready` before its end.

    Attributes:
        size: bytes received.
        ready: whether a thread can serve it: it is complete, or can already be refused.
        truncated: whether it is ready before its end; its connection cannot be used again.
        has_head: whether all headers were received.
        path: the path of the request; empty until all headers were received.
        expects_continue: whether the client waits for `100 Continue` before it sends the body.
    """

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self.size = 0
        self.ready = self.truncated = self.has_head = self.expects_continue = False
        self.path = b""
        self._head = b""
        self._bytes = bytearray()  # the whole request, unless there is a file
        self._file: IO[bytes] | None = None
        self._body: _Body = _FixedLengthBody(0)

    def feed(self, data: bytes) -> None:
        """Add the next piece.

        Raises:
            ApiError: 414 or 431, the headers are too long; 400, a chunk is malformed or there is no Host.
            OSError: it cannot be written to the disk.
        """
        self.size += len(data)
        if self.has_head:
            self._store(data)
        else:
            before = len(self._bytes)
            self._bytes += data
            end = self._bytes.find(b"\r\n\r\n", max(0, before - 3))
            if end < 0:
                self._check_head(before)
                return
            self._read_head(bytes(self._bytes[: end + 2]))
            data = bytes(self._bytes[end + 4 :])
        complete = self._body.ends_with(data)
        if complete or self._body.size > self.max_body or self.size > 3 * self.max_body + MAX_HEAD:
            self.ready = True
            self.truncated = not complete

    def forwarded_for(self, proxies: int) -> str:
        """The client's address by X-Forwarded-For, behind this many trusted proxies; "" if unknown."""
        if not proxies:
            return ""
        addresses = b",".join(FORWARDED_FOR.findall(self._head)).split(b",")
        return addresses[-proxies].strip().decode("latin-1") if len(addresses) >= proxies else ""

    def source(self) -> IO[bytes]:
        """The whole request, as a file at its beginning."""
        if self._file is None:
            return io.BytesIO(self._bytes)
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # buffered data that cannot be written is not needed
                self._file.close()

    def _store(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            return
        self._bytes += data
        if len(self._bytes) > IN_MEMORY:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the request
            self._file.write(self._bytes)
            self._bytes.clear()

    def _check_head(self, seen: int) -> None:
        if BARE_NEWLINE.search(self._bytes, seen):
            self.ready = self.truncated = True  # the parser says what is wrong
        elif len(self._bytes) > MAX_HEAD:
            if b"\r\n" in self._bytes:
                raise ApiError(431, f"the headers are longer than {MAX_HEAD} bytes")
            raise ApiError(414, f"the request line is longer than {MAX_HEAD} bytes")

    def _read_head(self, head: bytes) -> None:
        if len(head) <= MAX_HEAD and NEEDS_HOST.match(head) and len(HOST.findall(head)) != 1:  # RFC 9112, 3.2
            raise ApiError(400, "a request of HTTP/1.1 must have one header Host")
        self.has_head = True
        self._head = head
        self.path = b"".join(head.split(None, 2)[1:2]).partition(b"?")[0]
        if CHUNKED.search(head):
            self._body = _ChunkedBody()
        elif length := CONTENT_LENGTH.search(head):
            self._body = _FixedLengthBody(int(length[1]))
        self.expects_continue = b"100-" in head and EXPECT_CONTINUE.search(head) is not None


class _Body(Protocol):
    """Finds the end of a body.

    Attributes:
        size: bytes of the content, as far as it is known.
    """

    size: int

    def ends_with(self, data: bytes) -> bool:
        """Whether the body ends with this piece, or within it.

        Raises:
            ApiError: 400, it is malformed.
        """


class _FixedLengthBody:
    """A body with a Content-Length."""

    def __init__(self, length: int) -> None:
        self.size = length
        self._missing = length

    def ends_with(self, data: bytes) -> bool:
        self._missing -= len(data)
        return self._missing <= 0


class _ChunkedBody:
    """A chunked body (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.size = 0
        self._missing = 0  # bytes of the chunk
        self._line = b""
        self._next = self._size_line

    def ends_with(self, data: bytes) -> bool:
        at = 0
        while at < len(data):
            if self._missing:
                step = min(self._missing, len(data) - at)
                self._missing -= step
                self.size += step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            if len(self._line) > MAX_CHUNK_LINE:
                raise ApiError(400, "a line between two chunks of the body is too long")
            if not end:
                return False
            at = end
            line, self._line = self._line, b""
            if self._next(line):
                return True
        return False

    def _size_line(self, line: bytes) -> bool:
        size = CHUNK_SIZE.fullmatch(line)
        if not size:
            raise ApiError(400, "a chunk of the body has no valid size")
        self._missing = int(size[1], 16)
        self._next = self._end_of_chunk if self._missing else self._trailer
        return False

    def _end_of_chunk(self, line: bytes) -> bool:
        if line != b"\r\n":
            raise ApiError(400, "a chunk of the body is longer than its size")
        self._next = self._size_line
        return False

    def _trailer(self, line: bytes) -> bool:
        return line == b"\r\n"


class BufferedUnreader(Unreader):
    """Passes a buffered request to gunicorn's parser, which never waits for the client.

    Attributes:
        exhausted: whether the parser has asked for more than was buffered.
    """

    def __init__(self, request: IncomingRequest) -> None:
        super().__init__()
        self.exhausted = False
        self._source = request.source()
        self._left = request.size

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next piece; empty at the end."""
        if not self._left:
            self.exhausted = True
            return b""
        data = self._source.read(max(io.DEFAULT_BUFFER_SIZE, min(size_hint or 0, MAX_READ)))
        self._left -= len(data)
        if not self._left:
            self._source.close()  # the request may wait for long, and needs its file no more
        return data

    def rest(self) -> bytes:
        """What was received after the request: the beginning of the next one."""
        return bytes(self.take_buffered()) + (self._source.read() if self._left else b"")


class ByteBudget:
    """Bytes that all incoming requests together may take up."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes; False if there are not so many left."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give_back(self, size: int) -> None:
        """Return `size` bytes."""
        with self._lock:
            self._free += size
