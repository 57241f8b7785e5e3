"""Ordinary requests while others behave badly: `python -m benchmarks.bad_clients --seconds 20`.

Runs Redis, the caching server with its default settings (two processes of 512 threads), and an inference
server on the small pipeline of the tests. Ordinary clients ask for a job, look at one, and ask /healthz, each
time over a new connection, first alone and then beside each kind of bad client:

- slow heads, slow bodies: connections that send a few bytes every two seconds;
- silent: connections that send nothing;
- streams: streams of events that nobody reads, more than the server grants one client;
- hanging up: POSTs that wait, whose clients leave at once, half of them after a late byte;
- bombs: the pictures of `benchmarks.fuzz_uploads` that are made to cost far more than their length.

For comparison, "busy" keeps every processor busy without asking for anything: what that costs by itself.

Bad clients come from 127.0.0.2. Each kind runs in a process of its own at a lower priority, because it shares
the machine's processors with the service. Slow and silent clients that are let go come again.

Wanted: the ordinary requests' p99 within twice what it is alone, every /healthz within 100 ms, and no
ordinary request without its answer.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import multiprocessing
import os
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

from benchmarks.fuzz_uploads import hostile_files
from benchmarks.load import form, percentiles
from caching_config import Settings, connect
from mead.cli.local_redis import free_port, local_redis
from mead.installation import ROOT
from mead.processes.child import Child
from mead.queue.jobs import Jobs
from mead.queue.keys import events_key

BAD_ADDRESS = "127.0.0.2"
CROWD = 1400  # connections of those who come in crowds
LEAVERS = 30  # who hang up, a second
BOMBERS = 4  # who each send the next picture once they are answered
FOLLOWED = "a-job-that-nobody-does"
WANTED_RATIO, WANTED_HEALTHZ = 2.0, 100.0  # of the p99; ms
TIMEOUT = 60.0  # seconds for one answer

JOB = urlencode({"prompt": "a red house", "iterations": 1, "size": "64x64"}).encode()
URLENCODED = "Content-Type: application/x-www-form-urlencoded"
Address: TypeAlias = tuple[str, int]


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def whole_post() -> bytes:
    """A POST that waits for its picture."""
    return head("POST", "/latent_revision", URLENCODED, f"Content-Length: {len(JOB)}") + JOB


# Bad clients


def connected(address: Address) -> socket.socket:
    return socket.create_connection(address, TIMEOUT, (BAD_ADDRESS, 0))


def crowd(address: Address, size: int, begin: bytes, more: bytes = b"") -> None:
    """Hold `size` connections open for ever, each of which sends `begin` and, every two seconds, `more`."""
    selector = selectors.DefaultSelector()

    def leave(connection: Any) -> None:
        selector.unregister(connection)
        connection.close()

    next_pieces = time.monotonic() + 2
    while True:
        for _ in range(min(20, size - len(selector.get_map()))):
            with suppress(OSError):
                connection = connected(address)
                connection.setblocking(False)
                connection.send(begin)
                selector.register(connection, selectors.EVENT_READ)
        for key, _ in selector.select(0.05):
            try:
                open_still = bool(key.fileobj.recv(4096))  # type: ignore[union-attr]
            except OSError:
                open_still = False
            if not open_still:
                leave(key.fileobj)
        if more and time.monotonic() > next_pieces:
            next_pieces += 2
            for key in list(selector.get_map().values()):
                try:
                    key.fileobj.send(more)  # type: ignore[union-attr]
                except OSError:
                    leave(key.fileobj)


def unread_streams(address: Address, size: int) -> None:
    """Follow a job's events on `size` connections, and read none."""
    held = []
    for _ in range(size):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((BAD_ADDRESS, 0))
        connection.connect(address)
        connection.sendall(head("GET", f"/jobs/{FOLLOWED}/events"))
        held.append(connection)
    threading.Event().wait()


def leavers(address: Address, size: int) -> None:
    """Ask and hang up at once, `LEAVERS` times a second."""
    for number in itertools.count():
        with suppress(OSError), connected(address) as connection:
            connection.sendall(whole_post())
            if number % 2:
                connection.sendall(b"\r\n")
        time.sleep(1 / LEAVERS)


