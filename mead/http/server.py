"""gunicorn with our worker, configured by the service's settings."""

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

CONNECTIONS_PER_THREAD = 4
OTHER_FILES = 32


class ErrorLogger(Logger):
    """gunicorn's logger without its access log: `mead.http.request_log` logs the requests."""

    access_log_enabled = False  # otherwise gunicorn would format each line


class CachingServer(BaseApplication):
    """gunicorn with a few processes of many threads; a request that waits for its picture holds a thread.

    Each process has its own app and its own subscription to events. They share only Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Configure gunicorn. Its own configuration files and options are not used."""
        options: dict[str, Any] = {
            "bind": self.settings.listening_at,
            "worker_class": Worker,
            "workers": self.settings.http_processes,
            "threads": self.settings.http_threads,
            "worker_connections": CONNECTIONS_PER_THREAD * self.settings.http_threads,
            "backlog": 2048,
            "proc_name": "caching_server",
            "loglevel": "debug" if self.settings.debug else "info",
            "logger_class": ErrorLogger,
            "logconfig_dict": log.configuration(self.settings),
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Create the app, in the worker process."""
        app = create_app(self.settings)
        gc.freeze()  # these objects stay: collections need not scan them
        return app


def allow_open_files(wanted: int = 65_536) -> None:
    """Raise this process's limit of open files where allowed: each connection needs one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def limit_threads(settings: Settings) -> Settings:
    """The settings, with fewer threads if the limit of open files requires it.

    Besides its client connections, a thread needs a connection to Redis and a file.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    threads = max(1, (files - OTHER_FILES) // (CONNECTIONS_PER_THREAD + 2))
    if files == resource.RLIM_INFINITY or threads >= settings.http_threads:
        return settings
    logging.getLogger("caching_server").warning(
        "fewer threads than HTTP_THREADS: the limit of open files is too low",
        extra={"threads": threads, "files": files},
    )
    return settings.model_copy(update={"http_threads": threads})
