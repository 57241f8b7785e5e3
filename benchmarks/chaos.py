"""Real jobs while everything is killed at random: `python -m benchmarks.chaos --jobs 500 --seconds 240`.

Runs Redis with a replica, gunicorn with the shipped settings and two inference servers on the demo weights.
About every second one of them that has run undisturbed for a while is killed (SIGKILL), stopped for a while
(SIGSTOP) or told to end (SIGTERM), and started again; or Redis runs out of memory, becomes read-only, fails
over to its replica, or drops all connections and scripts. Meanwhile clients post jobs of a few steps, wait,
follow the events, hang up, cancel, see their job's record deleted, and repeat what got no answer with the
same Idempotency-Key. Then everything is left alone until the jobs have ended, and what clients were told is
compared with what the records, the counters and the folders say. Lost, ended twice, stuck, untold and files
left over must all be 0.

- accepted: jobs whose id a client was told;
- lost: of those, the ones without a record, or succeeded without a picture;
- ended twice: ends that were counted beyond one a job, ends told that the record does not confirm, and keys
  that made two jobs;
- stuck: jobs that do not end, ids that stay in a queue or with a worker;
- untold: jobs whose end a webhook should have told a receiver that refuses every third, and has not;
- files left over: what lies in the folders and belongs to no job, after one sweep as the workers do it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import redis
import requests
from PIL import Image

from benchmarks.failover import Name, fail_over, follow
from caching_config import Settings, connect
from mead.cli.local_redis import find_redis, free_port, redis_options
from mead.cli.serve import PHOTOS
from mead.folder_storage import FolderStorage
from mead.installation import ROOT
from mead.queue.job import ENDED
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key, processing_key
from mead.queue.outbox import Outbox

WORKER_TTL = 3  # seconds; short, so that many a worker is taken for dead
CLIENTS = 16
TIMEOUT = 60.0  # seconds a client waits for bytes
PATIENCE = 300.0  # seconds that jobs may take to end once there is peace


# What is hit


class Part:
    """A process of the service that is started again and again.

    Args:
        name: what the report calls it.
        command: what runs.
        environment: its settings.
        log: where it writes.
        peace: the shortest and the longest it is left alone after a start, in seconds.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        log: Path,
        peace: tuple[float, float],
    ) -> None:
        self.name = name
        self.command = command
        self.environment = {**os.environ, **environment}
        self.log = log
        self.peace = peace
        self.busy = threading.Lock()  # held while something is done to it
        self.start()

    def start(self) -> None:
        """Start it; it is left alone for a while."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.rest()

    def rest(self) -> None:
        """Leave it alone from now on for a while."""
        self.left_alone_until = time.monotonic() + random.uniform(*self.peace)

    def signal(self, number: int) -> None:
        """Send a signal to it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> float:
        """Tell it to end, kill it if it does not within half a minute; seconds it took."""
        began = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        return time.monotonic() - began


class RedisPair:
    """What is done to Redis beside killing it. Its Part is whichever of two processes is the primary."""

    def __init__(self, parts: tuple[Part, Part], ports: tuple[int, int], name: Name) -> None:
        self.parts = parts
        self.ports = ports
        self.name = name
        follow(ports[1], ports[0])

    @property
    def primary(self) -> Part:
        """The process that takes writes now."""
        return self.parts[self.ports.index(self.name.target)]

    def hit(self, rng: random.Random) -> str:
        """Do one of the things; its name. What could not be done changes nothing."""
        what = rng.choice(["out of memory", "read-only", "failover", "connections dropped"])
        with redis.Redis(port=self.name.target, socket_timeout=30) as client:
            if what == "out of memory":
                client.config_set("maxmemory", "1kb")
                time.sleep(rng.uniform(0.5, 3 * WORKER_TTL))
                client.config_set("maxmemory", "0")
            elif what == "read-only":
                client.execute_command("REPLICAOF", "127.0.0.1", 1)
                time.sleep(rng.uniform(0.5, 3 * WORKER_TTL))
                client.execute_command("REPLICAOF", "NO", "ONE")
            elif what == "failover":
                old, new = self.name.target, sum(self.ports) - self.name.target
                follow(new, old)
                fail_over(old, new, self.name)
            else:
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind)
                client.script_flush()
        return what


