"""The API for real use: `python caching_server.py`.

Checks what is asked for, stores its pictures, queues the job in Redis and answers when an inference server
has done it. Under a gunicorn of your own: `gunicorn -k caching_server.Worker --threads N
'caching_server:create_app()'`.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from caching_config import Settings
from mead import log
from mead.access import check_listening
from mead.api import create_app
from mead.decoder import give_back_memory

__all__ = ["create_app"]


class Worker(ThreadWorker):
    """gunicorn's threads; SIGTERM wakes the requests that wait: each is answered 503 with its job's id."""

    def handle(self, conn: TConn) -> Any:
        """Serve a request. A connection to be closed is seen off here, by the request's own thread.

        gunicorn would do it in the one loop that all connections depend on, and wait there for each client to
        hang up.
        """
        kept = super().handle(conn)
        if kept is False:
            see_off(conn.sock)
        return kept

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests, and answer those that wait."""
        super().handle_exit(sig, frame)
        if hasattr(self, "wsgi"):  # else it is told to stop while it starts
            self.method_queue.defer(self.wsgi.extensions["events"].close)  # no lock in a signal handler


class Log(Logger):
    """gunicorn's own lines, without those of its access log: `log_requests` writes one for each request."""

    access_log_enabled = False  # else each would be composed, for nobody to read


class CachingServer(BaseApplication):
    """gunicorn with a few processes of many threads: a request waiting for its picture is a sleeping thread.

    Each process has an app, and a listener to events, of its own; what they share is in Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn up from our settings alone."""
        options: dict[str, Any] = {
            "bind": f"{self.settings.host}:{self.settings.port}",
            "worker_class": Worker,
            "workers": self.settings.http_processes,
            "threads": self.settings.http_threads,
            "worker_connections": 4 * self.settings.http_threads,
            "backlog": 2048,
            "proc_name": "caching_server",
            "loglevel": "debug" if self.settings.debug else "info",
            "logger_class": Log,
            "logconfig_dict": log.configuration(self.settings),
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the app, in the worker process."""
        return create_app(self.settings)


def see_off(connection: socket.socket, seconds: float = 2.0) -> None:
    """Say that nothing more comes, and wait until the client has read it all and hung up, but not longer than
    `seconds` (RFC 9112, 9.6: closing at once may lose the end of the answer).
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):  # the time is up, or the client is gone
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(4096):
                break
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def allow_open_files(wanted: int = 65_536) -> None:
    """Raise this process's limit of open files, if it may: each client is one, each command another."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main() -> None:
    """Read the settings, look whether they may be listened on, serve."""
    settings = Settings()
    log.set_up(settings)
    check_listening(settings)
    allow_open_files()
    give_back_memory()
    CachingServer(settings).run()


if __name__ == "__main__":
    main()
