"""Limits of memory and time for this process while it reads an untrusted file: the last line of defence.

The readers count what they make (see `mead.weights.inert_data.Budget`) and refuse a file much earlier.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SECONDS = 60  # of CPU time for any file


class ConfinementError(OSError):
    """Reading a file takes longer than its size explains."""


@contextlib.contextmanager
def confined(path: Path) -> Iterator[None]:
    """Limit what reading `path` may take. Call it in the main thread, the only one that can be interrupted.

    The process may use 2 GB and four times the file's size of memory in addition to what it has, or Python
    raises MemoryError and PyTorch RuntimeError; and a minute of CPU time and a second for every 10 MB.

    Raises:
        ConfinementError: if the time is exceeded.
    """
    size = path.stat().st_size
    seconds = SECONDS + size // 10_000_000
    used = resource.getrusage(resource.RUSAGE_SELF)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise ConfinementError(f"{path} takes more than {seconds} s of CPU time, which weights do not")

    before = signal.signal(signal.SIGXCPU, stop)
    try:
        with (
            _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds),
            _limit(resource.RLIMIT_DATA, _own_memory() + 2_000_000_000 + 4 * size),
        ):
            yield
    finally:
        signal.signal(signal.SIGXCPU, before)


@contextlib.contextmanager
def _limit(kind: int, most: int) -> Iterator[None]:
    """Lower one of the system's soft limits, unless it is lower already."""
    soft, hard = resource.getrlimit(kind)
    lowered = most if soft == resource.RLIM_INFINITY else min(most, soft)
    resource.setrlimit(kind, (lowered, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def _own_memory() -> int:
    """Bytes of writable memory of this process; 0 if the system does not tell (it is not Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
