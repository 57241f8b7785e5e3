"""A receiver of webhooks that behaves well or badly, as the path of its URL says."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def job(self) -> dict[str, Any]:
        """The job that it tells of."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """An HTTP server on a free port of 127.0.0.1.

    /NUMBER answers with that status, /flaky with 500 twice and then with 200, /redirect leads to /200, /huge
    never stops answering, /slow answers nothing, /drip one byte at a time, /noise no HTTP; anything else is
    answered 200.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.answer(self, Received(self.path, headers, body))

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the client has hung up, as it should

        self._server = Server(("127.0.0.1", 0), Handler)
        self._stopped = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def url(self, path: str = "/hook") -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def stop(self) -> None:
        """Close it."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def statuses(self) -> Counter[str]:
        """How many requests told of each status."""
        return Counter(one.job["status"] for one in list(self.received))

    def answer(self, handler: BaseHTTPRequestHandler, request: Received) -> None:
        """Note a request, and answer it as its path says."""
        with self._lock:
            self.received.append(request)
            times = sum(one.path == request.path for one in self.received)
        name = request.path.partition("?")[0].strip("/")
        if name == "slow":
            self._stopped.wait(60)
        elif name == "noise":
            handler.wfile.write(b"220 mail.example.com ESMTP\r\n")
        elif name in ("drip", "huge"):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if name == "huge" else b"H")
            for _ in range(600):
                handler.wfile.write(b"a" if name == "drip" else b"X-More: " + b"a" * 2**16 + b"\r\n")
                if name == "drip":
                    time.sleep(0.1)
        else:
            status = 200
            if name == "flaky":
                status = 500 if times < 3 else 200
            elif name == "redirect":
                status = 307
            elif name.isdigit():
                status = int(name)
            handler.send_response(status)
            handler.send_header("Location", self.url("/200"))
            handler.end_headers()
