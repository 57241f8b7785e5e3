"""The whole service on this machine: Redis, the inference server and the caching server as child processes.

`python -m mead serve`, the demo and the tests run it; nothing here is imported by the servers themselves.
"""

from __future__ import annotations

import errno
import logging
import math
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from mead.cli.folder_lock import folder_lock
from mead.cli.local_redis import free_port, local_redis, no_answer
from mead.installation import ROOT
from mead.processes.child import Child, ServiceError
from mead.queue.client import without_password

log = logging.getLogger(__name__)

START_SECONDS = 180  # a cold disk and a busy machine need a minute to import PyTorch
RESTARTS = 5  # of a server, in a row; after that, restarting does not help


@dataclass
class LocalService:
    """A running service.

    Attributes:
        url: where its API is.
        redis_url: of its Redis, with the password.
        shown_redis_url: without the password.
        redis_folder: of the Redis we started, with the files `port` and `password`; None if we did not.
        children: the processes, in the order in which they were started.
        session: for requests to the service; it ignores the environment's proxies.
    """

    url: str
    redis_url: str
    shown_redis_url: str
    redis_folder: Path | None
    children: list[Child]
    session: requests.Session

    def check(self) -> None:
        """Check that all children run, and restart those that may be restarted; see `Child.check`."""
        for child in self.children:
            child.check()

    def not_ready(self) -> str | None:
        """Why the service cannot work yet; None when it can."""
        try:
            answer = self.session.get(f"{self.url}/readyz", timeout=10)
            return None if answer.ok else str(answer.json()["message"])
        except (requests.RequestException, KeyError) as error:
            return f"GET {self.url}/readyz: {error}"

    def redis_cli(self) -> str | None:
        """The shell command that opens the Redis we started; None if we did not."""
        if self.redis_folder is None:
            return None
        password, port = (shlex.quote(str(self.redis_folder / name)) for name in ("password", "port"))
        return f"REDISCLI_AUTH=$(cat {password}) redis-cli -p $(cat {port})"


@contextmanager
def local_service(
    data_dir: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    redis_url: str | None = None,
    logs: Path | None = None,
    environment: Mapping[str, str] | None = None,
    redis_port: int = 0,
    restart: bool = False,
) -> Iterator[LocalService]:
    """Run the whole service and yield it once it is ready; stop it at the end.

    If it is not ready after START_SECONDS although all its processes run (the disk is nearly full, say), it
    is yielded with a warning that gives the reason.

    Args:
        data_dir: folder of uploads, results and the data of our Redis; only one service can use it at a time.
        port: of the API; a free one if 0.
        redis_url: of a running Redis; we start one if None.
        logs: folder of the children's logs; they log to our stderr if None.
        environment: further settings for the servers (see caching_config.py).
        redis_port: of our Redis in a new folder (it keeps its port later); a free one if 0.
        restart: whether `check` restarts our Redis whenever it ends, and the servers RESTARTS times in a row.
            A server that ends before the service is ready is an error in any case.

    Raises:
        ServiceError: a process does not start; says which, with the end of its log if there are `logs`.
    """
    data_dir = data_dir.resolve()
    with ExitStack() as stack:
        url = f"http://{reachable_host(host)}:{(port := port or free_port())}"
        children = []
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if logs is not None:
                logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context(folder_lock(data_dir, url))
            check_address(host, port)
            if redis_url is None:
                redis_child, redis_url = stack.enter_context(
                    local_redis(data_dir / "redis", logs, redis_port, holds=[lock])
                )
                if restart:
                    redis_child.restarts = math.inf
                children.append(redis_child)
            elif (why := no_answer(redis_url)) is not None:
                shown = without_password(redis_url)
                raise ServiceError(
                    f"Redis at {shown} does not answer ({why}); start it, or leave REDIS_URL unset"
                )
        except OSError as error:
            raise ServiceError(f"DATA_DIR={data_dir} cannot be used: {error}") from error
        needed = list(children)
        settings = {
            **(environment or {}),
            "REDIS_URL": redis_url,
            "DATA_DIR": str(data_dir),
            "HOST": host,
            "PORT": str(port),
        }
        for name in ("inference server", "caching server"):
            command: list[str | Path] = [sys.executable, ROOT / f"{name.replace(' ', '_')}.py"]
            server = Child(name, command, settings, logs, holds=[lock], needs=needed)
            children.append(stack.enter_context(server))
        ours = data_dir / "redis" if needed else None
        shown = f"redis://127.0.0.1:{urlsplit(redis_url).port}/0" if ours else without_password(redis_url)
        session = stack.enter_context(requests.Session())
        session.trust_env = False
        service = LocalService(url, redis_url, shown, ours, children, session)
        _wait_until_ready(service)
        if restart:
            for server in children[-2:]:
                server.restarts = RESTARTS
        try:
            yield service
        finally:
            for server in children[-2:]:  # both servers at once: each takes a second or two to stop
                server.process.terminate()


def _wait_until_ready(service: LocalService) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (why := service.not_ready()) is not None:
        service.check()
        if time.monotonic() > deadline:
            log.warning("the service is running, but not ready after %d s: %s", START_SECONDS, why)
            return
        time.sleep(0.1)


def reachable_host(host: str) -> str:
    """The host in the URL of a server on this machine that listens on `host`."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def check_address(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        ServiceError: it cannot; says why and what to set.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServiceError(f"HOST={host}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ServiceError(f"HOST={host} PORT={port}: {error.strerror}") from None
        by = " by another mead service" if _mead_answers(f"http://{reachable_host(host)}:{port}") else ""
        raise ServiceError(
            f"port {port} is in use{by} (`ss -ltnp 'sport = :{port}'` shows the process); "
            f"PORT={port + 1} would be another"
        ) from None


def _mead_answers(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return "its up!" in session.get(f"{url}/index", timeout=2).text
        except requests.RequestException:
            return False
