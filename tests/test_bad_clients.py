"""One client does not stop the others: slow, silent, streaming and vanishing ones against a real gunicorn."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mead.cli.local_redis import free_port
from tests.conftest import ROOT, Process, RedisServer, answers, eventually
from tests.test_waiting import LIMIT, QUEUE, Room, Waiting

pytestmark = pytest.mark.service

HEAD = b"POST /latent_revision HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-www-form-urlencoded\r\n"
FORM = b"prompt=a+house"
ASYNC = HEAD + b"Prefer: respond-async\r\n"


@pytest.fixture(scope="module")
def redis_of_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rooms(
    tmp_path_factory: pytest.TempPathFactory, redis_of_room: RedisServer
) -> Iterator[Callable[..., Room]]:
    """Starts services of one process with few threads and little patience, or with other settings."""
    started: list[Room] = []
    folder = str(tmp_path_factory.mktemp("data"))  # one for all: their queue is one

    def start(**more: str) -> Room:
        few = {"HTTP_PROCESSES": "1", "HTTP_THREADS": "8", "HEADER_TIMEOUT": "1", "BODY_TIMEOUT": "2"}
        few["DATA_DIR"] = folder
        room = Room(tmp_path_factory.mktemp("room"), redis_of_room, **few | more)
        room.jobs.heartbeat("idle", [QUEUE, "styleclip_queue"], 600)
        started.append(room)
        return room

    yield start
    for room in started:
        room.caching.stop()


@pytest.fixture(scope="module")
def room(rooms: Callable[..., Room]) -> Room:
    return rooms()


def connected(room: Room, sent: bytes = b"", host: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine, and what it sends at once."""
    port = int(room.url.rsplit(":", 1)[1])
    connection = socket.create_connection(("127.0.0.1", port), LIMIT, (host, 0))
    connection.sendall(sent)
    return connection


def post(room: Room, prompt: str = "a house", **more: Any) -> requests.Response:
    """What a form is answered."""
    return requests.post(room.url + "/latent_revision", {"prompt": prompt}, timeout=LIMIT, **more)


def received(connection: socket.socket) -> bytes:
    """All that comes, to the end."""
    with connection, connection.makefile("rb") as file:
        return file.read()


