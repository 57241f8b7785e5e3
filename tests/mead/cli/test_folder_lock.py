"""The lock of a data folder: who has it is told, and it lives as long as those who inherit it."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mead.cli.folder_lock import folder_lock
from mead.processes.child import ServiceError

URL = "http://127.0.0.1:5000"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that seems to be about to stop is not waited for long."""
    monkeypatch.setattr("mead.cli.folder_lock.GRACE_SECONDS", 0.3)


def test_the_second_is_told_who_was_first(tmp_path: Path, impatient: None) -> None:
    with folder_lock(tmp_path, URL):
        who = (
            rf"another service is running on {tmp_path} \(process {os.getpid()} since \d{{4}}-.*, at {URL}\)"
        )
        with pytest.raises(ServiceError, match=who), folder_lock(tmp_path, "http://127.0.0.1:5001"):
            pass
    with folder_lock(tmp_path, URL):
        pass


def test_a_lock_of_a_version_before_is_one_too(tmp_path: Path, impatient: None) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServiceError, match="another service is running"), folder_lock(tmp_path, URL):
            pass


def test_who_inherits_the_lock_keeps_it_and_is_waited_for(tmp_path: Path) -> None:
    """As our Redis does when the process that started it is killed."""
    with folder_lock(tmp_path, URL) as lock:
        redis = subprocess.Popen(["sleep", "1000"], pass_fds=[lock])
    took: list[float] = []

    def later() -> None:
        with folder_lock(tmp_path, URL):
            took.append(time.monotonic())

    waiting = threading.Thread(target=later)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive() and not took
    ended = time.monotonic()
    redis.kill()
    redis.wait()
    waiting.join(60)
    assert took and took[0] >= ended


def test_who_really_holds_the_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service was killed; what it started was not."""
    monkeypatch.setattr("mead.cli.folder_lock.END_SECONDS", 2)
    code = f"""
import os, subprocess
from pathlib import Path
from mead.cli.folder_lock import folder_lock
with folder_lock(Path({str(tmp_path)!r}), {URL!r}) as lock:
    print(subprocess.Popen(["sleep", "1000"], pass_fds=[lock], stdout=subprocess.DEVNULL).pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    left = int(killed.stdout)
    try:
        who = rf"it was killed, but what it started still runs: {left} \(sleep\); end that"
        with pytest.raises(ServiceError, match=who), folder_lock(tmp_path, URL):
            pass
        assert f"waiting for what is left of a service that was killed: {left} (sleep)" in caplog.text
    finally:
        os.kill(left, signal.SIGKILL)