def bombers(address: Address, size: int) -> None:
    """Send bombs, one after the other, on `BOMBERS` connections."""

    def send_all(first: int) -> None:
        for _, bomb in itertools.islice(itertools.cycle(hostile_files()), first, None):
            body, content_type = form(bomb)
            headers = {"Content-Type": content_type, "Prefer": "respond-async"}
            connection = http.client.HTTPConnection(*address, TIMEOUT, (BAD_ADDRESS, 0))
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/latent_revision", body, headers)
                connection.getresponse().read()
            connection.close()

    for first in range(BOMBERS):
        threading.Thread(target=send_all, args=[4 * first], daemon=True).start()
    threading.Event().wait()


def busy(address: Address, size: int) -> None:
    """Ask nothing, but keep every processor busy."""
    block = bytes(2**24)

    def compute() -> None:
        while True:
            hashlib.sha256(block)  # while it computes, other threads run

    for _ in range(os.cpu_count() or 1):
        threading.Thread(target=compute, daemon=True).start()
    threading.Event().wait()


HALF_HEAD = head("GET", "/healthz").removesuffix(b"\r\n\r\n") + b"\r\nX-Slow: "
HALF_BODY = head("POST", "/latent_revision", URLENCODED, "Content-Length: 100000") + b"prompt="
KINDS: Mapping[str, Callable[[Address, int], None]] = {
    "slow heads": partial(crowd, begin=HALF_HEAD, more=b"a"),
    "slow bodies": partial(crowd, begin=HALF_BODY, more=b"a" * 10),
    "silent": partial(crowd, begin=b""),
    "streams": unread_streams,
    "hanging up": leavers,
    "bombs": bombers,
    "busy": busy,
}


def misbehave(kind: str, address: Address, size: int, ready: Any) -> None:
    """Be one kind of bad client, until the process is ended."""
    if kind == "bombs":
        hostile_files()  # takes seconds to make, and at a low priority far longer on a busy machine
    os.nice(10)
    ready.set()
    KINDS[kind](address, size)


