"""The servers of a fleet as named actors: finding, starting and stopping them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from mead.fleet.server import InferenceServer, ServerSpec, ServerState

PREFIX = "inference-server-"
STATE_SECONDS = 2.0  # for which all servers together may take to tell their state
STOP_SECONDS = 40.0  # for which servers may take to hand their jobs back


@dataclass(frozen=True)
class Server:
    """A server of the fleet.

    Attributes:
        name: of its actor, "inference-server-FINGERPRINT-RANDOM".
        actor: its handle.
        state: what it told last; None while it waits for room on a machine, or for Ray to start it again.
    """

    name: str
    actor: Any
    state: ServerState | None

    @property
    def fingerprint(self) -> str:
        """Of the spec that it was started with."""
        return self.name.removeprefix(PREFIX).partition("-")[0]


class Fleet:
    """The servers in one namespace of Ray. Ray must be connected.

    Args:
        namespace: keeps the fleets of several services apart.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._actors: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}  # references to answers that have not come yet
        self._states: dict[str, ServerState | None] = {}

    def names(self) -> list[str]:
        """The names of all actors in the namespace, those that wait for room among them."""
        actors = ray.util.list_named_actors(all_namespaces=True)
        return sorted(actor["name"] for actor in actors if actor["namespace"] == self.namespace)

    def servers(self) -> list[Server]:
        """All servers, and how they are."""
        names = [name for name in self.names() if name.startswith(PREFIX)]
        for known in (self._actors, self._asked, self._states):
            for gone in known.keys() - set(names):
                del known[gone]
        for name in names:
            actor = self._actors.get(name) or self._find(name)
            if actor is not None and name not in self._asked:
                self._asked[name] = actor.state.remote()
        asked = list(self._asked.values())
        answered = set(ray.wait(asked, num_returns=len(asked), timeout=STATE_SECONDS)[0]) if asked else set()
        for name, ref in list(self._asked.items()):
            if ref in answered:
                self._states[name] = _answer(self._asked.pop(name))
        return [Server(name, actor, self._states.get(name)) for name, actor in sorted(self._actors.items())]

    def start(self, spec: ServerSpec) -> str:
        """Start a server wherever there is room, now or later; returns its name."""
        name = f"{PREFIX}{spec.fingerprint}-{secrets.token_hex(3)}"
        options = {"lifetime": "detached", "max_restarts": -1, "num_cpus": spec.cpus, "num_gpus": spec.gpus}
        actor_class: Any = ray.remote(InferenceServer)
        actor_class.options(name=name, namespace=self.namespace, **options).remote(name, spec)
        return name

    def stop(self, servers: Iterable[Server]) -> None:
        """Stop servers; they hand their jobs back. One that does not in STOP_SECONDS is killed."""
        stopping: Sequence[Server] = list(servers)
        refs = [server.actor.stop.remote() for server in stopping if server.state is not None]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
        for server in stopping:
            ray.kill(server.actor, no_restart=True)

    def _find(self, name: str) -> Any:
        try:
            self._actors[name] = ray.get_actor(name, namespace=self.namespace)
        except ValueError:  # it has just gone
            return None
        return self._actors[name]


def no_room(spec: ServerSpec) -> str | None:
    """Why one more server would have to wait for room, in a sentence; None if no reason is known."""
    needed = {name: number for name, number in (("GPU", spec.gpus), ("CPU", spec.cpus)) if number}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= needed[name] for name in needed) for machine in machines):
        most = {name: max((machine.get(name, 0) for machine in machines), default=0) for name in needed}
        return (
            f"a server needs {_told(needed)}, and a machine of the cluster has at most {_told(most)}: add "
            "one that has it, or ask for less (--gpus-per-server, --cpus-per-server)"
        )
    free = {name: ray.available_resources().get(name, 0) for name in needed}
    if any(free[name] < needed[name] for name in needed):
        return f"a server needs {_told(needed)}, and of all machines only {_told(free)} is free"
    return None


def _told(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{number:g} {name}" for name, number in resources.items()) or "nothing"


def _answer(ref: Any) -> ServerState | None:
    """A server's answer; None if its actor has died."""
    try:
        state: ServerState = ray.get(ref, timeout=1)
    except (RayError, GetTimeoutError):
        return None
    return state
