"""How much the service bears and how fast a job gets through it: `python -m benchmarks.load`.

Redis has the shipped settings, the caching server runs under gunicorn and HTTP is HTTP. Only the networks are
missing: nobody takes the jobs where accepting is measured, and a worker whose pictures cost nothing takes
them where handing over is measured, so that the numbers are those of the queue and of HTTP.

- accepted: requests a second with `Prefer: respond-async`, with a small photo and without, from clients that
  each send the next as soon as they are answered, and how long they waited for the answer. Beside it the
  same requests to a Flask app under gunicorn that reads the form and does nothing: what this machine allows
  at that minute.
- long queues: /check and enqueuing with 10, 1,000 and 100,000 jobs queued, in turn.
- handing over: from enqueuing to a waiting worker having the job, and from the job's end to the waiting
  client's answer, next to the same for rq and Celery (their own workers, as they ship) on the same Redis.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import secrets
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import redis
from flask import Flask, request
from PIL import Image

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.cli.local_redis import free_port, local_redis
from mead.cli.serve import PHOTOS
from mead.http.events import Events
from mead.installation import ROOT
from mead.processes.child import Child
from mead.queue.jobs import Jobs

QUEUE = "latentrevisions_queue"
LENGTHS = (10, 1_000, 100_000)
WORKER_TTL = 3600

T = TypeVar("T")


# What is started


@contextmanager
def caching_server(redis_url: str, folder: Path) -> Iterator[tuple[str, int]]:
    """gunicorn as shipped: its address (host:port) and its process id."""
    port = free_port()
    environment = {
        "REDIS_URL": redis_url,
        "DATA_DIR": str(folder),
        "PORT": str(port),
        "MAX_QUEUE_LENGTH": "1000000",
        "API_KEYS": "",
    }
    command: list[str | Path] = [sys.executable, ROOT / "caching_server.py"]
    with Child("caching server", command, environment, folder) as server:
        address = f"127.0.0.1:{port}"
        wait_for(server, address)
        yield address, server.process.pid


def reference_app() -> Flask:
    """Reads a form as Flask does, and answers as if it had taken it."""
    app = Flask(__name__)

    @app.get("/healthz")
    def healthz() -> str:
        return "alive"

    @app.post("/latent_revision")
    def latent_revision() -> tuple[dict[str, str], int]:
        read = sum(len(file.read()) for file in request.files.values())
        return {"prompt": request.form["prompt"], "bytes": str(read)}, 202

    return app


@contextmanager
def reference_server(folder: Path) -> Iterator[tuple[str, int]]:
    """`reference_app` under gunicorn with as many processes and threads as the caching server."""
    address, settings = f"127.0.0.1:{free_port()}", Settings()
    command = [sys.executable, "-m", "gunicorn", "--bind", address, "--worker-class", "gthread"]
    command += ["--workers", str(settings.http_processes), "--threads", str(settings.http_threads)]
    command += ["--worker-connections", "2048", "--no-control-socket", "benchmarks.load:reference_app()"]
    with Child("reference server", command, {}, folder) as server:
        wait_for(server, address)
        yield address, server.process.pid


def wait_for(server: Child, address: str) -> None:
    """Wait until a server answers."""
    while not _answers(address):
        server.check()
        time.sleep(0.05)


def _answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def cpu_seconds(process: int) -> float:
    """Processor time that a process and its children have used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children)