class Chaos:
    """Hits one part a second until told to stop.

    Attributes:
        hits: how often what was done to whom.
        endings: the longest that each part took to end when told to, in seconds.
    """

    def __init__(self, pair: RedisPair, servers: Sequence[Part], seed: int) -> None:
        self.pair = pair
        self.servers = servers
        self.random = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self.endings: dict[str, float] = defaultdict(float)
        self.died: list[str] = []  # what ended though nobody had hit it
        self.failed: list[str] = []  # hits that did not succeed
        self._under_way: list[threading.Thread] = []

    def run(self, stop: threading.Event) -> None:
        """Hit until `stop` is set; then let everything recover."""
        while not stop.wait(self.random.uniform(0.6, 1.4)):
            now = time.monotonic()
            parts = [self.pair.primary, *self.servers]
            restful = [part for part in parts if part.left_alone_until < now and not part.busy.locked()]
            if restful:
                hit = threading.Thread(target=self.hit, args=[self.random.choice(restful)])
                hit.start()
                self._under_way.append(hit)
        for hit in self._under_way:
            hit.join()

    def hit(self, part: Part) -> None:
        """Kill, stop or end one part, and start it again."""
        with part.busy:
            if part.process.poll() is not None:
                self.died.append(f"{part.name} ({part.process.returncode})")
                part.start()
                return
            if part is self.pair.primary and self.random.random() < 0.5:
                try:
                    self.hits[f"Redis {self.pair.hit(self.random)}"] += 1
                except (redis.RedisError, TimeoutError) as error:
                    self.failed.append(f"Redis could not be hit: {error}")
                part.rest()
                return
            what = self.random.choices(["kill -9", "SIGSTOP", "SIGTERM"], [4, 3, 3])[0]
            self.hits[f"{what} {part.name}"] += 1
            if what == "SIGSTOP":
                part.signal(signal.SIGSTOP)
                time.sleep(self.random.uniform(0.3, 2 * WORKER_TTL))
                part.signal(signal.SIGCONT)
                part.rest()
                return
            if what == "SIGTERM":
                self.endings[part.name] = max(self.endings[part.name], part.end())
            else:
                part.signal(signal.SIGKILL)
                part.process.wait()
            time.sleep(self.random.uniform(0, 1))
            part.start()


# Who asks


@dataclass
class Asked:
    """A job as one client knows it.

    Attributes:
        key: its Idempotency-Key.
        ids: every id the client was told for this key: one, if all is well.
        ends: every end that the client was told.
        hung_up: whether it has hung up on its first request.
    """

    key: str
    ids: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    hung_up: bool = False


class NotAnsweredError(Exception):
    """The server could not answer now; the same can be asked again."""


class Receiver:
    """Receives webhooks on a port of 127.0.0.1, and refuses every third with 500.

    Attributes:
        told: the ends that it was told of, by job.
        refused: how many webhooks it has refused.
    """

    def __init__(self) -> None:
        self.told: dict[str, Counter[str]] = defaultdict(Counter)
        self.refused = 0
        self._received = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200 if receiver.takes(job) else 500)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def takes(self, job: Mapping[str, Any]) -> bool:
        """Note a webhook; False if it is refused."""
        with self._lock:
            self._received += 1
            if self._received % 3 == 0:
                self.refused += 1
                return False
            self.told[job["id"]][job["status"]] += 1
            return True

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


