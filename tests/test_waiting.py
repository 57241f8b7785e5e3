"""Clients that wait, in crowds and in trouble: a real gunicorn and Redis; the test itself is the worker."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gunicorn.config import Config
from PIL import Image

from caching_server import Worker
from mead.queue.keys import job_key
from tests.conftest import RedisServer, Service, eventually

pytestmark = pytest.mark.service

QUEUE = "latentrevisions_queue"
ASYNC = {"Prefer": "respond-async"}
EVENTS = {"Accept": "text/event-stream"}
LIMIT = 120  # seconds; far more than anything here takes
CROWD = 300


class Waiting:
    """A client over a plain socket, so that hundreds cost the test nothing and can hang up as they like."""

    def __init__(self, url: str, number: int, accept: str = "*/*") -> None:
        host, port = url.removeprefix("http://").split(":")
        body = f"prompt=a+house&seed={number}"
        self.socket = socket.create_connection((host, int(port)), LIMIT)
        self.socket.sendall(
            f"POST /latent_revision HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    def answer(self) -> tuple[int, str]:
        """Status and body, once it has all come."""
        with self.socket, self.socket.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def wait_for_answer(self) -> None:
        """Return once the answer has begun, as that of an event stream does at once."""
        assert self.socket.recv(1, socket.MSG_PEEK)

    def hang_up(self) -> None:
        """Leave without a word."""
        self.socket.close()


class Room(Service):
    """A service whose only worker, "idle", takes a job when the test says so."""

    def wait_for(self, waiting: int) -> list[str]:
        """The ids of the jobs in the queue, once there are so many."""
        eventually(lambda: self.redis.llen(QUEUE) == waiting)
        return self.redis.lrange(QUEUE, 0, -1)  # type: ignore[return-value]

    def end_all(self, reason: str = "nobody is here") -> None:
        """Take every job in the queue and fail it."""
        while (job := self.jobs.claim(QUEUE, "idle")) is not None:
            self.jobs.fail(job, "idle", reason, "internal")

    def processes(self) -> list[int]:
        """The processes of gunicorn that answer."""
        master = self.caching.process.pid
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


@pytest.fixture(scope="module")
def redis_of_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that may be stopped and started."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, redis_of_room: RedisServer) -> Iterator[Room]:
    room = Room(tmp_path_factory.mktemp("room"), redis_of_room, HTTP_PROCESSES="1")
    room.jobs.heartbeat("idle", [QUEUE, "styleclip_queue"], 600)
    yield room
    room.caching.stop()


def test_a_crowd_waits_on_one_process(room: Room) -> None:
    crowd = [Waiting(room.url, n, EVENTS["Accept"] if n % 3 == 0 else "*/*") for n in range(CROWD)]
    ids = room.wait_for(CROWD)
    assert room.redis.pubsub_numpat() == 1  # one connection listens for all
    assert room.answers("/healthz") and room.answers("/readyz")
    check = requests.post(room.url + "/check", data={"id": ids[-1]}, timeout=LIMIT).json()
    assert check["status"] == "processing" and check["rank"] == CROWD - 1
    room.end_all()
    told = set()
    for number, client in enumerate(crowd):
        status, body = client.answer()
        assert "nobody is here" in body
        if number % 3 == 0:
            assert status == 200 and "event: end" in body
        else:
            assert status == 500
            told.add(json.loads(body)["id"])
    assert told < set(ids) and len(told) == CROWD - CROWD // 3


def test_a_client_that_hangs_up_frees_its_thread_and_loses_nothing(room: Room) -> None:
    crowd = [Waiting(room.url, n) for n in range(20)]
    room.wait_for(20)
    for client in crowd:
        client.hang_up()
    eventually(lambda: room.caching.log.read_text().count("hung up") == 20)
    assert room.redis.llen(QUEUE) == 20
    room.end_all()


def test_a_stop_answers_those_who_wait(room: Room, redis_of_room: RedisServer, tmp_path: Path) -> None:
    """With several processes; so many ask that each of them has some who wait."""
    folder = room.environment["DATA_DIR"]  # another caching server of the same service
    room = Room(tmp_path, redis_of_room, HTTP_PROCESSES="3", DATA_DIR=folder)
    eventually(lambda: len(room.processes()) == 3)
    waiting = [Waiting(room.url, n) for n in range(20)]
    streaming = [Waiting(room.url, n, EVENTS["Accept"]) for n in range(20)]
    ids = set(room.wait_for(40))
    room.caching.process.send_signal(signal.SIGTERM)
    told = set()
    for client in waiting:
        status, body = client.answer()
        answer = json.loads(body)
        assert status == 503 and answer["status"] == "error" and "shutting down" in answer["message"]
        told.add(answer["id"])
    for client in streaming:
        status, body = client.answer()
        if status == 503:  # it was not yet told anything
            told.add(json.loads(body)["id"])
            continue
        assert "event: closing" in body and "event: end" not in body
        told.add(json.loads(body.partition("event: closing\ndata: ")[2].splitlines()[0])["id"])
    assert told == ids
    assert room.caching.process.wait(LIMIT) == 0
    assert {room.jobs.get(job_id).status for job_id in ids} == {"queued"}
    room.end_all()


def test_a_process_told_to_stop_while_it_starts() -> None:
    """Before its app is loaded: it ends as one told to, not as one that could not start."""
    worker = Worker(1, 1, [], None, 30, Config(), None)
    worker.method_queue.init()
    worker.handle_exit(signal.SIGTERM, None)
    assert not worker.alive
    worker.tmp.close()
    worker.method_queue.close()


def test_metrics_of_all_processes(room: Room, redis_of_room: RedisServer, tmp_path: Path) -> None:
    """Whichever process is asked tells of all."""
    room = Room(tmp_path, redis_of_room, HTTP_PROCESSES="2", DATA_DIR=room.environment["DATA_DIR"])
    eventually(lambda: len(room.processes()) == 2)
    for _ in range(10):
        text = requests.get(room.url + "/metrics", timeout=LIMIT).text
        told = re.findall(r'^process_resident_memory_bytes\{pid="(\d+)"\} ', text, re.MULTILINE)
        assert sorted(map(int, told)) == sorted(room.processes())
    room.caching.stop()


def test_those_who_wait_ride_out_an_absence_of_redis(room: Room, redis_of_room: RedisServer) -> None:
    waiting = [Waiting(room.url, n) for n in range(5)]
    streaming = Waiting(room.url, 5, EVENTS["Accept"])
    room.wait_for(6)
    eventually(lambda: room.redis.pubsub_numpat() == 1)
    redis_of_room.stop()
    refused = requests.post(room.url + "/latent_revision", data={"prompt": "a house"}, timeout=LIMIT)
    assert refused.status_code == 503 and "Redis" in refused.json()["message"]
    assert room.answers("/healthz") and not room.answers("/readyz")
    redis_of_room.start()
    room.wait_for(6)
    room.end_all()
    assert {client.answer()[0] for client in waiting} == {500}
    assert "event: end" in streaming.answer()[1]


@pytest.mark.parametrize("flushed", [False, True])
def test_those_who_wait_hear_that_their_job_is_gone(room: Room, flushed: bool) -> None:
    """Its record was deleted, and nobody says so."""
    waiting = [Waiting(room.url, n) for n in range(5)]
    streaming = [Waiting(room.url, n, EVENTS["Accept"]) for n in range(5)]
    ids = room.wait_for(10)
    for client in streaming:
        client.wait_for_answer()  # one that has not begun is answered 404
    if flushed:
        room.redis.flushall()
        room.jobs.heartbeat("idle", [QUEUE, "styleclip_queue"], 600)
    else:
        room.redis.delete(*map(job_key, ids))
    told = []
    for client in waiting:
        status, body = client.answer()
        assert status == 404 and "has expired" in body
        told.append(json.loads(body)["id"])
    for client in streaming:
        status, body = client.answer()
        told.append(json.loads(body.partition("event: closing\ndata: ")[2].splitlines()[0])["id"])
        assert status == 200 and "has expired" in body and "event: end" not in body
    assert sorted(told) == sorted(ids)
    room.end_all()


@contextlib.contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of this process can grow beyond 64 bytes, as when the disk is full."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("side", [64, 700])  # the larger is laid down in a file while it comes in
def test_a_full_disk_refuses_uploads_and_heals(room: Room, side: int) -> None:
    noise = Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))
    file = io.BytesIO()
    noise.save(file, "PNG")

    def post() -> requests.Response:
        form = {"prompt": "a house"}
        files = {"img": ("img.png", file.getvalue())}
        return requests.post(
            room.url + "/latent_revision", data=form, files=files, headers=ASYNC, timeout=LIMIT
        )

    def stored() -> set[Path]:
        return set((room.folder / "var/uploads").rglob("*"))

    before = stored()
    (process,) = room.processes()
    with full_disk(process):
        refused = post()
        assert refused.status_code == 503 and "disk is full" in refused.json()["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert stored() == before
    assert room.redis.llen(QUEUE) == 0
    assert post().status_code == 202
    assert stored() > before
    room.end_all()
