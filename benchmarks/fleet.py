"""How many inference servers one Redis carries: `python -m benchmarks.fleet`.

Redis has the shipped settings. Inference servers are simulated in a few processes: each claims jobs through
`mead.queue`, reports every step of its batch, ends its jobs, and waits and sends heartbeats as a real one
does. Only the networks are missing. Jobs of ten API keys arrive at random, for most of what the fleet can do,
and two connections receive all events, as caching servers do. For each size of the fleet:

- reports and claims a second, that should be and that were made;
- the time of a report, and from enqueuing a job to a server having it (50th and 99th percentile);
- Redis's processor time for each report and each job, and the share of a core that it used;
- the memory that Redis takes, without the records of jobs that have ended.

Where the simulation itself is too slow for a fleet, fewer reports are made than should be. So in the end
Redis gets as many reports as it can take, packed beforehand; from the processor time of each, the last table
tells how large a fleet fills Redis.

`--prices T4=0.35:151 ...` computes what a million pictures cost instead: a card's dollars an hour, and the
milliseconds that it takes for a step of a job.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import random
import secrets
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import redis

from mead.cli.local_redis import local_redis
from mead.files import write_whole
from mead.params import MAX_VARIANTS
from mead.queue import claims
from mead.queue.claims import Claims
from mead.queue.client import connect
from mead.queue.errors import QueueFullError
from mead.queue.job import Job, JobProgress, new_ids
from mead.queue.jobs import Jobs
from mead.queue.keys import WORKERS_KEY

QUEUE = "latentrevisions_queue"
SIZES = (10, 100, 1_000, 3_000)
OWNERS = 10
THREADS, FEEDERS = 24, 16
FILLING, CONNECTIONS, EACH = 500, 50, 10
"""Servers that fill Redis, and the connections and reports on each that are on their way."""
WORKER_TTL = 15  # seconds
PAUSE = 1.0  # seconds that an idle server waits at a time
FULL = 0.7  # of a core: a fuller Redis answers late
REPORTS = 0.5  # of that for reports, and the rest for claims, ends, heartbeats and events


@dataclass(frozen=True)
class Load:
    """What each server of a fleet does.

    Attributes:
        steps_per_second: of its whole batch; it reports each.
        steps: of a job.
        batch: the most jobs that it runs at once.
        busy: the share of what the fleet can do that arrives.
    """

    steps_per_second: float = 10.0
    steps: int = 100
    batch: int = 4
    busy: float = 0.8

    def jobs_per_second(self, servers: int) -> float:
        """How many jobs arrive for a fleet."""
        return self.busy * servers * self.batch * self.steps_per_second / self.steps


@dataclass
class Measured:
    """What a process has counted, and how long calls took in seconds."""

    reports: int = 0
    ended: int = 0
    report_seconds: list[float] = field(default_factory=list)
    handed_over: list[float] = field(default_factory=list)


# Servers


class Server:
    """A simulated inference server, with a connection that waits on the queue."""

    def __init__(self, name: str, address: tuple[str, int], hello: bytes) -> None:
        self.name = name
        self.jobs: dict[str, list[Any]] = {}  # the job and its steps, by id
        self.socket = socket.create_connection(address)
        self.socket.sendall(hello)
        self.socket.recv(100)

    def wait(self) -> None:
        """Wait as `Jobs.wait_for_work` does, without blocking this process."""
        words = ["BLMOVE", QUEUE, QUEUE, "LEFT", "LEFT", str(PAUSE)]
        command = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self.socket.sendall(f"*{len(words)}\r\n{command}".encode())


class Fleet:
    """The servers of one process."""

    def __init__(self, url: str, names: Sequence[str], size: int, load: Load) -> None:
        self.load = load
        self.size = size
        self.queue = Jobs(connect(url), 60)
        parts = urlsplit(url)
        hello = f"AUTH {parts.password}\r\n".encode() if parts.password else b"PING\r\n"
        address = (parts.hostname or "", parts.port or 6379)
        self.servers = [Server(name, address, hello) for name in names]
        self.selector = selectors.DefaultSelector()
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.measured = Measured()
        self.turn = 0

    def fill(self) -> None:
        """Have each server claim as many jobs as it runs on average, and be somewhere in them."""
        for server in self.servers:
            for _ in range(int(self.load.busy * self.load.batch + random.random())):
                if (job := self.queue.claim(QUEUE, server.name)) is not None:
                    server.jobs[job.id] = [job, random.randrange(self.load.steps)]

    def run(self, seconds: float) -> Measured:
        """Let the servers work."""
        began = time.monotonic()
        for server in self.servers:
            what = self._step if server.jobs else self._admit
            self._at(began + random.random() / self.load.steps_per_second, what, server)
            self._at(began + random.random() * WORKER_TTL / 3, self._beat, server)
        while (now := time.monotonic()) < began + seconds:
            if self.due and self.due[0][0] <= now:
                heapq.heappop(self.due)[2]()
                if self.turn % 20:  # sockets are looked at now and then, however much is due
                    continue
            until = min(self.due[0][0] if self.due else now + 1, began + seconds)
            for key, _ in self.selector.select(max(0.0, until - time.monotonic())):
                self.selector.unregister(key.fileobj)
                key.data.socket.recv(1000)
                self._admit(key.data)
        for server in self.servers:
            server.socket.close()
        return self.measured

    def _at(self, when: float, what: Callable[[Server], None], server: Server) -> None:
        self.turn += 1
        heapq.heappush(self.due, (when, self.turn, lambda: what(server)))

    def _beat(self, server: Server) -> None:
        self.queue.heartbeat(server.name, [QUEUE], WORKER_TTL)
        self._at(time.monotonic() + WORKER_TTL / 3, self._beat, server)

    def _claim(self, server: Server) -> None:
        """Claim jobs while there is room."""
        while len(server.jobs) < self.load.batch and (job := self.queue.claim(QUEUE, server.name)):
            if sent := float(job.parameters["sent"]):
                self.measured.handed_over.append(time.monotonic() - sent)
            server.jobs[job.id] = [job, 0]

    def _admit(self, server: Server) -> None:
        """Of a server without jobs: begin to run some, or wait."""
        self._claim(server)
        if server.jobs:
            self._at(time.monotonic() + 1 / self.load.steps_per_second, self._step, server)
        elif random.random() * self.size > claims.WATCHERS:
            self._at(time.monotonic() + PAUSE, self._admit, server)
        else:
            server.wait()
            self.selector.register(server.socket, selectors.EVENT_READ, server)

    def _step(self, server: Server) -> None:
        """Report a step of all jobs, end those that are done, and claim others before the next step."""
        began = time.monotonic()
        for active in server.jobs.values():
            active[1] += 1
        progress = [
            JobProgress(job_id, steps, self.load.steps, 0.5) for job_id, (_, steps) in server.jobs.items()
        ]
        self.queue.report(QUEUE, server.name, progress)
        self.measured.report_seconds.append(time.monotonic() - began)
        self.measured.reports += 1
        for job_id, (job, steps) in list(server.jobs.items()):
            if steps >= self.load.steps:
                self._end(server, job)
                del server.jobs[job_id]
        if not server.jobs:
            self._admit(server)
            return
        self._claim(server)
        self._at(max(began + 1 / self.load.steps_per_second, time.monotonic()), self._step, server)

    def _end(self, server: Server, job: Job) -> None:
        self.queue.succeed(job, server.name, f"{job.id}.png", 100_000)
        self.measured.ended += 1


def serve(url: str, names: Sequence[str], size: int, load: Load, seconds: float, pipe: Any) -> None:
    """A process with some of the servers; sends what it has measured.

    They are shared out to threads, as Redis answers when the change is on the disk.
    """
    fleets = [Fleet(url, some, size, load) for n in range(THREADS) if (some := names[n::THREADS])]
    with ThreadPoolExecutor(len(fleets)) as pool:
        list(pool.map(Fleet.fill, fleets))
        pipe.send("ready")
        pipe.recv()
        pipe.send(list(pool.map(lambda fleet: fleet.run(seconds), fleets)))


# Clients


def fill(queue: Jobs, number: int) -> None:
    """Enqueue jobs for servers to begin with."""
    parameters = {"prompt": "a red house by the sea", "seed": 1, "sent": 0}
    for _ in range(0, number, MAX_VARIANTS):
        group = dict.fromkeys(new_ids(MAX_VARIANTS), parameters)
        queue.enqueue_group(group, "lr", QUEUE, owner=_owner(), bytes_stored=1000)


def feed(queue: Jobs, a_second: float, stop: threading.Event) -> None:
    """Enqueue jobs at random moments until `stop` is set; none while the queue is as long as it may be."""
    due = time.monotonic()
    while True:
        due += random.expovariate(a_second)
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        parameters = {"prompt": "a red house by the sea", "seed": 1, "sent": time.monotonic()}
        with suppress(QueueFullError):
            job_id = secrets.token_hex(16)
            queue.enqueue(job_id, "lr", QUEUE, parameters, owner=_owner(), longest=1000, bytes_stored=1000)


def _owner() -> str:
    return f"{random.randrange(OWNERS):016x}"


@contextmanager
def followers(url: str, number: int) -> Iterator[None]:
    """Connections that receive all events, as those of caching servers, and drop them."""
    with ExitStack() as stack:
        for _ in range(number):
            client = stack.enter_context(connect(url))
            channel = stack.enter_context(client.pubsub())
            channel.psubscribe("events:*")
            connection = channel.connection._sock  # parsing them would take a core
            thread = threading.Thread(target=_drain, args=[connection], daemon=True)
            thread.start()
            stack.callback(connection.shutdown, socket.SHUT_RDWR)
        yield


def _drain(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(1 << 20):
            pass


# Measuring


@dataclass(frozen=True)
class Row:
    """A fleet, as measured. Times in milliseconds unless the name says otherwise."""

    servers: int
    reports_wanted: float  # a second: hardly a server has no job
    reports: float
    claims: float
    report_p50: float
    report_p99: float
    handed_over_p50: float
    handed_over_p99: float
    redis_share: float  # of a core
    us_per_report: float  # of Redis's processor time, with all that belongs to a job shared out
    memory_mb: float
    waiting: int


def measure(client: redis.Redis, url: str, servers: int, load: Load, seconds: float, processes: int) -> Row:
    """Run a fleet for some seconds."""
    client.flushall()
    names = [f"host-{number:04}" for number in range(servers)]
    context = multiprocessing.get_context("spawn")
    fill(Jobs(client, 60), int(load.busy * load.batch * servers))
    with ExitStack() as stack:
        pipes = []
        for number in range(min(processes, servers)):
            here, there = context.Pipe()
            arguments = (url, names[number::processes], servers, load, seconds, there)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            stack.callback(process.join)
            pipes.append(here)
        for pipe in pipes:
            pipe.recv()
        client.sadd(WORKERS_KEY, *names)
        stack.enter_context(followers(url, 2))
        stop = threading.Event()
        each = load.jobs_per_second(servers) / FEEDERS
        feeders = [
            threading.Thread(target=feed, args=[Jobs(connect(url), 60), each, stop]) for _ in range(FEEDERS)
        ]
        before, began = _processor(client), time.monotonic()
        for feeder in feeders:
            feeder.start()
        for pipe in pipes:
            pipe.send("start")
        found = [one for pipe in pipes for one in pipe.recv()]
        took, used = time.monotonic() - began, _processor(client) - before
        memory, waiting = client.info("memory")["used_memory"], client.llen(QUEUE)
        stop.set()
        for feeder in feeders:
            feeder.join()
    reports = sum(one.reports for one in found)
    handed = sorted(seconds for one in found for seconds in one.handed_over)
    reported = sorted(seconds for one in found for seconds in one.report_seconds)
    return Row(
        servers=servers,
        reports_wanted=round(servers * load.steps_per_second, 1),
        reports=round(reports / took, 1),
        claims=round(len(handed) / took, 1),
        report_p50=_percentile(reported, 0.50),
        report_p99=_percentile(reported, 0.99),
        handed_over_p50=_percentile(handed, 0.50),
        handed_over_p99=_percentile(handed, 0.99),
        redis_share=round(used / took, 3),
        us_per_report=round(1e6 * used / max(1, reports), 1),
        memory_mb=round(memory / 2**20, 1),
        waiting=int(waiting),
    )


@dataclass(frozen=True)
class Full:
    """What a Redis does that is full of reports."""

    reports: float  # a second
    us_per_report: float  # of its processor time
    redis_share: float  # of a core


def fill_redis(client: redis.Redis, url: str, servers: int, load: Load, seconds: float) -> Full:
    """Send as many reports as Redis takes, of servers that run full batches.

    The commands are those of `Jobs.report`, packed beforehand.
    """
    client.flushall()
    queue, recorder = Jobs(client, 60), Recorder()
    fill(queue, servers * load.batch)
    for number in range(servers):
        name = f"host-{number:04}"
        jobs = [queue.claim(QUEUE, name) for _ in range(load.batch)]
        progress = [JobProgress(job.id, 1, load.steps, 0.5) for job in jobs if job is not None]
        queue.report(QUEUE, name, progress)  # so that Redis has the script
        Claims(cast("redis.Redis", recorder), 60).report(QUEUE, name, progress)
    pool = client.connection_pool
    connections = [pool.get_connection() for _ in range(CONNECTIONS)]
    packed = [b"".join(connections[0].pack_command(*command)) for command in recorder.commands]
    made = 0
    with followers(url, 2):
        before, began = _processor(client), time.monotonic()
        while time.monotonic() < began + seconds:
            for connection in connections:
                start = made % len(packed)
                connection.send_packed_command(packed[start : start + EACH])
                made += EACH
            for connection in connections:
                for _ in range(EACH):
                    connection.read_response()
        took, used = time.monotonic() - began, _processor(client) - before
    for connection in connections:
        pool.release(connection)
    return Full(round(made / took), round(1e6 * used / made, 1), round(used / took, 2))


class Recorder:
    """Takes commands in place of a client, to be sent later."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []

    def execute_command(self, *command: Any) -> list[list[str]]:
        """Keep a report; answers as if no job were lost or watched."""
        self.commands.append(command)
        return [[], [], []]


