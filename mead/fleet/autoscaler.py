"""The actor that keeps as many inference servers as the load needs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from ray.exceptions import RayError
from ray.util.metrics import Gauge

from mead import log as logs
from mead.fleet.fleet import Fleet, Server, no_room
from mead.fleet.load import FleetLoad, LoadObserver
from mead.fleet.scaling import QueueLoad, ScalingPolicy, servers_needed, servers_wanted
from mead.fleet.server import FAILURE_PAUSE, ServerSpec
from mead.queue.client import connect
from mead.queue.jobs import Jobs
from mead.queue.redis_errors import explain
from mead.settings import Settings

log = logging.getLogger(__name__)

NAME = "autoscaler"
PERIOD = 2.0  # seconds between two looks


@dataclass(frozen=True)
class ServerStatus:
    """A server as `mead ray status` shows it.

    Attributes:
        state: "waiting" for room on a machine (or restarted by Ray), "starting", or "running".
        running: jobs that it holds.
        steps_per_second: of all its jobs.
    """

    name: str
    state: str
    node: str | None
    worker: str | None
    running: int
    steps_per_second: float


@dataclass(frozen=True)
class FleetStatus:
    """The fleet as it was found last.

    Attributes:
        problem: why the number of servers stays as it is, such as that Redis is away; None if all is well.
        no_room: what servers wait for that are not on a machine; None if there are none, or it is not known.
    """

    policy: ScalingPolicy
    wanted: int
    servers: Sequence[ServerStatus]
    queues: dict[str, QueueLoad]
    problem: str | None = None
    no_room: str | None = None


class Autoscaler:
    """Starts and stops servers as `mead.fleet.scaling` decides. It keeps no state that a restart would lose.

    Args:
        namespace: of the fleet.
        spec: how servers are started.
        policy: how many there may be.
    """

    def __init__(self, namespace: str, spec: ServerSpec, policy: ScalingPolicy) -> None:
        self._spec = spec
        self._policy = policy
        self._fleet = Fleet(namespace)
        self._history: deque[tuple[float, int]] = deque()
        self._status: FleetStatus | None = None
        os.environ.update(spec.environment)
        threading.Thread(target=self._run, name="autoscaler", daemon=True).start()

    def status(self) -> FleetStatus | None:
        """The fleet as it was found last; None before the first look."""
        return self._status

    def _run(self) -> None:
        try:
            settings = Settings()
            logs.set_up(settings)
            jobs = Jobs(connect(settings.redis_url, prefix=settings.redis_prefix), settings.job_ttl)
            observer, metrics = LoadObserver(settings, jobs), _Metrics()
            while True:
                self._look(observer, metrics)
                time.sleep(PERIOD)
        except BaseException:
            log.critical("the autoscaler has failed", exc_info=True)
            time.sleep(FAILURE_PAUSE)
            os._exit(1)  # an exit that Ray does not expect, so that it starts the actor again

    def _look(self, observer: LoadObserver, metrics: _Metrics) -> None:
        """Look at load and servers once, and start or stop what is needed."""
        try:
            servers = self._fleet.servers()
            load, problem = self._observe(observer)
            if load is None:
                wanted = max(len(servers), self._policy.minimum)
            else:
                wanted = self._decide(load, len(servers))
                metrics.set(load, len(servers), wanted)
            queues = dict(load.queues) if load is not None else {}
            waits = wanted > sum(server.state is not None for server in servers)
            shown, room = _shown(servers, load), no_room(self._spec) if waits else None
            self._status = FleetStatus(self._policy, wanted, shown, queues, problem, room)
            self._change(servers, load, wanted)
        except RayError as error:
            log.warning("Ray does not answer: %s", error)

    def _observe(self, observer: LoadObserver) -> tuple[FleetLoad | None, str | None]:
        """The load; or None, and why it is not known."""
        try:
            return observer.observe(), None
        except redis.RedisError as error:
            log.warning("%s; the number of servers stays", explain(error))
            return None, explain(error)

    def _decide(self, load: FleetLoad, current: int) -> int:
        now = time.monotonic()
        self._history.append((now, servers_needed(load.queues.values(), self._policy)))
        while len(self._history) > 1 and self._history[1][0] <= now - self._policy.quiet_seconds:
            self._history.popleft()
        return servers_wanted(self._history, current, self._policy)

    def _change(self, servers: Sequence[Server], load: FleetLoad | None, wanted: int) -> None:
        for _ in range(wanted - len(servers)):
            name = self._fleet.start(self._spec)
            log.info("server started", extra={"server": name, "wanted": wanted})
        if load is None or len(servers) <= wanted:
            return
        stopping = to_stop(servers, load, len(servers) - wanted)
        for server in stopping:
            log.info("server stopped", extra={"server": server.name, "wanted": wanted})
        self._fleet.stop(stopping)


def to_stop(servers: Sequence[Server], load: FleetLoad, number: int) -> list[Server]:
    """Up to `number` servers that hold no job: first those that wait for room or start, then idle ones."""
    idle = [server for server in servers if not load.held.get(_worker(server) or "", 0)]
    return sorted(idle, key=lambda server: _worker(server) is not None)[:number]


def _worker(server: Server) -> str | None:
    return server.state.worker if server.state is not None else None


def _shown(servers: Sequence[Server], load: FleetLoad | None) -> list[ServerStatus]:
    shown = []
    for server in servers:
        state = "waiting" if server.state is None else "running" if server.state.worker else "starting"
        worker, node = _worker(server), server.state.node if server.state is not None else None
        heartbeat = load.workers.get(worker) if load is not None and worker is not None else None
        speed = sum(one.steps_per_second for one in heartbeat.queues.values()) if heartbeat else 0.0
        running = load.held.get(worker, 0) if load is not None and worker is not None else 0
        shown.append(ServerStatus(server.name, state, node, worker, running, speed))
    return shown


class _Metrics:
    """Metrics of the fleet, which Ray exports beside its own."""

    def __init__(self) -> None:
        self.servers = Gauge("mead_servers", "Inference servers of the fleet.")
        self.wanted = Gauge("mead_servers_wanted", "Inference servers that the load needs.")
        self.waiting = Gauge("mead_queue_length", "Queued jobs.", ("queue",))
        self.arrivals = Gauge("mead_arrivals_per_second", "Jobs accepted per second.", ("queue",))

    def set(self, load: FleetLoad, servers: int, wanted: int) -> None:
        """Set them to what was found."""
        self.servers.set(servers)
        self.wanted.set(wanted)
        for queue, one in load.queues.items():
            self.waiting.set(one.waiting, {"queue": queue})
            self.arrivals.set(one.arrivals, {"queue": queue})
