"""One inference server of a fleet: an actor that keeps the server's process running."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import ray
import redis
from pydantic import ValidationError
from ray.util.metrics import Gauge

from mead import log as logs
from mead.installation import ROOT
from mead.processes.child import Child
from mead.queue.client import connect
from mead.queue.heartbeats import Heartbeat
from mead.queue.jobs import Jobs
from mead.queue.keys import worker_key
from mead.queue.redis_errors import explain
from mead.settings import Settings

log = logging.getLogger(__name__)

RESTARTS = 5  # of the process, in a row; after that, another machine may do better
PERIOD = 1.0  # seconds between two looks at the process
METRICS_SECONDS = 5.0
FAILURE_PAUSE = 5.0  # seconds before an actor that cannot work is started again


@dataclass(frozen=True)
class ServerSpec:
    """How the servers of a fleet are started.

    Attributes:
        environment: their settings. Ray keeps them with the actor; they are not shown in its dashboard.
        cpus, gpus: what Ray reserves for each; a fraction is a share of one.
        command: the program and its arguments; inference_server.py if empty.
    """

    environment: Mapping[str, str]
    cpus: float = 1.0
    gpus: float = 0.0
    command: Sequence[str] = field(default=())

    @property
    def fingerprint(self) -> str:
        """A short hash; servers of different specs have different ones."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ServerState:
    """What a server tells of itself.

    Attributes:
        node: address of its machine.
        pid: of the inference server's process; None once that has stopped for good.
        worker: the name under which it claims jobs; None while it starts.
    """

    node: str
    pid: int | None
    worker: str | None


class InferenceServer:
    """Runs an inference server as a child process; the methods are called by the autoscaler.

    The process ends with the actor, even if that is killed: the kernel then sends SIGTERM, so that the server
    hands its jobs back. If the process exits, it is restarted here, RESTARTS times in a row. Then the actor
    exits, and Ray starts it again wherever there is room.

    Args:
        name: the actor's.
        spec: how to start the server.
    """

    def __init__(self, name: str, spec: ServerSpec) -> None:
        self._name = name
        self._spec = spec
        self._stop = threading.Event()
        self._child: Child | None = None
        self._worker: str | None = None
        os.environ.update(spec.environment)
        # The kernel ends a child with the thread that has started it, so one thread does all that.
        self._thread = threading.Thread(target=self._run, name="inference server")
        self._thread.start()

    def state(self) -> ServerState:
        """How it is."""
        child = self._child
        pid = None if child is None or self._stop.is_set() else child.process.pid
        return ServerState(ray.util.get_node_ip_address(), pid, self._worker)

    def stop(self) -> None:
        """Stop the server for good: it finishes its step and hands its jobs back, within seconds."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            settings = Settings()
            logs.set_up(settings)
            jobs = Jobs(connect(settings.redis_url, prefix=settings.redis_prefix), settings.job_ttl)
            metrics = _Metrics(self._name)
            command = self._spec.command or [sys.executable, str(ROOT / "inference_server.py")]
            with Child("inference server", command, self._spec.environment, logs=None) as child:
                child.restarts = RESTARTS
                self._child = child
                due = 0.0
                while not self._stop.wait(PERIOD):
                    child.check()
                    self._look_up_worker(jobs, child.process.pid)
                    if self._worker and time.monotonic() >= due:
                        metrics.set(jobs, self._worker)
                        due = time.monotonic() + METRICS_SECONDS
        except BaseException as error:
            log.error(str(error), extra={"server": self._name})
            time.sleep(FAILURE_PAUSE)
            os._exit(1)  # an exit that Ray does not expect, so that it starts the actor again

    def _look_up_worker(self, jobs: Jobs, pid: int) -> None:
        """Find the name in the process's heartbeat: `mead.worker.worker.new_name` begins it so."""
        begins = f"{socket.gethostname()}-{pid}-"
        if self._worker is not None and self._worker.startswith(begins):
            return
        self._worker = None
        try:
            self._worker = next((name for name in jobs.workers() if name.startswith(begins)), None)
        except redis.RedisError as error:
            log.warning("the worker is not known: %s", explain(error), extra={"server": self._name})


class _Metrics:
    """Metrics of one server, which Ray exports beside its own."""

    def __init__(self, server: str) -> None:
        self.server = server
        keys = ("server", "queue")
        self.running = Gauge("mead_batch_occupancy", "Jobs that a server runs now.", keys)
        self.speed = Gauge("mead_steps_per_second", "Optimisation steps per second.", keys)
        self.memory = Gauge("mead_worker_memory_bytes", "Resident memory of the process.", ("server",))

    def set(self, jobs: Jobs, worker: str) -> None:
        """Set them to what the worker's heartbeat says."""
        try:
            found = cast("str | None", jobs.redis.get(worker_key(worker)))
            heartbeat = Heartbeat.model_validate_json(found or "")
        except (redis.RedisError, ValidationError):
            return  # the server itself logs why
        for queue, load in heartbeat.queues.items():
            tags = {"server": self.server, "queue": queue}
            self.running.set(load.running, tags)
            self.speed.set(load.steps_per_second, tags)
        self.memory.set(heartbeat.memory_bytes, {"server": self.server})
