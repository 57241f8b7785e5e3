"""Streams of events as the loop writes them: a real gunicorn and Redis; the test itself is the worker."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT, RedisServer, eventually, report
from tests.test_waiting import LIMIT, QUEUE, Room

pytestmark = pytest.mark.service

FEW = {"HTTP_PROCESSES": "1", "HTTP_THREADS": "8", "SSE_HEARTBEAT": "600"}
LONG, STEPS = "n" * 2000, 4000  # an id that makes events long; more of them than are kept for a client
MANY = {"HTTP_THREADS": "40", "MAX_OPEN_REQUESTS": "30", "MAX_OPEN_REQUESTS_PER_CLIENT": "30"}


@pytest.fixture(scope="module")
def redis_of_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rooms(
    tmp_path_factory: pytest.TempPathFactory, redis_of_room: RedisServer
) -> Iterator[Callable[..., Room]]:
    """Starts services of one process, with eight threads unless told otherwise."""
    started: list[Room] = []
    folder = str(tmp_path_factory.mktemp("data"))  # one for all: their queue is one

    def start(script: str = "caching_server.py", **more: str) -> Room:
        settings = FEW | {"DATA_DIR": folder} | more
        room = Room(tmp_path_factory.mktemp("room"), redis_of_room, script, **settings)
        room.jobs.heartbeat("idle", [QUEUE, "styleclip_queue"], 600)
        started.append(room)
        return room

    yield start
    for room in started:
        room.caching.stop()


@pytest.fixture(scope="module")
def room(rooms: Callable[..., Room]) -> Room:
    return rooms(**MANY)


class RefusedError(Exception):
    """The server has answered 429."""


class Follower:
    """A client that follows a job over a plain socket, of which it has read the first event.

    Args:
        buffer: bytes that the system keeps for it; its own choice when unset.
    """

    def __init__(self, url: str, job_id: str, version: str = "1.1", buffer: int | None = None) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(LIMIT)
        self.socket.connect((host, int(port)))
        self.socket.sendall(f"GET /jobs/{job_id}/events HTTP/{version}\r\nHost: {host}\r\n\r\n".encode())
        self.received = bytearray()
        while not re.search(rb"data: .*\n\n", self.received):
            self.received += self.socket.recv(1000)
            if self.received.startswith(b"HTTP/1.1 429"):
                self.socket.close()
                raise RefusedError

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and data of each event, once the last one has come."""
        chunked = b"Transfer-Encoding: chunked" in self.received
        end = b"\r\n0\r\n\r\n"
        while not (chunked and self.received.endswith(end)):
            piece = self.socket.recv(2**16)
            self.received += piece
            if not piece:
                break
        assert not chunked or self.received.endswith(end)
        _, _, body = bytes(self.received).partition(b"\r\n\r\n")
        text = dechunked(body) if chunked else body
        blocks = [block for block in text.decode().split("\n\n") if "event: " in block]
        told = []
        for block in blocks:
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            told.append((lines["event"], json.loads(lines["data"]) | {"seq": int(lines.get("id", -1))}))
        return told


def dechunked(body: bytes) -> bytes:
    """What chunks hold (RFC 9112, 7.1)."""
    pieces, at = [], 0
    while at < len(body):
        begin = body.index(b"\r\n", at) + 2
        end = begin + int(body[at:begin], 16)
        assert body[end : end + 2] == b"\r\n"
        pieces.append(body[begin:end])
        at = end + 2
    return b"".join(pieces)


def make(room: Room, job_id: str) -> str:
    return room.jobs.enqueue(job_id, "lr", QUEUE, {"prompt": "teal"})


def run(room: Room, steps: int) -> None:
    """Take the next job, and fail it after so many steps."""
    job = room.jobs.claim(QUEUE, "idle")
    assert job is not None
    for step in range(1, steps + 1):
        report(room.jobs, job, step, steps, 0.5)
    room.jobs.fail(job, "idle", "nobody is here", "internal")


def threads_of(room: Room) -> list[str]:
    """The names of the threads of the one process that answers."""
    (process,) = room.processes()
    return [(thread / "comm").read_text() for thread in Path(f"/proc/{process}/task").iterdir()]


def test_a_stream_holds_no_thread(room: Room) -> None:
    """Others are answered all the same, and all of them are told the end."""
    make(room, "crowded")
    crowd = [Follower(room.url, "crowded") for _ in range(24)]
    for path in ("/readyz", "/jobs/crowded", "/index"):
        assert requests.get(room.url + path, timeout=LIMIT).status_code == 200
    assert len(threads_of(room)) < 24
    run(room, 3)
    told = [client.events() for client in crowd]
    assert all(one[-1][0] == "end" and one[-1][1]["message"] == "nobody is here" for one in told)