def _processor(client: redis.Redis) -> float:
    """Processor time that Redis has used, in seconds."""
    info = client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def _percentile(ordered: Sequence[float], share: float) -> float:
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


# Arithmetic


def servers_per_redis(us_per_report: float, steps_per_second: float) -> int:
    """How many busy servers one Redis carries."""
    return int(FULL * REPORTS * 1e6 / (us_per_report * steps_per_second))


def cost_of_a_million(dollars_an_hour: float, step_ms: float, steps: int) -> float:
    """Dollars for a million pictures.

    Args:
        step_ms: that the card takes for a step of a job; of a batch's, its share.
    """
    return dollars_an_hour * 1e6 * steps * step_ms / 3.6e6


def prices(cards: Sequence[str], steps: int) -> list[str]:
    """A table of what a million pictures cost, of cards given as NAME=DOLLARS:MS."""
    lines = ["| card | $ an hour | ms a step | pictures an hour | $ a million |", "| --- " * 5 + "|"]
    for card in cards:
        name, _, numbers = card.partition("=")
        dollars, step_ms = (float(number) for number in numbers.split(":"))
        pictures = 3.6e6 / (steps * step_ms)
        cost = cost_of_a_million(dollars, step_ms, steps)
        lines.append(f"| {name} | {dollars:g} | {step_ms:g} | {pictures:,.0f} | {cost:,.0f} |")
    return lines


