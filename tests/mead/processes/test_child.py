"""Child processes: how they are watched, started again and stopped, and that they end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mead.installation import ROOT
from mead.processes.child import Child, ServiceError
from tests.conftest import eventually

LIMIT = 60  # seconds; far more than anything here takes
SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dead_child_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('I could not go on')"]
    with Child("tired server", command, {}, tmp_path) as one:
        one.process.wait()
        with pytest.raises(ServiceError, match=r"the tired server ended with status 1\nI could not go on"):
            one.check()


def test_a_child_is_stopped_at_the_end(tmp_path: Path) -> None:
    with Child("sleeper", [sys.executable, "-c", "import time; time.sleep(1000)"], {}, tmp_path) as one:
        one.check()
    assert one.process.returncode == -15


def test_what_it_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print(sys.stdin.read())"]
    with Child("reader", command, {}, tmp_path, reads=b"a secret") as one:
        eventually(lambda: one.last_lines() == ["a secret"])


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Child("ghost", ["/no/such/program"], {}, tmp_path) as one:
        one.process.wait()
        with pytest.raises(ServiceError, match="/no/such/program: No such file or directory"):
            one.check()


@pytest.mark.slow
def test_a_child_is_started_again_as_often_as_it_may_be(tmp_path: Path) -> None:
    with Child("quitter", ["sh", "-c", "echo $$; exit 3"], {}, tmp_path) as one:
        one.restarts = 2

        def checked() -> None:
            deadline = time.monotonic() + LIMIT
            while time.monotonic() < deadline:
                one.check()
                time.sleep(0.02)

        with pytest.raises(ServiceError, match="ended with status 3, 3 times in a row"):
            checked()
        assert len(one.last_lines()) == 3


FAMILY = """
import signal, sys, time
from mead.processes.child import Child
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
server = [sys.executable, "-c", {server!r}]
with Child("base", ["sleep", "1000"], {{}}, None, lasting=True) as base:
    with Child("server", server, {{}}, None, needs=[base]) as server:
        print(base.process.pid, server.process.pid, flush=True)
        time.sleep(1000)
"""


@pytest.fixture
def family() -> Callable[[str], tuple[subprocess.Popen[str], int, int]]:
    """Starts a process with two children: "base", and one that runs some Python and needs it."""

    def start(server: str) -> tuple[subprocess.Popen[str], int, int]:
        command = [sys.executable, "-c", FAMILY.format(server=server)]
        parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        base, needing = map(int, parent.stdout.readline().split())
        return parent, base, needing

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGSEGV])
def test_children_end_with_their_parent_whatever_ends_it(
    family: Callable[[str], tuple[subprocess.Popen[str], int, int]], number: signal.Signals
) -> None:
    parent, base, needing = family("import time; time.sleep(1000)")
    parent.send_signal(number)
    parent.wait(LIMIT)
    eventually(lambda: not lives(base) and not lives(needing))


def test_what_others_need_ends_after_them(
    family: Callable[[str], tuple[subprocess.Popen[str], int, int]], tmp_path: Path
) -> None:
    note = tmp_path / "told"
    code = f"""
import signal, time
def told(*_):
    open({str(note)!r}, "w").close()
signal.signal(signal.SIGTERM, told)
open({str(tmp_path / "ready")!r}, "w").close()
while True: time.sleep(0.1)
"""
    parent, base, needing = family(code)
    eventually((tmp_path / "ready").exists)
    parent.kill()
    parent.wait(LIMIT)
    eventually(note.exists)
    assert lives(base) and lives(needing)
    os.kill(needing, signal.SIGKILL)
    eventually(lambda: not lives(base))


def test_a_parent_that_has_ended_before_its_child_began(tmp_path: Path) -> None:
    """The program is not run at all; nor is it where only the pipe can tell."""
    note = tmp_path / "note"
    reader, writer = os.pipe()
    _, watched = os.pipe()
    launch: list[str | Path] = [sys.executable, ROOT / "mead" / "processes" / "launch.py"]
    one = subprocess.run(
        [*launch, "1", str(reader), str(watched), "touch", note], pass_fds=[reader, watched], check=False
    )
    assert one.returncode == 1 and not note.exists()
    with subprocess.Popen(
        [*launch, "0", str(reader), str(watched), "sleep", "1000"], pass_fds=[reader, watched]
    ) as other:
        os.close(reader)
        os.close(writer)
        assert other.wait(LIMIT) == -signal.SIGTERM


def test_a_lasting_child_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    one = Child("quitter", ["sh", "-c", "exit 0"], {}, tmp_path, lasting=True)
    one.process.wait(LIMIT)
    launched = f"{ROOT / 'mead' / 'processes' / 'launch.py'} 0"
    beside = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if launched in (told := read(path).replace("\0", " ")) and " exit 0" in told
    ]
    eventually(lambda: not any(path.exists() for path in beside))
    one.stop()


def read(path: Path) -> str:
    """A file that may vanish."""
    try:
        return path.read_text()
    except OSError:
        return ""


def helper_of(child: Child) -> int:
    """The process that would end a lasting child with this one."""
    pid = child.process.pid
    return eventually(lambda: next(iter(map(int, read(Path(f"/proc/{pid}/task/{pid}/children")).split())), 0))


def test_a_child_that_nothing_would_end_any_more_is_started_anew(tmp_path: Path) -> None:
    with Child("sleeper", SLEEP, {}, tmp_path, lasting=True) as one:
        one.restarts = 2
        first = one.process
        os.kill(helper_of(one), signal.SIGKILL)

        def anew() -> bool:
            one.check()
            return one.process is not first

        eventually(anew)
        assert first.returncode == -signal.SIGTERM and one.process.poll() is None
        assert helper_of(one)
        one.check()
        assert one.process is not first and one.process.poll() is None
