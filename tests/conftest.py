"""What tests share: a Redis of their own (a real one), settings that point to it, a small real pipeline."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

# before PyTorch is imported: its threads must not keep the cores busy that other tests need (`mead.openmp`)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
import redis
import requests
import torch
from PIL import Image, ImageSequence
from playwright.sync_api import Browser, sync_playwright

from caching_config import Settings, connect
from mead.bucket_storage import BucketStorage
from mead.cli.local_redis import find_redis, free_port, redis_options
from mead.folder_storage import FolderStorage
from mead.http.events import Events
from mead.queue.job import ENDED, Job, JobProgress
from mead.queue.jobs import Jobs
from mead.queue.keys import events_key
from mead.queue.recovery import Recovery
from tests.colours import QUEUE, ColourPipeline
from tests.object_store import BUCKET, ObjectStore

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
T = TypeVar("T")


class RedisServer:
    """A redis-server process on a free port, keeping its data in `folder` as the shipped setting does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            # replicas are sent their copy at once: others may come later
            [find_redis(), *redis_options(self.port, self.folder), "--repl-diskless-sync-delay", "0"],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis.from_url(self.url)
        for _ in range(3000):
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert self.process.poll() is None, "redis-server ended as it started"
                time.sleep(0.01)
        raise TimeoutError("redis-server does not answer")

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The tests' own Redis, for those that leave it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may stop and start it."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> Settings:
    """Settings of a service on an empty Redis and empty folders."""
    redis.Redis.from_url(redis_server.url).flushall()
    return Settings(redis_url=redis_server.url, data_dir=tmp_path / "var", server_sleep=0.1, client_sleep=1)


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    """A client of the tests' Redis."""
    return connect(settings)


@pytest.fixture
def jobs(settings: Settings, client: redis.Redis) -> Jobs:
    """The jobs in the tests' Redis."""
    return Jobs(client, settings.job_ttl)


@pytest.fixture
def storage(settings: Settings) -> FolderStorage:
    """The folders of the tests' service."""
    return FolderStorage(settings.data_dir)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The tests' own object store."""
    store = ObjectStore(tmp_path_factory.mktemp("object_store"))
    yield store
    store.stop()


