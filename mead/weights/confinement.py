"""Limits of memory and time for this process while it reads a file that a stranger made: the last resort.

What reads the file counts what it makes (see `mead.weights.inert_data.Budget`) and refuses it much earlier.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SECONDS = 60  # of computing that any file gets


class ConfinementError(OSError):
    """Reading a file takes longer than its size can explain."""


@contextlib.contextmanager
def confined(path: Path) -> Iterator[None]:
    """Limit what reading `path` may take; only in the main thread, which can be interrupted.

    It gets 2 GB of memory and four times its size beyond what the process has; with no more to be had,
    Python raises MemoryError and PyTorch RuntimeError. And a minute of computing, and a second for every
    10 MB.

    Raises:
        ConfinementError: when the time is over.
    """
    size = path.stat().st_size
    seconds = SECONDS + size // 10_000_000
    used = resource.getrusage(resource.RUSAGE_SELF)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise ConfinementError(f"{path} takes more than {seconds} s of computing, which no weights do")

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
    """Bytes of memory that this process may write to; 0 where the system does not say (it is no Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