@contextmanager
def bad_clients(kind: str, address: Address, size: int) -> Iterator[None]:
    """A process of bad clients, ended with the block."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=misbehave, args=(kind, address, size, ready), daemon=True)
    process.start()
    try:
        ready.wait()
        yield
    finally:
        process.kill()
        process.join()


# Ordinary ones


@dataclass
class Ordinary:
    """What ordinary clients met: seconds for each answer, by what was asked, and what was wrong."""

    times: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def all_times(self) -> list[float]:
        return [seconds for times in self.times.values() for seconds in times]


def ask(address: Address, request: bytes) -> int:
    """The status of the answer, over a connection of its own."""
    with socket.create_connection(address, TIMEOUT) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return int(answer.read().split(None, 2)[1])


def ask_for(address: Address, job_id: str, seconds: float) -> Ordinary:
    """Ask for a job, look at one, ask whether the server lives; ten times a second each, for `seconds`."""
    found = Ordinary()
    close = "Connection: close"
    headers = (close, URLENCODED, "Prefer: respond-async", f"Content-Length: {len(JOB)}")
    asked = {
        "POST /latent_revision": (head("POST", "/latent_revision", *headers) + JOB, 202),
        "GET /jobs/ID": (head("GET", f"/jobs/{job_id}", close), 200),
        "GET /healthz": (head("GET", "/healthz", close), 200),
    }

    def keep_asking(name: str, request: bytes, right: int) -> None:
        times = found.times.setdefault(name, [])
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            try:
                status = ask(address, request)
                if status != right:
                    found.wrong.append(f"{name} was answered {status}")
            except (OSError, IndexError, ValueError) as error:
                found.wrong.append(f"{name} was not answered: {error!r}")
            took = time.monotonic() - began
            times.append(took)
            time.sleep(max(0.0, 0.1 - took))

    threads = [threading.Thread(target=keep_asking, args=(name, *request)) for name, request in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# The run


@dataclass
class Beside:
    """Ordinary requests just before, and beside, one kind of bad client."""

    kind: str
    alone: Ordinary
    beside: Ordinary

    @property
    def ratio(self) -> float:
        """Of the p99."""
        return percentiles(self.beside.all_times)[1] / percentiles(self.alone.all_times)[1]

    @property
    def healthz(self) -> float:
        """The slowest, in ms."""
        return 1000 * max(self.beside.times["GET /healthz"])

    @property
    def as_wanted(self) -> bool:
        return self.ratio <= WANTED_RATIO and self.healthz <= WANTED_HEALTHZ and not self.beside.wrong


@contextmanager
def service(folder: Path) -> Iterator[tuple[Address, Jobs]]:
    """Redis, the caching server as shipped, and an inference server whose pictures cost next to nothing."""
    with ExitStack() as stack:
        _, redis_url = stack.enter_context(local_redis(folder / "redis", folder))
        address = ("127.0.0.1", free_port())
        environment = {
            "REDIS_URL": redis_url,
            "DATA_DIR": str(folder / "data"),
            "PORT": str(address[1]),
            "TORCH_THREADS": "1",
            "API_KEYS": "",
        }
        jobs = Jobs(connect(Settings(redis_url=redis_url)), ttl=24 * 3600)
        servers = [
            stack.enter_context(Child(name, [sys.executable, ROOT / script], environment, folder))
            for name, script in (
                ("inference server", "tests/colour_server.py"),
                ("caching server", "caching_server.py"),
            )
        ]
        while not is_ready(address):
            for server in servers:
                server.check()
            time.sleep(0.2)
        yield address, jobs
        for server in servers:
            server.check()


def is_ready(address: Address) -> bool:
    with suppress(OSError, IndexError):
        return ask(address, head("GET", "/readyz", "Connection: close")) == 200
    return False


def run(
    folder: Path, seconds: float, size: int = CROWD, kinds: Iterable[str] = tuple(KINDS)
) -> Iterator[Beside]:
    """Each kind of bad client in turn, for `seconds`, after as long without."""
    with service(folder) as (address, jobs):
        jobs.enqueue(FOLLOWED, "lr", "a-queue-that-nobody-serves", {"prompt": "a red house"})
        stopped = threading.Event()
        telling = threading.Thread(target=tell_of_steps, args=(jobs, stopped))
        telling.start()
        try:
            ask_for(address, FOLLOWED, min(5.0, seconds))  # unmeasured: the first requests load what all need
            for kind in kinds:
                alone = ask_for(address, FOLLOWED, seconds)
                with bad_clients(kind, address, size):
                    beside = ask_for(address, FOLLOWED, seconds)
                yield Beside(kind, alone, beside)
        finally:
            stopped.set()
            telling.join()


def tell_of_steps(jobs: Jobs, stopped: threading.Event) -> None:
    """Give those who follow the job something not to read, every second."""
    for step in itertools.count(1):
        if stopped.wait(1.0):
            return
        jobs.redis.publish(events_key(FOLLOWED), f'{{"seq": {step + 10}, "steps": {step}}}')


def show(found: Beside) -> None:
    """Print what one kind came to."""
    (p50, p99), (alone50, alone99) = (percentiles(one.all_times) for one in (found.beside, found.alone))
    alone_healthz = 1000 * max(found.alone.times["GET /healthz"])
    print(
        f"{found.kind:12} p50 {alone50:5.1f} -> {p50:5.1f} ms   p99 {alone99:6.1f} -> {p99:6.1f} ms"
        f"   ratio {found.ratio:4.2f}   slowest /healthz {alone_healthz:6.1f} -> {found.healthz:6.1f} ms"
        f"   {len(found.beside.all_times)} requests, {len(found.beside.wrong)} wrong"
        f"   {'as wanted' if found.as_wanted else 'NOT as wanted'}",
        flush=True,
    )
    for name, times in found.beside.times.items():
        (p50, p99), (alone50, alone99) = percentiles(times), percentiles(found.alone.times[name])
        print(f"    {name:22} p50 {alone50:5.1f} -> {p50:5.1f} ms   p99 {alone99:6.1f} -> {p99:6.1f} ms")
    for line in sorted(set(found.beside.wrong)):
        print(f"    WRONG: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="beside each kind (default %(default)s)")
    parser.add_argument("--crowd", type=int, default=CROWD, help="connections (default %(default)s)")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS), help="kinds")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f};"
        f" wanted: ratio {WANTED_RATIO:g}, /healthz {WANTED_HEALTHZ:g} ms; alone -> beside"
    )
    all_as_wanted = True
    with tempfile.TemporaryDirectory(prefix="mead-bad-clients-") as folder:
        for found in run(Path(folder), options.seconds, options.crowd, options.only):
            show(found)
            all_as_wanted = all_as_wanted and (found.as_wanted or found.kind == "busy")
    sys.exit(not all_as_wanted)


if __name__ == "__main__":
    main()