@pytest.fixture
def bucket(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketStorage:
    """An empty storage in the object store, where requests do not meet faults yet."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    object_store.fail(None)
    prefix = f"services/{secrets.token_hex(8)}"
    return BucketStorage(BUCKET, prefix, tmp_path / "var" / "cache", timeout=30)


@pytest.fixture
def colours() -> ColourPipeline:
    """A pipeline that needs no weights."""
    return ColourPipeline()


@pytest.fixture
def face() -> Path:
    """A photo of a face."""
    return DATA / "face.jpeg"


@contextmanager
def running(loop: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Run an engine's or a worker's loop in a thread, until the end or until the event given is set."""
    stop = threading.Event()
    thread = threading.Thread(target=loop, args=[stop])
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def eventually(condition: Callable[[], T | None], message: str = "") -> T:
    """Wait until `condition` returns something true; returns that."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.02)
    return found


def follow_until(jobs: Jobs, job_id: str, enough: Callable[[Job], bool], seconds: float = 120) -> Job:
    """Follow a job's events until `enough` holds; the job as it is then."""
    deadline = time.monotonic() + seconds
    for job in Events(jobs).follow(job_id, pulse=0.5):
        if job is not None and enough(job):
            return job
        assert time.monotonic() < deadline, job
    raise AssertionError(f"{job_id} has ended")


def end_of(jobs: Jobs, job_id: str) -> Job:
    """The job once it has ended."""
    return follow_until(jobs, job_id, lambda job: job.ended)


def report(jobs: Jobs, job: Job, steps: int, total_steps: int, loss: float = 0.5) -> bool:
    """Report a job's progress as the worker that has claimed it; False if that no longer holds the job."""
    progress = [JobProgress(job.id, steps, total_steps, loss)]
    return not jobs.report(job.queue, job.worker or "", progress).lost


def recover(jobs: Jobs, queues: Sequence[str] = (QUEUE,), attempts: int = 3) -> list[str]:
    """Recover the jobs of dead workers, as a live worker does."""
    return Recovery(jobs, queues, attempts).recover()


@contextmanager
def channel(client: redis.Redis, job_id: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What is published of a job from now on, until its end."""

    def changes() -> Iterator[dict[str, Any]]:
        while True:
            message = subscription.get_message(timeout=120)
            assert message is not None, "nothing is published"
            change = json.loads(message["data"])
            yield change
            if change["status"] in ENDED:
                return

    with client.pubsub() as subscription:
        subscription.subscribe(events_key(job_id))
        assert subscription.get_message(timeout=120)["type"] == "subscribe"
        yield changes()


def answers(address: str) -> bool:
    """Whether GET `address` succeeds."""
    try:
        return requests.get(address, timeout=30).status_code == 200
    except requests.ConnectionError:
        return False


class Process:
    """One of the doors, run as its own process with settings from the environment alone."""

    def __init__(self, script: str, settings: dict[str, str], log: Path) -> None:
        self.log = log
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings}
        with log.open("a") as output:
            self.process = subprocess.Popen(
                self.command(script),
                env=environment,
                cwd=log.parent,
                stdout=output,
                stderr=output,
            )

    def command(self, script: str) -> list[str]:
        """What is run."""
        return [sys.executable, str(ROOT / script)]

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until the process is ready; fail with its log if it ends before."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"ended as it started:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not ready in time:\n{self.log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> int:
        """Ask it to stop; returns its exit status."""
        self.process.terminate()
        return self.process.wait(60)


class Service:
    """The whole service as processes on the demo weights: Redis, caching server, inference server.

    Args:
        script: the caching server's.
        more: further settings.
    """

    process = Process

    def __init__(
        self, folder: Path, redis_server: RedisServer, script: str = "caching_server.py", **more: str
    ) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.environment = {
            "REDIS_URL": redis_server.url,
            "DATA_DIR": str(folder / "var"),
            "PORT": str(port),
            "TORCH_THREADS": "1",
            **more,
        }
        self.redis = connect(Settings(redis_url=redis_server.url))
        self.jobs = Jobs(self.redis, 24 * 3600)
        self.caching = self.process(script, self.environment, folder / "caching.log")
        self.caching.wait_until(lambda: self.answers("/healthz"))

    def start_inference(self) -> Process:
        """Start an inference server and wait until the service is ready."""
        process = self.process("inference_server.py", self.environment, self.folder / "inference.log")
        process.wait_until(lambda: self.answers("/readyz"))
        return process

    def answers(self, path: str) -> bool:
        """Whether GET `path` succeeds."""
        return answers(self.url + path)


@pytest.fixture(scope="module")
def waiting_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without an inference server."""
    folder = tmp_path_factory.mktemp("service")
    redis_server = RedisServer(folder)
    service = Service(folder, redis_server)
    yield service
    service.caching.stop()
    redis_server.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service, at work."""
    folder = tmp_path_factory.mktemp("service")
    redis_server = RedisServer(folder)
    service = Service(folder, redis_server)
    inference = service.start_inference()
    yield service
    assert inference.stop() == 0
    assert service.caching.stop() == 0
    redis_server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium, else the one that `playwright install chromium` has fetched."""

    def runs(program: str) -> bool:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0

    names = ("chromium", "google-chrome", "chromium-browser")
    found = [path for path in map(shutil.which, names) if path and runs(path)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found[0] if found else None,
            args=["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture
def door() -> Iterator[Callable[..., str]]:
    """Starts a door that answers HTTP and needs nothing else; gives its address."""
    started: list[Process] = []

    def start(script: str, folder: Path, kind: type[Process] = Process) -> str:
        url = f"http://127.0.0.1:{(port := free_port())}"
        environment = {"PORT": str(port), "DATA_DIR": str(folder / "var"), "TORCH_THREADS": "1"}
        process = kind(script, environment, folder / "door.log")
        started.append(process)
        process.wait_until(lambda: answers(url + "/healthz"))
        return url

    yield start
    for process in started:
        process.stop()


def frames_of(file: bytes | Path) -> list[Image.Image]:
    """The frames of an animation, RGB."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as animation:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in dB."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    return float(10 * np.log10(255**2 / max(float(np.square(difference).mean()), 1e-9)))


def pytest_configure() -> None:
    """Give PyTorch one thread in the tests and in the processes they start.

    Two processes run tests side by side. Threads that wait for each other on too few cores take many times as
    long.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def two_cores() -> Iterator[None]:
    """PyTorch's work divided between two threads, as on a machine with two cores."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


SERVICES = {"service", "waiting_room"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a browser or a whole service; slow ones are marked where they are."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "browser" in fixtures:
            item.add_marker("browser")
        if fixtures & SERVICES:
            item.add_marker("service")
    # Files with long tests first: begun last, they would keep one process alone. Those that wait for servers
    # evenly among those that compute, so that the cores are never all asked for, nor all left idle.
    waiting = dict.fromkeys(item.path for item in items if item.get_closest_marker("service"))
    slow = dict.fromkeys(item.path for item in items if item.get_closest_marker("slow"))
    computing = [path for path in slow if path not in waiting]
    places = {path: (n + 0.5) / len(group) for group in (waiting, computing) for n, path in enumerate(group)}
    items.sort(key=lambda item: places.get(item.path, 1.0))
