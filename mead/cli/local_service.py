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

from mead.cli.child import Child, ServiceError
from mead.cli.folder_lock import folder_lock
from mead.cli.local_redis import free_port, local_redis, no_answer
from mead.installation import ROOT
from mead.queue.client import without_password

log = logging.getLogger(__name__)

START_SECONDS = 180  # a cold disk and a busy machine need a minute to import PyTorch
RESTARTS = 5  # in a row, of a server; then something is wrong that a restart does not mend


@dataclass
class LocalService:
    """A running service.

    Attributes:
        url: where its API is.
        redis_url: where its Redis is, with the password.
        shown_redis_url: the same without it.
        redis_folder: of our own Redis, with the files `port` and `password`; None when it is another's.
        children: what was started, in the order of starting.
        session: asks the service itself, past every proxy that the environment names.
    """

    url: str
    redis_url: str
    shown_redis_url: str
    redis_folder: Path | None
    children: list[Child]
    session: requests.Session

    def check(self) -> None:
        """See that all children run, and start those again that may be; see `Child.check`."""
        for one in self.children:
            one.check()

    def not_ready(self) -> str | None:
        """Why the service cannot work yet; None when it can."""
        try:
            answer = self.session.get(f"{self.url}/readyz", timeout=10)
            return None if answer.ok else str(answer.json()["message"])
        except (requests.RequestException, KeyError) as error:
            return f"GET {self.url}/readyz: {error}"

    def redis_cli(self) -> str | None:
        """The command to look into a Redis of our own with."""
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
    """Run the whole service and yield it once it can work; stop all of it at the end.

    When it cannot work after START_SECONDS although all its parts run (the disk is nearly full, say), a
    warning tells why, and it is yielded all the same.

    Args:
        data_dir: folder of uploads, results and our own Redis; only one service at a time can use it.
        port: of the API; a free one when 0.
        redis_url: a running Redis; one of our own is started when None.
        logs: folder for the children's output; they write to our own stderr when None.
        environment: further settings for the servers (see caching_config.py).
        redis_port: of our own Redis in a new folder (later, its port stays); a free one when 0.
        restart: whether `check` starts our Redis again however often it ends, and the servers RESTARTS times
            in a row. A server that ends before the service is up is an error all the same.

    Raises:
        ServiceError: a part does not start; says which, and what it wrote last when there are `logs`.
    """
    data_dir = data_dir.resolve()
    with ExitStack() as stack:
        url = f"http://{_reachable(host)}:{(port := port or free_port())}"
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
            for one in children[-2:]:
                one.restarts = RESTARTS
        try:
            yield service
        finally:
            for one in children[-2:]:  # both servers at once: each takes a second or two to stop
                one.process.terminate()


def _wait_until_ready(service: LocalService) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (why := service.not_ready()) is not None:
        service.check()
        if time.monotonic() > deadline:
            log.warning("the service is up, but not ready after %d s: %s", START_SECONDS, why)
            return
        time.sleep(0.1)


def _reachable(host: str) -> str:
    """How a URL of this machine names an address that a server listens on."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def check_address(host: str, port: int) -> None:
    """See whether a server can listen there.

    Raises:
        ServiceError: it cannot; says why, and what to set.
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
        by = " by another mead service" if _mead_answers(f"http://{_reachable(host)}:{port}") else ""
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
