"""A worker: the threads of one inference server. One per engine, and one that keeps the heartbeat."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis

from mead.engine import Engine
from mead.jobs import Jobs
from mead.storage import Storage

log = logging.getLogger(__name__)


def new_name() -> str:
    """A name no other worker has or had: its machine, its process and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class Worker:
    """Runs engines side by side, says that it lives, and removes results that are too old.

    Args:
        name: the name under which the engines claim.
        ttl: seconds after its last heartbeat that the worker counts as dead.
    """

    def __init__(
        self, name: str, engines: Sequence[Engine[Any]], jobs: Jobs, storage: Storage, ttl: int
    ) -> None:
        self.name = name
        self.engines = engines
        self.jobs = jobs
        self.storage = storage
        self.ttl = ttl
        self.queues = [engine.queue for engine in engines]
        self._broken: list[BaseException] = []

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set and every job is put back.

        Raises:
            BaseException: whatever broke one of the threads; the others have stopped too, so that a worker
                with a dead engine never looks alive.
        """
        duties = [self._beat, *(engine.run for engine in self.engines)]
        threads = [threading.Thread(target=self._guard, args=[duty, stop]) for duty in duties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            self.jobs.leave(self.name, self.queues)
        except redis.RedisError as error:
            log.warning("cannot take the heartbeat back: %s", error)
        if self._broken:
            raise self._broken[0]

    def _guard(self, duty: Callable[[threading.Event], None], stop: threading.Event) -> None:
        try:
            duty(stop)
        except BaseException as error:
            self._broken.append(error)
            stop.set()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.jobs.beat(self.name, self.queues, self.ttl)
                self.storage.remove_old_results(self.jobs.ttl)
            except (redis.RedisError, OSError) as error:
                log.warning("heartbeat: %s", error)
            stop.wait(self.ttl / 3)
