"""gunicorn with our worker, set up from the service's settings alone."""

from __future__ import annotations

import gc
import logging
import resource
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from mead import log
from mead.http.app import create_app
from mead.http.gunicorn_worker import Worker
from mead.settings import Settings

CONNECTIONS_A_THREAD = 4
OTHER_FILES = 32


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
            "bind": self.settings.listening_at,
            "worker_class": Worker,
            "workers": self.settings.http_processes,
            "threads": self.settings.http_threads,
            "worker_connections": CONNECTIONS_A_THREAD * self.settings.http_threads,
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
        app = create_app(self.settings)
        gc.freeze()  # what is there now stays: no collection need look at it
        return app


def allow_open_files(wanted: int = 65_536) -> None:
    """Raise this process's limit of open files, if it may: each client is one, each command another."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def within_open_files(settings: Settings) -> Settings:
    """The settings with no more threads than this process may have files open for: beside its connections,
    a thread needs one to Redis and a file.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    threads = max(1, (files - OTHER_FILES) // (CONNECTIONS_A_THREAD + 2))
    if files == resource.RLIM_INFINITY or threads >= settings.http_threads:
        return settings
    logging.getLogger("caching_server").warning(
        "fewer threads than HTTP_THREADS: too few files may be open",
        extra={"threads": threads, "files": files},
    )
    return settings.model_copy(update={"http_threads": threads})
