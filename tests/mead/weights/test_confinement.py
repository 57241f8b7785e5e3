"""A process that reads a file of a stranger's gets no more memory and time than the file can explain."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mead.weights.confinement import confined


def run(code: str, path: Path) -> str:
    path.write_bytes(b"x")
    script = (
        f"from pathlib import Path\nfrom mead.weights import confinement\npath = Path({str(path)!r})\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_memory_has_an_end(tmp_path: Path) -> None:
    said = run(
        """
try:
    with confinement.confined(path):
        bytearray(3_000_000_000)
except MemoryError:
    print("no more")
""",
        tmp_path / "weights.pt",
    )
    assert said == "no more\n"


def test_computing_has_an_end(tmp_path: Path) -> None:
    said = run(
        """
confinement.SECONDS = 1
try:
    with confinement.confined(path):
        while True:
            pass
except confinement.ConfinementError as error:
    print(error)
""",
        tmp_path / "weights.pt",
    )
    assert said == f"{tmp_path / 'weights.pt'} takes more than 1 s of computing, which no weights do\n"


def test_afterwards_all_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_DATA)]
    handler = signal.getsignal(signal.SIGXCPU)
    with confined(tmp_path / "weights.pt"):
        assert resource.getrlimit(resource.RLIMIT_CPU)[0] != resource.RLIM_INFINITY
    assert [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_DATA)] == limits
    assert signal.getsignal(signal.SIGXCPU) == handler


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), confined(tmp_path / "none"):
        pass