def table(rows: Sequence[Row], full: Full) -> list[str]:
    """The figures as Markdown, and how many servers fill Redis."""
    lines = [
        "| servers | reports a second: needed, made | claims a second | a report, ms: p50, p99 "
        "| handed over, ms: p50, p99 | Redis: share of a core, µs a report | memory, MB |",
        "| --- " * 7 + "|",
    ]
    lines += [
        f"| {row.servers:,} | {row.reports_wanted:,.0f}, {row.reports:,.0f} | {row.claims:.1f} "
        f"| {row.report_p50:.1f}, {row.report_p99:.1f} "
        f"| {row.handed_over_p50:.1f}, {row.handed_over_p99:.1f} "
        f"| {row.redis_share:.2f}, {row.us_per_report:.0f} | {row.memory_mb:.0f} |"
        for row in rows
    ]
    lines += [
        "",
        f"Full: {full.reports:,.0f} reports a second, {full.us_per_report:.0f} µs each, "
        f"{full.redis_share:.2f} of a core. One Redis carries, at {100 * FULL:.0f}% of a core and "
        f"{100 * REPORTS:.0f}% of that for reports:",
        "",
        "| steps a second of a server | servers |",
        "| --- | --- |",
    ]
    lines += [f"| {speed:g} | {servers_per_redis(full.us_per_report, speed):,} |" for speed in (1, 4, 10, 30)]
    return lines