def fsync_seconds(folder: Path) -> list[float]:
    """How long this disk takes to make 200 small appends safe, as Redis makes them: each, in seconds."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(500))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return times


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """The 50th and 99th of times in seconds, in milliseconds."""
    ordered = sorted(times)
    return 1000 * ordered[len(ordered) // 2], 1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


# Accepting


def form(photo: bytes | None) -> tuple[bytes, str]:
    """A multipart form of a prompt and, maybe, a photo; and its content type.

    With a boundary of its own, as every client makes one up for each request.
    """
    boundary = secrets.token_hex(16)
    parts = [(b'name="prompt"', b"a red house"), (b'name="w2"', b"1")]
    if photo is not None:
        parts.append((b'name="img_enc"; filename="face.jpeg"\r\nContent-Type: image/jpeg', photo))
    body = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), head, content)
        for head, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def small_photo() -> bytes:
    """The photo of a face as a phone would send a small one: 256 pixels wide, JPEG."""
    file = BytesIO()
    with Image.open(PHOTOS / "face.jpeg") as photo:
        photo.convert("RGB").resize((256, 256)).save(file, "JPEG", quality=85)
    return file.getvalue()


@dataclass
class Accepting:
    """What a measurement of accepting found."""

    a_second: float
    p50: float  # ms
    p99: float
    failed: int
    client_cpu: float  # share of one core
    server_cpu: float


class Client:
    """One keep-alive connection that sends the next request as soon as the last one is answered."""

    def __init__(self, address: str, photo: bytes | None) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address
        self.photo = photo
        self.unsent = memoryview(b"")
        self.received = b""
        self.sent_at = 0.0

    def send(self) -> None:
        """Send the request; what does not fit the buffers now goes with `go_on`."""
        body, content_type = form(self.photo)
        head = (
            f"POST /latent_revision HTTP/1.1\r\nHost: {self.address}\r\nPrefer: respond-async\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.received = b""
        self.sent_at = time.perf_counter()
        self.unsent = memoryview(head.encode() + body)
        self.go_on()

    def go_on(self) -> None:
        """Send what is left of the request."""
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return

    def receive(self) -> int | None:
        """The status, once the whole answer is here; 0 if the connection has ended."""
        data = self.socket.recv(65536)
        if not data:
            return 0
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(body) >= length else None


def accept(address: str, server: int, clients: int, seconds: float, photo: bytes | None) -> Accepting:
    """Send from `clients` connections at once, all driven by this thread."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = Client(address, photo)
        client.socket.setblocking(False)
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send()
        if client.unsent:
            selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    times: list[float] = []
    failed = 0
    began, cpu, server_cpu = time.perf_counter(), time.process_time(), cpu_seconds(server)
    while (now := time.perf_counter()) < began + seconds:
        for key, ready in selector.select(began + seconds - now):
            client = key.data
            if ready & selectors.EVENT_WRITE:
                client.go_on()
                if not client.unsent:
                    selector.modify(client.socket, selectors.EVENT_READ, client)
            if not ready & selectors.EVENT_READ:
                continue
            status = client.receive()
            if status is None:
                continue
            times.append(time.perf_counter() - client.sent_at)
            failed += status != 202
            if status == 0:
                raise ConnectionError("the server has ended a connection")
            client.send()
            if client.unsent:
                selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    took = time.perf_counter() - began
    shares = (time.process_time() - cpu) / took, (cpu_seconds(server) - server_cpu) / took
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return Accepting((len(times) - failed) / took, *percentiles(times), failed, *shares)


# Long queues


def fill(jobs: Jobs, queue: str, length: int) -> str:
    """Enqueue until `length` jobs wait; the id of the last."""
    job_id = ""
    for number in range(length):
        job_id = f"{queue}-{number}"
        jobs.enqueue(job_id, "lr", queue, {"prompt": "a red house", "seed": number})
    return job_id


def fill_all(jobs: Jobs) -> dict[int, str]:
    """A queue of each length; by length, the id of the last job in it."""
    return {length: fill(jobs, f"queue_of_{length}", length) for length in LENGTHS}


