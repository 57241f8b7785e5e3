"""Inference servers on a Ray cluster whose machines come and go: `python -m benchmarks.ray_chaos`.

A cluster of several nodes runs on this machine, with room for one inference server on each, and a Redis
beside it. Two runs:

- chaos: while jobs are enqueued at an even pace, every few seconds a node is shut down or loses its power
  (all its processes are killed at once), a server's actor, a server's process or the autoscaler is killed,
  and nodes that went are added again. Then everything is left alone until the jobs have ended, and the
  records, the counters and the folder are compared with what was enqueued. Lost, ended twice, stuck and
  processes left over must all be 0.
- scaling: jobs are enqueued at once while one server runs; the number of servers is noted until it is one
  again.

The head node has no room for servers and is left alone, as is Redis: `benchmarks.chaos` hits that one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import ray
import redis
from ray.cluster_utils import Cluster

from caching_config import Settings, connect
from mead.cli.local_redis import local_redis
from mead.fleet import cluster as fleets
from mead.fleet.fleet import Fleet
from mead.fleet.scaling import ScalingPolicy
from mead.fleet.server import ServerSpec
from mead.installation import ROOT
from mead.queue.job import ENDED, new_ids
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key, processing_key
from mead.registry import MODELS

WORKER_TTL = 3  # seconds; short, so that the jobs of a lost node are soon put back
PATIENCE = 300.0  # seconds that jobs may take to end once there is peace
NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
NOTICE = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
}
"""How soon Ray notices that a node is lost."""
COLOURS = (sys.executable, str(ROOT / "tests" / "colour_server.py"))
"""An inference server without networks: it needs no weights, and a step takes a hundredth of a second."""
SPEC = next(iter(MODELS.values()))


class RayNodes:
    """The nodes of a cluster on this machine, of which all but the head come and go."""

    def __init__(self, number: int) -> None:
        self.number = number
        head = {"num_cpus": 0, "_system_config": NOTICE, **NODE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []
        for _ in range(number):
            self.add()

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self.cluster.address)

    def add(self) -> None:
        """Add a node with room for one server."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, **NODE))

    def shut_down(self, node: Any) -> None:
        """End a node as `ray stop` does."""
        self.nodes.remove(node)
        self.cluster.remove_node(node)

    def lose_power(self, node: Any) -> None:
        """Kill every process of a node at once, those that its servers have started among them."""
        self.nodes.remove(node)
        everyone = with_descendants([one.process.pid for ones in node.all_processes.values() for one in ones])
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them sees another one's end
            for pid in everyone:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        """End all nodes."""
        self.cluster.shutdown()


@dataclass
class Stage:
    """What a run happens on."""

    nodes: RayNodes
    fleet: Fleet
    jobs: Jobs
    settings: Settings
    spec: ServerSpec
    enqueued: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    def enqueue(self, number: int, iterations: int, seconds: float = 0.0) -> list[str]:
        """Enqueue jobs as a client's POST does, but for HTTP; at an even pace, within so many seconds."""
        began, before = time.monotonic(), len(self.enqueued)
        for seed in range(number):
            time.sleep(max(0.0, began + seed * seconds / number - time.monotonic()))
            parameters = {"prompt": "red", "seed": seed, "iterations": iterations, "upscale": 1}
            (job_id,) = new_ids(1)
            self.jobs.enqueue(job_id, SPEC.type, self.settings.queue(SPEC), parameters)
            self.enqueued.append(job_id)
        return self.enqueued[before:]

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs."""
        self.cancelled.update(self.jobs.cancel_all(job_ids))

    def all_ended(self) -> bool:
        """Whether no job waits or runs."""
        found = self.jobs.outcomes(self.enqueued)
        return all(job_id in found and found[job_id].status in ENDED for job_id in self.enqueued)


@contextmanager
def stage(folder: Path, nodes: int, policy: ScalingPolicy, command: Sequence[str] = ()) -> Iterator[Stage]:
    """Run Redis, a cluster and a fleet; stop all of it at the end.

    Args:
        folder: for data and logs.
        nodes: number of nodes beside the head.
        command: of a server; inference_server.py if empty.
    """
    with local_redis(folder / "redis", logs=folder) as (_, redis_url):
        given = {
            "REDIS_URL": redis_url,
            "DATA_DIR": str(folder / "data"),
            "WORKER_TTL": str(WORKER_TTL),
            "SERVER_SLEEP": "0.2",
            "TORCH_THREADS": "1",
        }
        settings = Settings(redis_url=redis_url, data_dir=folder / "data", worker_ttl=WORKER_TTL)
        spec = ServerSpec(fleets.server_environment(settings, given, gpus=0), command=tuple(command))
        ray_nodes = RayNodes(nodes)
        try:
            with fleets.connected(ray_nodes.address, "mead") as fleet:
                jobs = Jobs(connect(settings), settings.job_ttl)
                fleets.up(fleet, spec, policy)
                try:
                    wait_until(lambda: jobs.workers(), "no server starts", 120)
                    yield Stage(ray_nodes, fleet, jobs, settings, spec)
                finally:
                    fleets.down(fleet)
        finally:
            ray_nodes.stop()


# Chaos


class Chaos:
    """Hits something every few seconds.

    Attributes:
        hits: how often what was done.
    """

    def __init__(self, on: Stage, every: float, seed: int) -> None:
        self.stage = on
        self.every = every
        self.random = random.Random(seed)
        self.hits: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Hit for so long; then add the nodes that are missing."""
        nodes, end = self.stage.nodes, time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.every * self.random.uniform(0.5, 1.5))
            missing = nodes.number - len(nodes.nodes)
            # A node at least stays, and one at most is away for long.
            if missing and (missing > 1 or len(nodes.nodes) == 1 or self.random.random() < 0.5):
                nodes.add()
                self.hits["node added"] += 1
            else:
                self.hit()
        while len(nodes.nodes) < nodes.number:
            nodes.add()

    def hit(self) -> None:
        """Do one of the things."""
        nodes = self.stage.nodes
        what = self.random.choices(
            ["node shut down", "node lost", "actor killed", "process killed", "autoscaler killed"],
            [3, 3, 2, 2, 1],
        )[0]
        if what == "node shut down":
            nodes.shut_down(self.random.choice(nodes.nodes))
        elif what == "node lost":
            nodes.lose_power(self.random.choice(nodes.nodes))
        elif what == "autoscaler killed":
            with suppress(ValueError):
                ray.kill(ray.get_actor("autoscaler", namespace=self.stage.fleet.namespace), no_restart=False)
        else:
            pids = [server.state.pid for server in self.stage.fleet.servers() if server.state is not None]
            living = parents()
            servers = [pid for pid in pids if pid in living]
            if not servers:
                return
            pid = self.random.choice(servers)
            with suppress(ProcessLookupError):
                os.kill(living[pid] if what == "actor killed" else pid, signal.SIGKILL)
        self.hits[what] += 1