class Clients:
    """Ask for jobs in every way, and note what they are told."""

    def __init__(
        self, url: str, jobs: int, seconds: float, seed: int, client: redis.Redis, receiver: Receiver
    ) -> None:
        self.url = url
        self.receiver = receiver
        self.redis = client
        self.forgotten: dict[str, dict[str, str]] = {}  # records that were deleted, as they were then
        self.address = url.removeprefix("http://")
        self.jobs = jobs
        self.pause = seconds / jobs
        self.seed = seed
        self.asked: list[Asked] = []
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        photo = BytesIO()
        with Image.open(PHOTOS / "face.jpeg") as face:
            face.convert("RGB").resize((256, 256)).save(photo, "JPEG")
        self.photo = photo.getvalue()

    def run(self) -> None:
        """Ask for all jobs, at an even pace, as far as the answers allow it."""
        self.began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            for asking in [pool.submit(self.ask, number) for number in range(self.jobs)]:
                asking.result()

    def ask(self, number: int) -> None:
        """Ask for one job in one of the ways, and go on until its id is known."""
        time.sleep(max(0.0, self.began + number * self.pause - time.monotonic()))
        rng = random.Random(f"{self.seed} {number}")
        asked = Asked(key=f"chaos-{self.seed}-{number}")
        ways = [self.leave, self.wait, self.hang_up, self.cancel, self.follow, self.twice, self.be_forgotten]
        way = rng.choices(ways, [3, 3, 2, 2, 2, 1, 1])[0]
        with self._lock:
            self.asked.append(asked)
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            try:
                way(asked, rng)
                return
            except (
                NotAnsweredError,
                requests.RequestException,
                redis.RedisError,
                OSError,
                http.client.HTTPException,
            ):
                self._count("not answered, asked again")
                time.sleep(rng.uniform(0.1, 1.0))
        self.wrong.append(f"{asked.key} was not accepted within {PATIENCE:.0f} s")

    # The ways

    def leave(self, asked: Asked, rng: random.Random) -> None:
        """Post and go."""
        self._post(asked, {"Prefer": "respond-async"})

    def wait(self, asked: Asked, rng: random.Random) -> None:
        """Post and wait for the picture."""
        self._post(asked, {})

    def hang_up(self, asked: Asked, rng: random.Random) -> None:
        """Post, hang up while the server works, and ask later what became of it."""
        if not asked.hung_up:
            asked.hung_up = True
            body, headers = self._form(asked, {})
            connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
            connection.request("POST", self._route(asked), body, headers)
            time.sleep(rng.uniform(0, 2))
            connection.close()
        self._post(asked, {"Prefer": "respond-async"})

    def cancel(self, asked: Asked, rng: random.Random) -> None:
        """Post, and cancel after a moment."""
        if not asked.ids:
            self._post(asked, {"Prefer": "respond-async"})
            time.sleep(rng.uniform(0, 3))
        (job_id, *_) = asked.ids
        answer = requests.delete(f"{self.url}/jobs/{job_id}", timeout=TIMEOUT)
        if answer.status_code == 200:
            asked.ends.add("cancelled")
        elif answer.status_code != 409:  # it had ended, maybe by a cancelling whose answer was lost
            self._refused(asked, answer.status_code, answer.text)

    def follow(self, asked: Asked, rng: random.Random) -> None:
        """Post and follow the events to the end; after a break, go on where it was."""
        if asked.ids:
            (job_id, *_) = asked.ids
            request = requests.get(f"{self.url}/jobs/{job_id}/events", stream=True, timeout=TIMEOUT)
        else:
            body, headers = self._form(asked, {"Accept": "text/event-stream"})
            url = self.url + self._route(asked)
            request = requests.post(url, body, headers=headers, stream=True, timeout=TIMEOUT)
        with request as answer:
            if answer.status_code != 200:
                self._refused(asked, answer.status_code, answer.text)
            for line in answer.iter_lines():
                if not line.startswith(b"data:"):
                    continue
                change = json.loads(line.removeprefix(b"data:"))
                if change.get("id"):
                    asked.ids.add(change["id"])
                if change["status"] in ENDED:
                    asked.ends.add(change["status"])
                    return
        raise NotAnsweredError  # the stream broke off

    def be_forgotten(self, asked: Asked, rng: random.Random) -> None:
        """Post and follow the events of a job whose record is deleted meanwhile: the stream must end."""
        if not asked.ids:
            self._post(asked, {"Prefer": "respond-async"})
        (job_id, *_) = asked.ids
        url = f"{self.url}/jobs/{job_id}/events"
        with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 404 and job_id in self.forgotten:
                return
            if answer.status_code not in (200, 204):
                self._refused(asked, answer.status_code, answer.text)
            with self.redis.pipeline() as pipe:
                pipe.hgetall(job_key(job_id))
                pipe.delete(job_key(job_id))
                record, deleted = pipe.execute()
            if deleted:
                self.forgotten[job_id] = record
            try:
                deque(answer.iter_content(None), maxlen=0)
            except requests.ReadTimeout:
                self.wrong.append(f"{asked.key} waits for a job whose record is gone")

    def twice(self, asked: Asked, rng: random.Random) -> None:
        """Post the same at the same time."""
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(self._post, asked, {"Prefer": "respond-async"}) for _ in range(2)]
        for one in both:
            one.result()

    def _post(self, asked: Asked, more: Mapping[str, str]) -> None:
        body, headers = self._form(asked, more)
        answer = requests.post(self.url + self._route(asked), body, headers=headers, timeout=TIMEOUT)
        said = answer.json()
        self._count(f"POST {answer.status_code}")
        if said.get("id"):
            asked.ids.add(said["id"])
        if answer.status_code == 200:
            asked.ends.add("succeeded")
        elif answer.status_code in (409, 500) and said.get("id"):
            asked.ends.add("cancelled" if answer.status_code == 409 else "failed")
        elif answer.status_code != 202:
            self._refused(asked, answer.status_code, answer.text)

    def _refused(self, asked: Asked, status: int, text: str) -> None:
        if status not in (429, 503):
            self.wrong.append(f"{asked.key} was answered {status}: {text[:200]}")
            return
        raise NotAnsweredError

    def _route(self, asked: Asked) -> str:
        return "/styleclip" if self._is_styleclip(asked) else "/latent_revision"

    def _is_styleclip(self, asked: Asked) -> bool:
        return int(asked.key.rsplit("-", 1)[1]) % 4 == 0

    def _form(self, asked: Asked, more: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        number = asked.key.rsplit("-", 1)[1]
        fields = {"prompt": "a girl with green hair", "seed": number, "iterations": "3"}
        fields["webhook"] = self.receiver.url
        files = {"img": ("face.jpeg", self.photo)}
        if not self._is_styleclip(asked):
            fields |= {"size": "64x64", "cutouts": "4"}
            files = {"img_enc": files["img"]} if int(number) % 2 else {}
        made = requests.Request("POST", self.url, data=fields, files=files or None).prepare()
        body = made.body if isinstance(made.body, bytes) else (made.body or "").encode()
        headers = {"Content-Type": made.headers["Content-Type"], "Idempotency-Key": asked.key, **more}
        return body, headers

    def _count(self, what: str) -> None:
        with self._lock:
            self.answers[what] += 1


# The books


@dataclass
class Books:
    """What a run came to. Each of the last five holds a line for each thing that must not be."""

    accepted: int = 0
    forgotten: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    swept: int = 0
    webhooks: int = 0
    webhooks_refused: int = 0
    lost: list[str] = field(default_factory=list)
    ended_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    files_left_over: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.ended_twice or self.stuck or self.untold or self.files_left_over)