def long_queues(
    jobs: Jobs, address: str, last: dict[int, str], rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Times in seconds of enqueuing and /check, by length; in turn, so that noise hits all alike."""
    connection = http.client.HTTPConnection(address, timeout=60)
    times: dict[str, dict[int, list[float]]] = {"enqueue": {}, "/check": {}}
    for number in range(rounds):
        for place in range(len(LENGTHS)):
            length = LENGTHS[(number + place) % len(LENGTHS)]  # each comes first as often as the others
            queue = f"queue_of_{length}"
            began = time.perf_counter()
            jobs.enqueue(f"{queue}+{number}", "lr", queue, {"prompt": "a red house", "seed": number})
            times["enqueue"].setdefault(length, []).append(time.perf_counter() - began)
            body = f"id={last[length]}"
            began = time.perf_counter()
            connection.request("POST", "/check", body, {"Content-Type": "application/x-www-form-urlencoded"})
            said = json.loads(connection.getresponse().read())
            times["/check"].setdefault(length, []).append(time.perf_counter() - began)
            if said["rank"] != length - 1:
                raise AssertionError(f"the rank of the last of {length} is {said['rank']}")
    connection.close()
    return times


# Handing over


@dataclass
class HandingOver:
    """Times in seconds of one way to get a job done.

    Attributes:
        taken: from enqueuing to the worker having the job.
        answered: from the job's end in the worker to the waiting client having its answer.
    """

    taken: list[float]
    answered: list[float]


PAUSE = 0.02  # seconds between two jobs, in which the worker begins to wait again


def stamped() -> tuple[float, float]:
    """A job that does nothing, for rq and Celery: when it began, when it ended."""
    return time.monotonic(), time.monotonic()


def instant_worker(redis_url: str, folder: str, stamps: Any) -> None:
    """Our engine with a pipeline that needs no time; ends and sends its stamps when it is sent something.

    By seed: when the job was there, when its picture was made, when it was said to be done.
    """
    import torch

    from mead.folder_storage import FolderStorage
    from mead.queue.job import Job
    from mead.revision import Revision
    from mead.worker.engine import Engine

    taken: dict[int, float] = {}
    made: dict[int, float] = {}
    done: dict[int, float] = {}
    picture = Image.new("RGB", (128, 128), "teal")

    class Instant:
        def start(self, params: LatentRevisionsParams) -> Revision:
            taken[params.seed] = time.monotonic()
            generator = torch.Generator()
            generator.manual_seed(params.seed)
            latents = torch.zeros(1, requires_grad=True)
            return Revision(latents, torch.optim.SGD([latents], lr=1.0), generator, steps=1)

        def step(self, revisions: Sequence[Revision]) -> None:
            for revision in revisions:
                revision.step += 1
                revision.loss = 0.0

        def image(self, revision: Revision) -> Image.Image:
            made[revision.generator.initial_seed()] = time.monotonic()
            return picture

    class Stamping(Jobs):
        def succeed(self, job: Job, *how: Any, **more: Any) -> bool:
            done[int(job.parameters["seed"])] = time.monotonic()
            return super().succeed(job, *how, **more)

    settings = Settings(redis_url=redis_url)
    jobs = Stamping(connect(settings), settings.job_ttl)
    jobs.heartbeat("instant", [QUEUE], WORKER_TTL)
    engine = Engine(
        Instant(),
        params=LatentRevisionsParams,
        jobs=jobs,
        storage=FolderStorage(Path(folder)),
        queue=QUEUE,
        worker="instant",
        capacity=4,
    )
    stop = threading.Event()

    def stop_when_told() -> None:
        stamps.recv()
        stop.set()

    threading.Thread(target=stop_when_told, daemon=True).start()
    stamps.send("ready")
    engine.run(stop)
    jobs.deregister("instant", [QUEUE])
    stamps.send((taken, made, done))


def rq_worker(redis_url: str, kind: str) -> None:
    """rq's own worker: `Worker` forks for each job, `SimpleWorker` does not."""
    import importlib

    import rq

    importlib.import_module("benchmarks.load")  # not anew in each fork
    queue = rq.Queue("rq", connection=redis.Redis.from_url(redis_url))
    getattr(rq, kind)([queue], connection=queue.connection).work(logging_level="ERROR")


def celery_app(redis_url: str) -> Any:
    """Celery with the one task, `stamped`."""
    import celery

    app = celery.Celery("load", broker=redis_url, backend=redis_url)
    app.task(name="stamped")(stamped)
    return app


def celery_worker(redis_url: str) -> None:
    """Celery's own worker with one process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # its banner
    os.dup2(nowhere, 2)
    app = celery_app(redis_url)
    app.worker_main(["worker", "--concurrency=1", "--loglevel=ERROR", "--without-gossip", "--without-mingle"])


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run a function in a fresh Python process, ended with the block."""
    running = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    running.start()
    try:
        yield
    finally:
        running.terminate()
        running.join(20)
        if running.is_alive():
            running.kill()
            running.join()


Stamps: TypeAlias = tuple[float, float]
"""When the worker had a job, and when it was done with it (time.monotonic, one clock for all processes)."""


def timed(ask: Callable[[int], T], number: int) -> list[tuple[float, T, float]]:
    """Call `ask` with 0, 1, ...: when, what it gave, when it had. The first tenth is left out."""
    calls = []
    for seed in range(number + number // 10):
        time.sleep(PAUSE)
        asked = time.monotonic()
        given = ask(seed)
        calls.append((asked, given, time.monotonic()))
    return calls[number // 10 :]


def handed_over(calls: Sequence[tuple[float, Stamps, float]]) -> HandingOver:
    """What jobs took on both ways."""
    return HandingOver(
        [taken - asked for asked, (taken, _), _ in calls], [after - done for _, (_, done), after in calls]
    )


def ours(
    ask: Callable[[int], object], number: int, redis_url: str, folder: Path
) -> tuple[HandingOver, HandingOver]:
    """Our engine, asked by `ask`: until it says that a job is done, and until it has made its picture."""
    here, there = multiprocessing.Pipe()
    with process(instant_worker, redis_url, str(folder), there):
        here.recv()
        calls = timed(lambda seed: (ask(seed), seed)[1], number)
        here.send("stop")
        taken, made, done = here.recv()
    stored = [(asked, (taken[seed], done[seed]), after) for asked, seed, after in calls]
    drawn = [(asked, (taken[seed], made[seed]), after) for asked, seed, after in calls]
    return handed_over(stored), handed_over(drawn)


def through_jobs(jobs: Jobs) -> Callable[[int], object]:
    """Ask by `Jobs`, and follow the job by `Events`."""
    events = Events(jobs)

    def ask(seed: int) -> None:
        job_id = f"job-{seed}-{time.monotonic_ns()}"
        jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "a red house", "seed": seed})
        for job in events.follow(job_id, 60):
            if job is None:
                raise TimeoutError(job_id)

    return ask


def through_http(address: str) -> Callable[[int], object]:
    """Ask by a POST that waits for its picture."""
    connection = http.client.HTTPConnection(address, timeout=60)

    def ask(seed: int) -> None:
        content_type = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/latent_revision", f"prompt=a+red+house&seed={seed}", content_type)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"answered {answer.status}")

    return ask


def through_rq(redis_url: str, kind: str, number: int) -> HandingOver:
    """rq with one of its workers; the client waits for the result as rq does (XREAD)."""
    import rq

    queue = rq.Queue("rq", connection=redis.Redis.from_url(redis_url))

    def ask(seed: int) -> Stamps:
        result = queue.enqueue("benchmarks.load.stamped").latest_result(timeout=60)
        if result is None:
            raise TimeoutError("rq")
        taken, done = result.return_value  # type: ignore[misc]
        return taken, done

    with process(rq_worker, redis_url, kind):
        return handed_over(timed(ask, number))


def through_celery(redis_url: str, number: int) -> HandingOver:
    """Celery with its prefork worker; the client waits by `AsyncResult.get`."""
    app = celery_app(redis_url)

    def ask(seed: int) -> Stamps:
        taken, done = app.send_task("stamped").get(timeout=60)
        return taken, done

    with process(celery_worker, redis_url):
        return handed_over(timed(ask, number))


# The program


def show_accepting(name: str, found: Accepting, clients: int) -> None:
    print(
        f"  {name} {found.a_second:6.0f}/s   answered in p50 {found.p50:5.0f} ms, p99 {found.p99:5.0f} ms"
        f"   {found.failed} refused   {100 * found.server_cpu:3.0f}% of a core for the server,"
        f" {100 * found.client_cpu:.0f}% for the {clients} clients",
        flush=True,
    )


def show_long_queues(found: dict[str, dict[int, list[float]]]) -> None:
    for what, by_length in found.items():
        middle = {length: percentiles(times) for length, times in by_length.items()}
        row = "   ".join(
            f"{length:,}: p50 {p50:.2f} p99 {p99:.1f} ms" for length, (p50, p99) in middle.items()
        )
        p50s = [p50 for p50, _ in middle.values()]
        print(f"  {what:8} {row}   largest p50 / smallest {max(p50s) / min(p50s):.2f}")


def show_handing_over(name: str, found: HandingOver) -> None:
    (taken, taken_99), (answered, answered_99) = percentiles(found.taken), percentiles(found.answered)
    print(f"  {name:44} {taken:8.1f} {taken_99:8.1f} {answered:10.1f} {answered_99:8.1f}", flush=True)


@contextmanager
def appendfsync(client: redis.Redis, policy: str) -> Iterator[None]:
    """Have Redis sync its changes otherwise for a while."""
    before = str(client.config_get("appendfsync")["appendfsync"])
    client.config_set("appendfsync", policy)
    try:
        yield
    finally:
        client.config_set("appendfsync", before)


def measure_accepting(
    address: str, server: int, clients: int, seconds: float, photos: Mapping[str, bytes | None], name: str
) -> dict[str, float]:
    """Accepting, with a photo and without; how many a second."""
    rates = {}
    for kind, photo in photos.items():
        found = accept(address, server, clients, seconds, photo)
        show_accepting(f"{name}, {kind}", found, clients)
        rates[kind] = found.a_second
    return rates


def measure_long_queues(jobs: Jobs, address: str, rounds: int) -> None:
    """Long queues, made and taken away again."""
    print("  long queues")
    with appendfsync(jobs.redis, "no"):  # only while the queues are filled
        last = fill_all(jobs)
    show_long_queues(long_queues(jobs, address, last, rounds))
    jobs.redis.flushall()
    jobs.heartbeat("nobody", [QUEUE], WORKER_TTL)


def measure_handing_over(jobs: Jobs, address: str, redis_url: str, folder: Path, number: int) -> None:
    """Handing over: our ways, and those of others."""
    head = "  handing over, ms"
    print(f"{head:46} enqueued -> worker p50, p99   done -> client p50, p99")
    for name, ask in (("this queue", through_jobs(jobs)), ("this service, over HTTP", through_http(address))):
        stored, drawn = ours(ask, number, redis_url, folder)
        show_handing_over(name, stored)
        show_handing_over("  from the picture, before it is stored", drawn)
    show_handing_over("rq, SimpleWorker", through_rq(redis_url, "SimpleWorker", number))
    show_handing_over("rq, Worker (a process a job)", through_rq(redis_url, "Worker", number))
    show_handing_over("Celery, prefork", through_celery(redis_url, number))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="of accepting, each (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=200, help="handed over each way (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of the whole (default %(default)s)")
    parser.add_argument("--only", choices=("accepting", "queues", "handing-over"), help="measure one thing")
    options = parser.parse_args()
    wanted = [options.only] if options.only else ["accepting", "queues", "handing-over"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mead-load-")))
        _, redis_url = stack.enter_context(local_redis(folder / "redis", folder))
        jobs = Jobs(connect(Settings(redis_url=redis_url)), ttl=24 * 3600)
        jobs.heartbeat("nobody", [QUEUE], WORKER_TTL)  # accepting asks whether anybody is at work
        address, server = stack.enter_context(caching_server(redis_url, folder))
        shipped = str(jobs.redis.config_get("appendfsync")["appendfsync"])
        policies = list(dict.fromkeys([shipped, "everysec"]))
        print(f"{os.cpu_count()} processors, Redis with appendfsync {shipped}")
        photos = {"with a photo": small_photo(), "without": None}
        for photo in photos.values():
            accept(address, server, 4, 3, photo)  # unmeasured: the first requests load what all need
        jobs.redis.delete(QUEUE)
        accepted: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
        bare: list[dict[str, float]] = []
        for repeat in range(options.repeats):
            print(f"run {repeat + 1} of {options.repeats}, load average {os.getloadavg()[0]:.1f}")
            p50, p99 = percentiles(fsync_seconds(folder))
            print(f"  one fdatasync of this disk takes p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            clients, seconds = options.clients, options.seconds
            if "accepting" in wanted:
                with reference_server(folder) as (other, process_id):
                    accept(other, process_id, 4, 2, None)
                    name = "a Flask app that does nothing"
                    bare.append(measure_accepting(other, process_id, clients, seconds, photos, name))
            for policy in policies if wanted != ["queues"] else ():
                print(f"  appendfsync {policy}")
                with appendfsync(jobs.redis, policy):
                    if "accepting" in wanted:
                        rates = measure_accepting(address, server, clients, seconds, photos, "accepted")
                        accepted[policy].append(rates)
                        jobs.redis.delete(QUEUE)
                    if "handing-over" in wanted:
                        measure_handing_over(jobs, address, redis_url, folder, options.jobs)
            if "queues" in wanted:
                measure_long_queues(jobs, address, options.jobs)
        for policy, runs in accepted.items():
            for kind in photos if runs else ():
                middle = statistics.median(rates[kind] for rates in runs)
                share = statistics.median(
                    rates[kind] / other[kind] for rates, other in zip(runs, bare, strict=True)
                )
                print(
                    f"median of {len(runs)} runs, appendfsync {policy}, {kind}: {middle:.0f} accepted/s,"
                    f" {share:.0%} of what a Flask app that does nothing answers"
                )


if __name__ == "__main__":
    main()