@dataclass
class Books:
    """What a run came to. Each of the lists holds a line for each thing that must not be."""

    enqueued: int
    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    ended_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.ended_twice or self.stuck)


def check(on: Stage) -> Books:
    """Compare the records, the counters and the folder with what was enqueued."""
    books = Books(len(on.enqueued))
    client: Any = on.jobs.redis
    records: dict[str, Mapping[str, str]] = {}
    for job_id in on.enqueued:
        record = records[job_id] = client.hgetall(job_key(job_id))
        if not record:
            books.lost.append(f"{job_id} has no record")
        elif record["status"] not in ENDED:
            books.stuck.append(f"{job_id} is {record['status']}")
        else:
            books.ended[record["status"]] += 1
            books.attempts[int(record["attempts"])] += 1
            if record["status"] == "cancelled" and job_id in on.cancelled:
                continue
            if record["status"] != "succeeded":
                books.lost.append(f"{job_id} is {record['status']}: {record.get('error')}")
            elif not (on.settings.data_dir / "results" / record["out_path"]).is_file():
                books.lost.append(f"{job_id} has no picture")
    counted = on.jobs.statistics()[SPEC.type].ended
    for status in ENDED:
        if counted[status] != books.ended[status]:
            books.ended_twice.append(f"{counted[status]} are counted as {status}, {books.ended[status]} are")
    pictures = Counter(
        path.name.partition(".")[0] for path in (on.settings.data_dir / "results").glob("*.png")
    )
    books.ended_twice += [
        f"{job_id} has {number} pictures" for job_id, number in pictures.items() if number > 1
    ]
    for queue in on.settings.queues:
        for key in [queue, *client.scan_iter(processing_key(queue, "*"), count=1000)]:
            books.stuck += [f"{job_id} is in {key}" for job_id in client.lrange(key, 0, -1)]
    return books