def test_all_who_follow_are_told_the_same(room: Room) -> None:
    """Whatever their version of HTTP; whoever comes later is told what comes then."""
    make(room, "same")
    early = [Follower(room.url, "same", version) for version in ("1.1", "1.0", "1.1")]
    job = room.jobs.claim(QUEUE, "idle")
    assert job is not None
    report(room.jobs, job, 1, 3, 0.5)
    late = Follower(room.url, "same")
    report(room.jobs, job, 2, 3, 0.5)
    room.jobs.fail(job, "idle", "nobody is here", "internal")
    first, *others = [client.events() for client in early]
    assert [kind for kind, _ in first] == ["progress"] * 4 + ["end"]
    assert [data["status"] for _, data in first] == ["queued", *["processing"] * 3, "failed"]
    assert first[0][1]["rank"] == 0 and all("rank" not in data for _, data in first[1:])
    assert others == [first, first]
    assert late.events() == first[-len(late.events()) :]


def test_who_does_not_read_stops_nobody(room: Room) -> None:
    """What it is told is whole, and the latest at last."""
    job_id = make(room, LONG)
    slow, quick = Follower(room.url, job_id, buffer=4096), Follower(room.url, job_id)
    told: list[list[tuple[str, dict[str, Any]]]] = []
    reading = threading.Thread(target=lambda: told.append(quick.events()))
    reading.start()
    run(room, STEPS)
    reading.join(LIMIT)
    told.append(slow.events())
    for events in told:
        assert events[-1][0] == "end"
        seqs = [data["seq"] for _, data in events]
        assert seqs == sorted(set(seqs))
    assert told[0][-1] == told[1][-1] and len(told[1]) < STEPS


def test_who_takes_nothing_for_long_is_dropped(rooms: Callable[..., Room], tmp_path: Path) -> None:
    impatient = tmp_path / "impatient.py"
    impatient.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import mead.http.stream_writer\n"
        "mead.http.stream_writer.SEND_SECONDS = 0.2\n"
        f"runpy.run_path({str(ROOT / 'caching_server.py')!r}, run_name='__main__')\n"
    )
    room = rooms(str(impatient), MAX_OPEN_REQUESTS_PER_CLIENT="1")
    job_id = make(room, LONG + "2")
    client = Follower(room.url, job_id, buffer=4096)
    job = room.jobs.claim(QUEUE, "idle")
    assert job is not None
    for step in range(STEPS):
        report(room.jobs, job, step, STEPS)
    eventually(lambda: begins(room, job_id))
    client.socket.close()
    room.jobs.fail(job, "idle", "nobody is here", "internal")


@pytest.mark.parametrize("reset", [False, True])
def test_a_hang_up_frees_its_place_at_once(rooms: Callable[..., Room], reset: bool) -> None:
    """No event and no comment is on its way meanwhile."""
    room = rooms(MAX_OPEN_REQUESTS_PER_CLIENT="1")
    job_id = make(room, f"left-{reset}")
    for _ in range(3):
        client = follow_once_free(room, job_id)
        assert not begins(room, job_id)
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        eventually(lambda: begins(room, job_id))
        eventually(lambda: begins(room, job_id))  # its own place, too
    room.end_all()


def follow_once_free(room: Room, job_id: str) -> Follower:
    """A client that follows a job, once the place of the one before it is free."""
    while True:
        with contextlib.suppress(RefusedError):
            return Follower(room.url, job_id)
        time.sleep(0.02)


def begins(room: Room, job_id: str) -> bool:
    """Whether a stream begins, which is left at once; else there is no place for it."""
    with requests.get(f"{room.url}/jobs/{job_id}/events", stream=True, timeout=LIMIT) as answer:
        assert answer.status_code in (200, 429)
        return answer.status_code == 200


def test_a_connection_goes_on_after_its_stream(room: Room) -> None:
    """With what was asked for meanwhile, too."""
    make(room, "followed")
    host, port = room.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), LIMIT) as connection:
        connection.sendall(b"GET /jobs/followed/events HTTP/1.1\r\nHost: here\r\n\r\n")
        received = connection.recv(1000)  # the stream has begun
        connection.sendall(b"GET /index HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        run(room, 2)
        while piece := connection.recv(1000):
            received += piece
    _, stream, index = received.split(b"HTTP/1.1 200 OK")
    assert b"event: end" in stream and b"its up" in index


def test_a_stop_is_told_to_the_streams(rooms: Callable[..., Room]) -> None:
    room = rooms(**MANY)
    make(room, "stopped")
    crowd = [Follower(room.url, "stopped", version) for version in ("1.0", "1.1") for _ in range(8)]
    room.caching.process.send_signal(signal.SIGTERM)
    for client in crowd:
        *_, (kind, data) = client.events()
        assert kind == "closing" and data["id"] == "stopped" and "shutting down" in data["message"]
    assert room.caching.process.wait(LIMIT) == 0
    room.end_all()
