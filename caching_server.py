"""The API for real use: `python caching_server.py`, or `gunicorn --threads N 'caching_server:create_app()'`.

Checks what is asked for, stores its pictures, queues the job in Redis and answers when an inference server
has done it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from caching_config import Settings
from mead.api import create_app

__all__ = ["create_app"]


class CachingServer(BaseApplication):
    """gunicorn with one process of many threads: a request waiting for its picture is a sleeping thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn up from our settings alone."""
        options: dict[str, Any] = {
            "bind": f"{self.settings.host}:{self.settings.port}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self.settings.http_threads,
            "worker_connections": 4 * self.settings.http_threads,
            "proc_name": "caching_server",
            "loglevel": "debug" if self.settings.debug else "info",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the app, in the worker process."""
        return create_app(self.settings)


if __name__ == "__main__":
    CachingServer(Settings()).run()