def statuses(answer: bytes) -> list[int]:
    """The statuses of answers behind each other."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


# Slow and silent


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", []),
        (b"G", [408]),
        (b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-A: b", [408]),
        (HEAD + b"Content-Length: 1000\r\n\r\nprompt", [408]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nprom", [408]),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n", [100, 408]),
        (b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\nGET /heal", [200, 408]),
    ],
)
def test_a_crowd_of_slow_clients_holds_no_thread(room: Room, sent: bytes, answer: list[int]) -> None:
    """Three for each thread. All are told, in the end, and let go."""
    crowd = [connected(room, sent) for _ in range(24)]
    assert requests.get(room.url + "/readyz", timeout=LIMIT).status_code == 200
    assert post(room, headers={"Prefer": "respond-async"}).status_code == 202
    for client in crowd:
        assert statuses(received(client)) == answer
    room.end_all()


def test_more_connections_than_there_is_room_for(room: Room) -> None:
    """Silent ones give way to others. (Eight threads have 32 connections.)"""
    crowd = [connected(room) for _ in range(120)]
    for _ in range(50):
        assert requests.get(room.url + "/healthz", timeout=LIMIT).status_code == 200
    for client in crowd:
        client.close()


def test_who_does_not_read_the_answer_holds_no_thread_for_ever(room: Room) -> None:
    """A client that asks and does not hang up, after an answer that is the last on its connection."""
    crowd = [connected(room, b"GET /index HTTP/1.0\r\n\r\n") for _ in range(64)]
    assert requests.get(room.url + "/index", timeout=LIMIT).status_code == 200
    for client in crowd:
        assert b"its up" in received(client)


def test_a_crowd_of_whole_requests_leaves_room_for_others(room: Room) -> None:
    """More than there are connections, of one address that does not read what it is told."""
    crowd = [
        connected(room, b"GET /index HTTP/1.1\r\nHost: here\r\n\r\n" * 20, "127.0.0.2") for _ in range(40)
    ]
    for path in ("/healthz", "/readyz", "/index"):
        assert requests.get(room.url + path, timeout=LIMIT).status_code == 200
    for client in crowd:
        client.close()


# Requests in pieces


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize(
    "whole",
    [
        ASYNC + b"Content-Length: 14\r\n\r\n" + FORM,
        ASYNC + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nprom\r\na\r\npt=a+house\r\n0\r\nX: y\r\n\r\n",
    ],
)
def test_pieces_make_a_request(room: Room, whole: bytes, size: int) -> None:
    with connected(room) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), size):
            client.sendall(whole[at : at + size])
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1000)
    assert statuses(head) == [202]
    room.end_all()


def test_requests_behind_each_other(room: Room) -> None:
    index = b"GET /index HTTP/1.1\r\nHost: here\r\n\r\n"
    post = ASYNC + b"Content-Length: 14\r\n\r\n" + FORM
    last = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    client = connected(room, index + post + index + post + last)
    assert statuses(received(client)) == [200, 202, 200, 202, 200]
    room.end_all()


def test_continue_is_said_once(room: Room) -> None:
    client = connected(
        room, ASYNC + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
    )
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(FORM)
    assert statuses(received(client)) == [202]
    too_much = connected(room, HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
    assert statuses(received(too_much)) == [413]
    room.end_all()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\nHost: here\n\n", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", 414),
        (HEAD + b"A: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request(room: Room, sent: bytes, status: int) -> None:
    assert statuses(received(connected(room, sent))) == [status]


def test_half_a_body_makes_no_job(room: Room) -> None:
    client = connected(room, HEAD + b"Content-Length: 100\r\n\r\n" + FORM)
    client.shutdown(socket.SHUT_WR)
    answer = received(client)
    assert statuses(answer) == [400] and b"incomplete" in answer and room.redis.llen(QUEUE) == 0


def test_connections_are_kept(room: Room) -> None:
    connection = http.client.HTTPConnection(room.url.removeprefix("http://"), timeout=LIMIT)
    connection.connect()
    port = connection.sock.getsockname()
    for path in ("/healthz", "/index", "/nowhere", "/readyz"):
        connection.request("GET", path)
        connection.getresponse().read()
        assert connection.sock.getsockname() == port
    connection.close()


# Who waits and who follows


def test_one_client_holds_only_its_share(room: Room) -> None:
    """Of eight threads six may wait, five for one client; what is refused has made no job."""
    crowd = [Waiting(room.url, n, "text/event-stream" if n % 2 else "*/*") for n in range(5)]
    ids = room.wait_for(5)
    for answer in (
        post(room),
        requests.get(f"{room.url}/jobs/{ids[0]}/events", timeout=LIMIT),
    ):
        assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
        assert "respond-async" in answer.json()["message"]
    assert room.redis.llen(QUEUE) == 5
    another = connected(room, HEAD + b"Connection: close\r\nContent-Length: 14\r\n\r\n" + FORM, "127.0.0.2")
    room.wait_for(6)
    full = connected(room, HEAD + b"Connection: close\r\nContent-Length: 14\r\n\r\n" + FORM, "127.0.0.3")
    assert statuses(received(full)) == [503]
    for path in ("/healthz", "/readyz", f"/jobs/{ids[0]}"):
        assert requests.get(room.url + path, timeout=LIMIT).status_code == 200
    room.end_all()
    assert statuses(received(another)) == [500]
    for client in crowd:
        client.answer()
    again = Waiting(room.url, 9)  # all have given their places back
    room.wait_for(1)
    room.end_all()
    assert again.answer()[0] == 500


def test_a_late_byte_hides_nobody_who_has_hung_up(room: Room) -> None:
    crowd = [Waiting(room.url, n) for n in range(5)]
    room.wait_for(5)
    before = room.caching.log.read_text().count("hung up")
    for client in crowd:
        client.socket.sendall(b"\r\n")
        client.hang_up()
    eventually(lambda: room.caching.log.read_text().count("hung up") == before + 5)
    room.end_all()


def test_a_half_closed_stream_is_told_to_the_end(room: Room) -> None:
    client = Waiting(room.url, 1, "text/event-stream")
    client.socket.shutdown(socket.SHUT_WR)
    room.wait_for(1)
    room.end_all()
    assert "event: end" in client.answer()[1]


def test_a_half_closed_client_is_told_its_job(room: Room) -> None:
    """It cannot be told from one that has hung up, so nothing is held for it; it can ask for the job."""
    client = Waiting(room.url, 1)
    client.socket.shutdown(socket.SHUT_WR)
    (job_id,) = room.wait_for(1)
    status, body = client.answer()
    assert status == 202 and json.loads(body)["id"] == job_id
    room.end_all()


def test_streams_of_those_who_are_gone_give_their_places_back(rooms: Callable[..., Room]) -> None:
    room = rooms(SSE_HEARTBEAT="0.2")
    for number in range(7):  # more than one client may have
        client = Waiting(room.url, number, "text/event-stream")
        room.wait_for(1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.hang_up()
        room.redis.delete(QUEUE)
        eventually(lambda: post(room, prompt="").status_code == 400)


# The process


def test_a_stop_waits_for_nobody_who_is_silent(rooms: Callable[..., Room]) -> None:
    room = rooms(HEADER_TIMEOUT="600", KEEP_ALIVE="600")
    silent = [connected(room) for _ in range(10)]
    kept = connected(room, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
    assert b"200 OK" in kept.recv(1000)
    room.caching.process.send_signal(signal.SIGTERM)
    assert room.caching.process.wait(20) == 0  # gunicorn kills after 30
    for client in (*silent, kept):
        client.close()


def test_few_open_files(tmp_path: Path, redis_of_room: RedisServer) -> None:
    """A hundred clients at once where 64 files may be open: nobody gets half an answer, and all goes on."""
    limited = tmp_path / "limited.py"
    limited.write_text(
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / 'caching_server.py')!r}, run_name='__main__')\n"
    )
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = {"REDIS_URL": redis_of_room.url, "DATA_DIR": str(tmp_path / "var"), "PORT": str(port)}
    process = Process(str(limited), {**settings, "HTTP_PROCESSES": "1"}, tmp_path / "limited.log")
    process.wait_until(lambda: answers(url + "/healthz"))
    address = ("127.0.0.1", port)
    crowd = [socket.create_connection(address, LIMIT) for _ in range(100)]
    for client in crowd:
        client.sendall(b"GET /jobs/nobody HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert Counter(tuple(statuses(received(client))) for client in crowd) == {(404,): 100}
    silent = [socket.create_connection(address, LIMIT) for _ in range(100)]
    assert answers(url + "/healthz")
    for client in silent:
        client.close()
    assert answers(url + "/readyz") or answers(url + "/healthz")
    assert process.stop() == 0
    assert "crashed" not in process.log.read_text()


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_ipv6(host: str, tmp_path: Path, redis_of_room: RedisServer) -> None:
    port = free_port()
    settings = {"HOST": host, "PORT": str(port), "DATA_DIR": str(tmp_path), "ALLOW_ANONYMOUS": "true"}
    process = Process("caching_server.py", settings | {"REDIS_URL": redis_of_room.url}, tmp_path / "log")
    process.wait_until(lambda: answers(f"http://[::1]:{port}/healthz"))
    assert process.stop() == 0
    assert f"http://[{host.strip('[]')}]:{port}" in process.log.read_text()


def test_under_a_gunicorn_of_ones_own(tmp_path: Path, redis_of_room: RedisServer) -> None:
    """The worker is found, and its limits are the settings'."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "-k", "caching_server.Worker", "--threads", "8"]
    command += ["--no-control-socket", "--bind", address, "caching_server:create_app()"]
    settings = {"REDIS_URL": redis_of_room.url, "DATA_DIR": str(tmp_path), "HEADER_TIMEOUT": "1"}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}) as process:
        eventually(lambda: answers(f"http://{address}/healthz"))
        host, port = address.split(":")
        client = socket.create_connection((host, int(port)), LIMIT)
        client.sendall(b"GET")
        assert statuses(received(client)) == [408]
        process.terminate()
        assert process.wait(LIMIT) == 0