def parents() -> dict[int, int]:
    """The processes of this machine, without those that have ended, and the parent of each."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                found[int(stat.parent.name)] = int(parent)
    return found


def with_descendants(pids: Sequence[int]) -> set[int]:
    """These processes, and all that they have started."""
    parent_of, found = parents(), set(pids)
    while more := {pid for pid, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found


def processes_of(folder: Path) -> list[int]:
    """The inference servers that work in a folder."""
    ours = f"DATA_DIR={folder / 'data'}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if ours in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


@dataclass
class Run:
    """A run of chaos: its books, what was done, and how long it took."""

    books: Books
    hits: Counter[str]
    peace_seconds: float
    left_over: list[int]

    @property
    def clean(self) -> bool:
        """Whether all is well."""
        return self.books.clean and not self.left_over


def run_chaos(
    folder: Path,
    *,
    nodes: int,
    jobs: int,
    iterations: int,
    seconds: float,
    every: float,
    seed: int,
    command: Sequence[str] = (),
) -> Run:
    """Enqueue `jobs` jobs over `seconds` while something is hit about `every` seconds."""
    with stage(folder, nodes, ScalingPolicy(nodes, nodes), command) as on:
        enqueuing = threading.Thread(target=on.enqueue, args=[jobs, iterations, seconds])
        enqueuing.start()
        chaos = Chaos(on, every, seed)
        try:
            chaos.run(seconds)  # in this thread, as Ray's nodes set handlers of signals
        finally:
            enqueuing.join()
        left_alone = time.monotonic()
        with suppress(TimeoutError):
            wait_until(on.all_ended, "jobs do not end", PATIENCE)
        peace, books = time.monotonic() - left_alone, check(on)
    with suppress(TimeoutError):
        wait_until(lambda: not processes_of(folder), "processes are left over", 10)
    return Run(books, chaos.hits, peace, processes_of(folder))


# Scaling


@dataclass
class Growth:
    """The servers of a run of scaling.

    Attributes:
        changes: seconds since the jobs were enqueued, jobs that waited, servers wanted, servers at work;
            whenever one of the last two had changed.
        ended: seconds until the last job had ended.
    """

    changes: list[tuple[float, int, int, int]]
    ended: float


def run_scaling(
    folder: Path,
    *,
    nodes: int,
    jobs: int,
    iterations: int,
    drain_seconds: float,
    quiet_seconds: float,
    command: Sequence[str] = (),
) -> Growth:
    """Enqueue `jobs` jobs while one server runs, and watch the number of servers until it is one again."""
    policy = ScalingPolicy(1, nodes, drain_seconds, quiet_seconds)
    with stage(folder, nodes, policy, command) as on:
        on.enqueue(jobs, iterations)
        began = time.monotonic()
        changes: list[tuple[float, int, int, int]] = []
        ended = 0.0
        while time.monotonic() - began < PATIENCE:
            found, now = fleets.status(on.fleet), time.monotonic() - began
            waiting = on.jobs.queue_length(on.settings.queue(SPEC))
            numbers = (found.wanted, sum(server.worker is not None for server in found.servers))
            if not changes or changes[-1][2:] != numbers:
                changes.append((now, waiting, *numbers))
            if not ended and on.all_ended():
                ended = now
            if ended and numbers == (1, 1) and len(found.servers) == 1:
                break
            time.sleep(0.5)
        return Growth(changes, ended)


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it does not become true.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def show_chaos(found: Run) -> None:
    """Print what a run of chaos came to."""
    books = found.books
    print(f"{sum(found.hits.values())} hits: {json.dumps(dict(sorted(found.hits.items())))}")
    print(f"peace until every job had ended: {found.peace_seconds:.0f} s")
    print(f"enqueued            {books.enqueued:6}")
    print(
        f"succeeded           {books.ended['succeeded']:6}   attempts: {dict(sorted(books.attempts.items()))}"
    )
    must_not_be = {
        "lost": books.lost,
        "ended twice": books.ended_twice,
        "stuck": books.stuck,
        "processes left over": [str(pid) for pid in found.left_over],
    }
    for name, lines in must_not_be.items():
        print(f"{name:19} {len(lines):6}")
    for line in chain(*must_not_be.values()):
        print(f"WRONG: {line}")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["chaos", "scaling"])
    parser.add_argument("--nodes", type=int, default=4, help="beside the head (default %(default)s)")
    parser.add_argument("--jobs", type=int, help="default: 200 of chaos, 100 of scaling")
    parser.add_argument("--iterations", type=int, default=100, help="of a job (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="of chaos (default %(default)s)")
    parser.add_argument("--every", type=float, default=4, help="seconds between hits (default %(default)s)")
    parser.add_argument("--drain", type=float, default=5, help="drain-seconds (default %(default)s)")
    parser.add_argument("--quiet", type=float, default=15, help="quiet-seconds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--weights", action="store_true", help="real networks, of the demo set")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and data there")
    options = parser.parse_args()
    command = () if options.weights else COLOURS
    with tempfile.TemporaryDirectory(prefix="mead-ray-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.what == "chaos":
            found = run_chaos(
                folder,
                nodes=options.nodes,
                jobs=options.jobs or 200,
                iterations=options.iterations,
                seconds=options.seconds,
                every=options.every,
                seed=options.seed,
                command=command,
            )
            show_chaos(found)
            sys.exit(not found.clean)
        growth = run_scaling(
            folder,
            nodes=options.nodes,
            jobs=options.jobs or 100,
            iterations=options.iterations,
            drain_seconds=options.drain,
            quiet_seconds=options.quiet,
            command=command,
        )
        for seconds, waiting, wanted, working in growth.changes:
            print(f"{seconds:6.1f} s  {waiting:4} waiting, {wanted} servers wanted, {working} at work")
        print(f"{growth.ended:6.1f} s  every job had ended")


if __name__ == "__main__":
    main()