def check(clients: Clients, jobs: Jobs, storage: FolderStorage, settings: Settings) -> Books:
    """Compare what clients were told with the records, the counters and the folders."""
    books = Books()
    asked, url, forgotten = clients.asked, clients.url, clients.forgotten
    books.forgotten = len(forgotten)
    queues = [settings.queues[0], settings.queues[1]]
    told = {job_id: one for one in asked for job_id in one.ids}
    books.accepted = len(told)
    records: dict[str, dict[str, str]] = {}
    client: Any = jobs.redis
    for key in client.scan_iter(job_key("*"), count=1000):
        records[key.removeprefix(job_key(""))] = client.hgetall(key)
    for job_id, record in records.items():
        if record["status"] not in ENDED:
            books.stuck.append(f"{job_id} is {record['status']}")
            continue
        books.ended[record["status"]] += 1
        if record["status"] == "failed":
            books.reasons[record.get("error", "no reason")] += 1
            if not record.get("error"):
                books.lost.append(f"{job_id} failed without a reason")
    for job_id, one in told.items():
        if job_id in forgotten:
            continue
        known = records.get(job_id)
        if known is None:
            books.lost.append(f"{job_id} has no record")
            continue
        if known["status"] == "succeeded" and not _is_picture(f"{url}/jobs/{job_id}/image"):
            books.lost.append(f"{job_id} succeeded and has no picture")
        if one.ends - {known["status"]} and known["status"] in ENDED:
            books.ended_twice.append(f"{job_id} is {known['status']}; told was {sorted(one.ends)}")
    books.ended_twice += [f"{one.key} made {sorted(one.ids)}" for one in asked if len(one.ids) > 1]
    told_by_webhook = clients.receiver.told
    books.webhooks = sum(ends.total() for ends in told_by_webhook.values())
    books.webhooks_refused = clients.receiver.refused
    for job_id, record in records.items():
        if record["status"] in ENDED and set(told_by_webhook[job_id]) != {record["status"]}:
            books.untold.append(f"{job_id} is {record['status']}; told was {dict(told_by_webhook[job_id])}")
    for kind, counted in jobs.statistics().items():
        every = [*records.values(), *forgotten.values()]
        by_status = Counter(record["status"] for record in every if record["type"] == kind)
        for status in ENDED:
            if counted.ended[status] != by_status[status]:
                books.ended_twice.append(
                    f"{counted.ended[status]} {kind} jobs are counted as {status}, {by_status[status]} are"
                )
    for queue in queues:
        for key in [queue, *client.scan_iter(processing_key(queue, "*"), count=1000)]:
            waiting = [
                one for one in client.lrange(key, 0, -1) if one not in records or not _over(records[one])
            ]
            books.stuck += [f"{job_id} is in {key}" for job_id in waiting]
    books.swept = storage.sweep(jobs.outcomes, 0, 0)  # what its worker would do ten minutes after a kill
    needed = {record["out_path"] for record in records.values() if "out_path" in record}
    for folder in (storage.uploads, storage.results, storage.previews):
        for path in folder.glob("*"):
            record = records.get(path.name.partition(".")[0], {})
            if path.name not in needed and record.get("status") != "failed":  # which keeps its uploads
                books.files_left_over.append(str(path))
    return books