def main() -> None:
    """Measure, and print tables; or compute prices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=float, default=15, help="for each size")
    parser.add_argument("--processes", type=int, default=2, help="that simulate servers")
    parser.add_argument("--steps-per-second", type=float, default=Load.steps_per_second, help="of a server")
    parser.add_argument("--steps", type=int, default=Load.steps, help="of a job")
    parser.add_argument("--batch", type=int, default=Load.batch, help="jobs that a server runs at once")
    parser.add_argument("--appendfsync", default="always", choices=["always", "everysec"], help="of Redis")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--prices", nargs="+", metavar="CARD=DOLLARS:MS", help="dollars an hour, ms a step")
    arguments = parser.parse_args()
    if arguments.prices:
        print("\n".join(prices(arguments.prices, arguments.steps)))
        return
    load = Load(arguments.steps_per_second, arguments.steps, arguments.batch)
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, url = stack.enter_context(local_redis(folder / "redis", folder))
        client = stack.enter_context(connect(url))
        client.config_set("appendfsync", arguments.appendfsync)
        for servers in arguments.servers:
            rows.append(measure(client, url, servers, load, arguments.seconds, arguments.processes))
            print(json.dumps(asdict(rows[-1])), file=sys.stderr, flush=True)
        full = fill_redis(client, url, FILLING, load, arguments.seconds)
    print("\n".join(table(rows, full)))
    if arguments.json:
        figures = {"load": asdict(load), "rows": [asdict(row) for row in rows], "full": asdict(full)}
        write_whole(arguments.json, f"{json.dumps(figures, indent=2)}\n".encode())


if __name__ == "__main__":
    main()
