"""A Redis that stalls just as a request reaches it: real gunicorn and Redis, and a relay between them."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import requests

from mead.queue.errors import UnknownJobError
from tests.conftest import ROOT, RedisServer, Service, eventually

pytestmark = pytest.mark.service

QUEUE = "latentrevisions_queue"
ASYNC = {"Prefer": "respond-async"}
LIMIT = 60

IMPATIENT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import caching_server
from mead.http import readiness, services
from mead.queue.scripts import TimelyScript
readiness.PROBE_TIMEOUT /= 4
services.REDIS_TIMEOUT /= 4
TimelyScript.SECONDS /= 4
caching_server.main()
"""
"""A caching server that waits for Redis a quarter of the time that ours does, wherever it waits."""


class Relay:
    """Passes on what is sent to a Redis, and can stop that Redis just before it gets a script to run."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.stall = False  # the next script finds Redis stopped
        self.wake_for_the_next = False  # which the next connection wakes
        self.lose_answer = False  # the next script runs, but its connection ends without an answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            if self.wake_for_the_next:
                self.wake_for_the_next = False
                self.server.process.send_signal(signal.SIGCONT)
            redis_side = socket.create_connection(("127.0.0.1", self.server.port))
            for one, other in ((client, redis_side), (redis_side, client)):
                threading.Thread(target=self._pump, args=(one, other, one is client), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        try:
            while sent := source.recv(65536):
                if asks and b"EVALSHA" in sent:
                    if self.stall:
                        self.stall = False
                        self.server.process.send_signal(signal.SIGSTOP)
                    if self.lose_answer:
                        self.lose_answer = False
                        target.sendall(sent)
                        eventually(lambda: self.server_has_jobs())
                        source.shutdown(socket.SHUT_RDWR)
                        return
                target.sendall(sent)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # either side is gone
            pass

    def server_has_jobs(self) -> bool:
        """Whether there is a job's record."""
        return bool(redis.Redis.from_url(self.server.url).keys("job:*"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture(scope="module")
def relay(server: RedisServer) -> Iterator[Relay]:
    relay = Relay(server)
    yield relay
    relay.listener.close()


@pytest.fixture(scope="module")
def behind(server: RedisServer, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A caching server that reaches Redis through the relay; its requests know the script already."""
    folder: Path = tmp_path_factory.mktemp("service")
    script = folder / "impatient.py"
    script.write_text(IMPATIENT)
    service = Service(folder, server, str(script), REDIS_URL=relay.url, HTTP_PROCESSES="1")
    service.jobs.heartbeat("nobody", [QUEUE], 600)
    assert post(service).status_code == 202
    yield service
    service.caching.stop()


@pytest.fixture(autouse=True)
def empty(behind: Service) -> None:
    """No jobs; the scripts stay loaded."""
    for key in behind.redis.keys("*"):
        if not key.startswith("worker") and "data_folder" not in key:
            behind.redis.delete(key)


def post(service: Service, **headers: str) -> requests.Response:
    form = {"prompt": "a house", "seed": "7"}
    return requests.post(f"{service.url}/latent_revision", form, headers={**ASYNC, **headers}, timeout=LIMIT)


def scripts_run(service: Service) -> int:
    return int(service.redis.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
def test_what_was_refused_never_runs(
    behind: Service, relay: Relay, server: RedisServer, headers: dict[str, str]
) -> None:
    before = scripts_run(behind)
    relay.stall = True
    refused = post(behind, **headers)
    assert refused.status_code == 503 and refused.headers["Retry-After"]
    server.process.send_signal(signal.SIGCONT)
    eventually(lambda: scripts_run(behind) > before)  # what was left in the socket's buffer
    assert behind.redis.keys("job:*") == [] and behind.redis.llen(QUEUE) == 0
    assert behind.redis.keys("kept*") + behind.redis.keys("idempotency:*") == []
    accepted = post(behind, **headers)
    assert accepted.status_code == 202 and behind.redis.lrange(QUEUE, 0, -1) == [accepted.json()["id"]]


def test_a_short_stall_is_waited_for(behind: Service, relay: Relay) -> None:
    relay.stall = relay.wake_for_the_next = True
    accepted = post(behind)
    assert accepted.status_code == 202
    assert behind.redis.lrange(QUEUE, 0, -1) == [accepted.json()["id"]]


def test_a_lost_answer_is_asked_for_again(behind: Service, relay: Relay) -> None:
    relay.lose_answer = True
    accepted = post(behind)
    assert accepted.status_code == 202
    assert behind.redis.lrange(QUEUE, 0, -1) == [accepted.json()["id"]]


def test_monitors_need_not_wait_for_a_stalled_redis(behind: Service, server: RedisServer) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        ready = requests.get(f"{behind.url}/readyz", timeout=LIMIT)
        ready_after = time.monotonic() - began
        assert ready.status_code == 503 and ready.json()["message"] == "Redis is away"
        assert requests.get(f"{behind.url}/metrics", timeout=LIMIT).status_code == 200
        assert ready_after < time.monotonic() - began - ready_after  # 0.5 and 2 seconds
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_neither_a_refused_cancellation_nor_a_refused_retry_happens(
    behind: Service, relay: Relay, server: RedisServer, method: str
) -> None:
    job_id = post(behind).json()["id"]
    url, expected = f"{behind.url}/jobs/{job_id}", "queued"
    if method == "POST":
        job = behind.jobs.claim(QUEUE, "nobody")
        assert job is not None and behind.jobs.fail(job, "nobody", "a bug", "internal")
        url, expected = f"{url}/retry", "failed"
    for script in (behind.jobs.cancel, behind.jobs.retry):  # so that Redis knows them, and would run them
        with pytest.raises(UnknownJobError):
            script("nobody")
    before = scripts_run(behind)
    relay.stall = True
    assert requests.request(method, url, timeout=LIMIT).status_code == 503
    server.process.send_signal(signal.SIGCONT)
    eventually(lambda: scripts_run(behind) > before)
    assert behind.jobs.get(job_id).status == expected
    assert requests.request(method, url, timeout=LIMIT).status_code == 200
