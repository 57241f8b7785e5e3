"""One service per data folder at a time: two Redis servers writing to one folder would destroy its data."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mead.processes.child import STOP_SECONDS, ServiceError

log = logging.getLogger(__name__)

GRACE_SECONDS = 3  # for a service that may be about to stop
END_SECONDS = 2 * STOP_SECONDS  # the servers end, then Redis


@contextmanager
def folder_lock(data_dir: Path, url: str) -> Iterator[int]:
    """Hold the lock of a data folder and yield the open file.

    The lock is released when every process that has inherited the file has ended, so a service that was
    killed keeps it until its Redis has ended. A service that is stopping is waited for.

    Args:
        url: of the service that takes the lock; it is in the error of one that wants it too.

    Raises:
        ServiceError: another service has the lock; says which.
        OSError: the folder cannot be written to.
    """
    file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _acquire(file, data_dir)
        holder = {"pid": os.getpid(), "since": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        _write(file, {**holder, "url": url})
        try:
            yield file
        finally:
            _write(file, {**holder, "url": url, "stopping": True})
    finally:
        os.close(file)


def _acquire(file: int, data_dir: Path) -> None:
    began = time.monotonic()
    reported = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        holder = _holder(file)
        gone = "pid" in holder and not _lives(holder["pid"])
        ending = gone or holder.get("stopping")
        if ending and not reported and time.monotonic() - began > 1:
            if gone:
                log.warning("waiting for what is left of a service that was killed: %s", _processes(file))
            else:
                log.warning("waiting for the service of process %d to stop", holder["pid"])
            reported = True
        if time.monotonic() - began > (END_SECONDS if ending else GRACE_SECONDS):
            who = "process {pid} since {since}, at {url}".format(**holder) if holder else "process unknown"
            what = "stop it"
            if gone:
                what = f"it was killed, but what it started still runs: {_processes(file)}; end that"
            raise ServiceError(
                f"another service is running on {data_dir} ({who}): {what}, or set another DATA_DIR. "
                f"`fuser -v {data_dir / 'lock'}` shows its processes"
            )
        time.sleep(0.1)


def _holder(file: int) -> dict[str, Any]:
    """What the service that has the lock wrote into it; empty if that cannot be read."""
    with suppress(ValueError):
        holder = json.loads(os.pread(file, 4096, 0))
        if isinstance(holder, dict) and holder.keys() >= {"pid", "since", "url"}:
            return holder
    return {}


def _write(file: int, holder: dict[str, Any]) -> None:
    text = f"{json.dumps(holder)}\n".encode()
    with suppress(OSError):  # if the disk is full, the lock works without it
        os.pwrite(file, text, 0)
        os.ftruncate(file, len(text))


def _processes(file: int) -> str:
    """The other processes that have the lock open, and so hold it, as in "1234 (redis-server)"."""
    lock, found = os.fstat(file), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            for opened in (process / "fd").iterdir():
                with suppress(OSError):
                    if int(process.name) != os.getpid() and os.path.samestat(opened.stat(), lock):
                        found.append(f"{process.name} ({(process / 'comm').read_text().strip()})")
                        break
    return ", ".join(found) or "processes of another user"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