def _over(record: Mapping[str, str]) -> bool:
    return record["status"] in ENDED


def _is_picture(url: str) -> bool:
    answer = requests.get(url, timeout=TIMEOUT)
    if answer.status_code != 200:
        return False
    with Image.open(BytesIO(answer.content)) as picture:
        picture.load()
        return picture.format == "PNG"


# The run


@dataclass
class Run:
    """A run: its books, what was done, what clients met."""

    books: Books
    hits: Counter[str]
    endings: dict[str, float]
    died: list[str]
    failed: list[str]
    answers: Counter[str]
    wrong: list[str]
    seconds: float
    peace_seconds: float

    @property
    def clean(self) -> bool:
        return self.books.clean and not self.wrong and not self.died


def run(folder: Path, jobs: int, seconds: float, seed: int) -> Run:
    """Run the service in `folder` and hit it for `seconds` while clients ask for `jobs` jobs."""
    began = time.monotonic()
    redis_ports, port = (free_port(), free_port()), free_port()
    address = Name(redis_ports[0])
    url, redis_url = f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{address.port}/0"
    environment = {
        "REDIS_URL": redis_url,
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "WORKER_TTL": str(WORKER_TTL),
        "TORCH_THREADS": "1",
        "API_KEYS": "",
        "WEBHOOK_ALLOW": "127.0.0.1",
        "WEBHOOK_TIMEOUT": "2",
    }

    def redis_command(number: int) -> list[str | Path]:
        (folder / f"redis {number}").mkdir()
        options = redis_options(redis_ports[number], folder / f"redis {number}")
        return [find_redis(), *options, "--repl-diskless-sync-delay", "0"]  # a replica follows at once

    commands: dict[str, tuple[list[str | Path], tuple[float, float]]] = {
        "Redis": (redis_command(0), (2, 8)),
        "Redis, the other": (redis_command(1), (2, 8)),
        "gunicorn": ([sys.executable, ROOT / "caching_server.py"], (3, 8)),
        "inference server 1": ([sys.executable, ROOT / "inference_server.py"], (4, 30)),
        "inference server 2": ([sys.executable, ROOT / "inference_server.py"], (4, 30)),
    }
    settings = Settings(redis_url=redis_url, data_dir=folder / "data", worker_ttl=WORKER_TTL)
    store = Jobs(connect(settings), settings.job_ttl)
    receiver = Receiver()
    with ExitStack() as stack:
        stack.callback(receiver.close)
        parts = []
        for name, (command, peace) in commands.items():
            log = folder / f"{name.replace(' ', '_')}.log"
            parts.append(stack.enter_context(_part(Part(name, command, environment, log, peace))))
        _wait_until(lambda: _ready(url), "the service is not ready", 180)
        for part in parts:
            part.rest()
        pair = RedisPair((parts[0], parts[1]), redis_ports, address)
        chaos = Chaos(pair, parts[2:], seed)
        clients = Clients(url, jobs, seconds, seed, store.redis, receiver)
        stop = threading.Event()
        hitting = threading.Thread(target=chaos.run, args=[stop])
        asking = threading.Thread(target=clients.run)
        hitting.start()
        asking.start()
        time.sleep(seconds)
        stop.set()
        hitting.join()
        for part in parts:
            if part.process.poll() is not None:
                chaos.died.append(f"{part.name} ({part.process.returncode})")
                part.start()
        left_alone = time.monotonic()
        asking.join()
        with suppress(TimeoutError):
            _wait_until(lambda: _all_ended(store, settings), "jobs do not end", PATIENCE)
        with suppress(TimeoutError):
            _wait_until(lambda: not Outbox(store.redis).counts().waiting, "webhooks stay", PATIENCE)
        _wait_until(lambda: _ready(url), "the service does not come back", PATIENCE)
        took = time.monotonic() - left_alone
        books = check(clients, store, FolderStorage(settings.data_dir), settings)
        address.close()
    return Run(
        books,
        chaos.hits,
        dict(chaos.endings),
        chaos.died,
        chaos.failed,
        clients.answers,
        clients.wrong,
        time.monotonic() - began,
        took,
    )


