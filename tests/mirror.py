"""A real HTTP server on 127.0.0.1 that serves files, well or in one of the ways that mirrors fail."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", "File"], None]
"""Answers one request in place of the file's own answer."""


@dataclass
class File:
    """What is served at a path.

    Attributes:
        etag, modified: sent with it, if any.
        ranges: whether a Range is honoured.
        length: whether the answer says how long it is.
        faults: how the next requests are answered, one each; the rest as they should be.
        asked: the headers of each request so far.
    """

    content: bytes | memoryview
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    faults: list[Fault] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers GET requests with the server's files."""

    server: Mirror

    def do_GET(self) -> None:
        file = self.server.files.get(self.path)
        if file is None:
            self.send_error(404)
            return
        file.asked.append(dict(self.headers))
        if file.faults:
            file.faults.pop(0)(self, file)
        else:
            self.answer(file)

    def answer(self, file: File, until: int | None = None, **headers: str) -> None:
        """The file, or the range asked for, as it should be; the connection is cut at byte `until` of it."""
        first = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        validator = self.headers.get("If-Range")
        if wanted and file.ranges and validator in (None, file.etag, file.modified):
            first = int(wanted[1])
            if first >= len(file.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(file.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            said = {"Content-Range": f"bytes {first}-{len(file.content) - 1}/{len(file.content)}"}
        else:
            self.send_response(200)
            said = {}
        if file.etag:
            said["ETag"] = file.etag
        if file.modified:
            said["Last-Modified"] = file.modified
        if file.length:
            said["Content-Length"] = str(len(file.content) - first)
        for name, value in (
            said | {name.replace("_", "-"): value for name, value in headers.items()}
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(file.content[first:until])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Mirror(ThreadingHTTPServer):
    """The server; `files` may be changed while it runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, File] = {}

    def add(self, path: str, content: bytes | memoryview, *faults: Fault, **options: object) -> str:
        """Serve a file; gives its address."""
        self.files[path] = File(content, faults=list(faults), **options)
        return self.url(path)

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to report."""


@contextmanager
def mirror() -> Iterator[Mirror]:
    """Run a mirror."""
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def cut_at(byte: int) -> Fault:
    """Say the whole length, send up to `byte` of the file, and hang up."""
    return lambda handler, file: handler.answer(file, until=byte)


def status(code: int, **headers: str) -> Fault:
    """Answer with a code and no file."""

    def answer(handler: Handler, file: File) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect_to(url: str) -> Fault:
    """Send the client elsewhere."""
    return status(302, Location=url)


def length_of(size: int) -> Fault:
    """Lie about the length: say `size`."""
    return lambda handler, file: handler.answer(file, Content_Length=str(size))


def gzipped(handler: Handler, file: File) -> None:
    """Send the file compressed, though nobody asked for that."""
    handler.answer(File(gzip.compress(file.content)), Content_Encoding="gzip")


def other_range(handler: Handler, file: File) -> None:
    """Answer a Range with another one."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-9/{len(file.content)}")
    handler.send_header("Content-Length", "10")
    handler.end_headers()
    handler.wfile.write(file.content[:10])


def halt_at(byte: int, reached: threading.Event, go_on: threading.Event) -> Fault:
    """Send up to `byte`, tell so, and send the rest when told to."""

    def answer(handler: Handler, file: File) -> None:
        handler.answer(file, until=byte)
        handler.wfile.flush()
        reached.set()
        go_on.wait(60)
        handler.wfile.write(file.content[byte:])

    return answer