@contextmanager
def _part(part: Part) -> Iterator[Part]:
    try:
        yield part
    finally:
        part.signal(signal.SIGCONT)
        part.end()


def _all_ended(store: Jobs, settings: Settings) -> bool:
    """Whether no job waits or runs."""
    client: Any = store.redis
    return all(client.hget(key, "status") in ENDED for key in client.scan_iter(job_key("*"), count=1000))


def _wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError, requests.RequestException):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def _ready(url: str) -> bool:
    return requests.get(f"{url}/readyz", timeout=TIMEOUT).status_code == 200


def show(found: Run) -> None:
    """Print what a run came to."""
    books = found.books
    print(
        f"{sum(found.hits.values())} hits: "
        + ", ".join(f"{n} {what}" for what, n in sorted(found.hits.items()))
    )
    endings = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(found.endings.items()))
    print(f"longest way from SIGTERM to the end: {endings or 'none'}")
    print("clients: " + ", ".join(f"{n} {what}" for what, n in sorted(found.answers.items())))
    print(f"peace until every job had ended: {found.peace_seconds:.0f} s; all of it {found.seconds:.0f} s")
    unknown = sum(books.ended.values()) + books.forgotten - books.accepted
    print(f"accepted            {books.accepted:6}   and {unknown} whose client was never told")
    print(f"record deleted      {books.forgotten:6}")
    print(f"succeeded           {books.ended['succeeded']:6}")
    print(f"cancelled           {books.ended['cancelled']:6}")
    print(f"failed with reason  {books.ended['failed']:6}   {dict(books.reasons)}")
    print(f"(swept after kills  {books.swept:6})")
    print(f"webhooks received   {books.webhooks:6}   and {books.webhooks_refused} refused, to be sent again")
    must_not_be = {
        "lost": books.lost,
        "ended twice": books.ended_twice,
        "stuck": books.stuck,
        "untold": books.untold,
        "files left over": books.files_left_over,
    }
    for name, lines in must_not_be.items():
        print(f"{name:19} {len(lines):6}")
    for line in found.failed:
        print(f"not hit: {line}")
    for line in [*chain(*must_not_be.values()), *found.wrong, *(f"{one} died unhit" for one in found.died)]:
        print(f"WRONG: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=500, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=240, help="of chaos (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and data there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mead-chaos-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(folder, options.jobs, options.seconds, options.seed)
    show(found)
    sys.exit(not found.clean)


if __name__ == "__main__":
    main()
