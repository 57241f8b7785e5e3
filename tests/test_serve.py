"""`mead serve` as an operator runs it: what ends it, what it survives, and where it can be started."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from mead.cli.local_redis import find_redis, free_port
from tests.conftest import ROOT, RedisServer, eventually

pytestmark = pytest.mark.service

LIMIT = 120  # seconds; far more than anything here takes
PROXY = "http://127.0.0.1:9"  # nobody listens there
MEAD = [sys.executable, "-m", "mead"]


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Serve:
    """A `mead serve` with our own Redis (unless REDIS_URL is given) on a free port.

    Args:
        folder: where its output goes.
        data_dir: DATA_DIR, relative to the repository or absolute.
        terminal: a terminal for its output, instead of a file.
        more: further settings.
    """

    def __init__(self, folder: Path, data_dir: Path, terminal: int | None = None, **more: str) -> None:
        self.out, self.err = folder / "serve.out", folder / "serve.err"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.data_dir = ROOT / data_dir
        settings = {"DATA_DIR": str(data_dir), "PORT": str(port), "TORCH_THREADS": "1"}
        path = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.http = requests.Session()
        self.http.trust_env = False
        with self.out.open("wb") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [*MEAD, "serve"],
                cwd=ROOT,
                env={**path, **settings, **more},
                stdin=terminal,
                stdout=terminal or out,
                stderr=terminal or err,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup has it ignored
            )
        self.children: list[int] = []

    def wait_until_up(self) -> Serve:
        """Wait until it is ready, and know its children."""
        eventually(lambda: self.process.poll() is not None or self.ready(), "not ready")
        assert self.process.poll() is None, self.err.read_text()
        me = self.process.pid
        self.children = list(map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split()))
        return self

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return self.http.get(f"{self.url}/readyz", timeout=30).ok
        except requests.ConnectionError:
            return False

    def child(self, program: str) -> int:
        """The process id of the child that runs `program`."""
        me = self.process.pid
        for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if program in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        return 0

    def post(self, **form: str) -> requests.Response:
        """Ask for a picture, without waiting for it."""
        headers = {"Prefer": "respond-async"}
        form = {"prompt": "a red heart", "size": "32x32", "cutouts": "2", **form}
        return self.http.post(f"{self.url}/latent_revision", form, headers=headers, timeout=LIMIT)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job's record."""
        record: dict[str, Any] = self.http.get(f"{self.url}/jobs/{job_id}", timeout=LIMIT).json()
        return record

    def redis_url(self) -> str:
        """Its own Redis, with the password."""
        folder = self.data_dir / "redis"
        port, password = ((folder / name).read_text().strip() for name in ("port", "password"))
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def end(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        status = self.process.wait(LIMIT)
        eventually(lambda: not any(map(lives, self.children)))
        return status


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    """Starts one; at the end none is left."""
    started: list[Serve] = []

    def start(data_dir: Path | None = None, terminal: int | None = None, **more: str) -> Serve:
        one = Serve(tmp_path, data_dir or tmp_path / "var", terminal, **more)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.end()


def test_killed_in_the_middle_of_a_job(serve: Callable[..., Serve]) -> None:
    """All of it ends, Redis last: the job has been handed back. The next start finds Redis where it was."""
    first = serve().wait_until_up()
    job_id = first.post(iterations="1000").json()["id"]
    eventually(lambda: first.job(job_id).get("steps"))
    first.process.kill()
    second = serve().wait_until_up()  # which waits for the first one's lock
    assert not any(map(lives, first.children))
    assert second.redis_url() == first.redis_url()
    eventually(lambda: second.job(job_id)["status"] == "processing")
    assert second.job(job_id)["attempts"] == 1  # not counted: no worker died with the job in its hands
    eventually(second.out.read_text, "says nothing")
    text = second.out.read_text()
    port = (second.data_dir / "redis" / "port").read_text().strip()
    assert re.search(rf"with Redis at redis://127\.0\.0\.1:{port}/0;", text)
    if shutil.which("redis-cli"):
        (command,) = re.findall(r"^To look into Redis: (.*)$", text, re.MULTILINE)
        line = f"{command} hget job:{job_id} prompt"
        assert subprocess.check_output(["sh", "-c", line], text=True) == "a red heart\n"
    assert second.end() == 0
    password = (second.data_dir / "redis" / "password").read_text().strip()
    assert password not in second.out.read_text() + second.err.read_text()


def test_a_terminal_that_is_closed_ends_it_in_order(serve: Callable[..., Serve], tmp_path: Path) -> None:
    ours, its = pty.openpty()
    one = serve(terminal=its)
    os.close(its)
    # reading what it says, as a terminal does
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL)
    one.wait_until_up()
    reader.kill()
    reader.wait()
    one.process.send_signal(signal.SIGHUP)
    os.close(ours)
    one.process.send_signal(signal.SIGHUP)  # twice: from the kernel and from the shell
    assert one.process.wait(LIMIT) == 0
    assert not any(map(lives, one.children))


def test_what_dies_is_started_again(serve: Callable[..., Serve]) -> None:
    """Redis, with every job that was accepted; and each server."""
    one = serve().wait_until_up()
    job_id = one.post(iterations="3").json()["id"]
    eventually(lambda: one.job(job_id)["status"] == "succeeded")
    for program in ("redis-server", "caching_server", "inference_server"):
        before = one.child(program)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: one.child(program) not in (0, before), program)  # noqa: B023
        eventually(one.ready, program)
        assert one.job(job_id)["status"] == "succeeded"
        accepted = one.post(iterations="3").json()["id"]
        eventually(lambda: one.job(accepted)["status"] == "succeeded", program)  # noqa: B023
        assert "was killed (SIGKILL); restarting it" in one.err.read_text()
    with redis.Redis.from_url(one.redis_url()) as client:
        client.shutdown()
    eventually(one.ready)
    assert one.end() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a disk here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_answered_503_until_there_is_room(
    small_disk: Path, serve: Callable[..., Serve]
) -> None:
    one = serve(small_disk / "var", MIN_FREE_DISK_BYTES="0").wait_until_up()
    job_id = one.post(iterations="3").json()["id"]
    eventually(lambda: one.job(job_id)["status"] == "succeeded")
    with (small_disk / "fill").open("wb", buffering=0) as fill, suppress(OSError):
        while True:
            fill.write(bytes(2**16))
    with suppress(redis.ConnectionError), redis.Redis.from_url(one.redis_url()) as client:
        while True:  # until it cannot write any more, and ends
            client.set("fill", bytes(2**10))
    eventually(lambda: "the Redis ended with status 1; restarting it" in one.err.read_text())
    eventually(lambda: not one.ready())
    refused = one.post(iterations="3")
    assert refused.status_code == 503 and refused.json()["status"] == "error"
    assert one.http.get(f"{one.url}/healthz", timeout=LIMIT).ok
    (small_disk / "fill").unlink()
    eventually(one.ready)
    assert one.job(job_id)["status"] == "succeeded"
    accepted = one.post(iterations="3").json()["id"]
    eventually(lambda: one.job(accepted)["status"] == "succeeded")
    assert one.end() == 0


def test_it_starts_behind_a_proxy_in_any_folder(serve: Callable[..., Serve], tmp_path: Path) -> None:
    """Its own requests go past the proxy, also where it listens on all addresses."""
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
    folder = Path(os.path.relpath(tmp_path / "the data, 漢字", ROOT))
    anybody = {"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "true", "LC_ALL": "C"}
    one = serve(folder, **dict.fromkeys(names, PROXY), **anybody).wait_until_up()
    eventually(lambda: "The service is up at http://127.0.0.1:" in one.out.read_text())
    assert (tmp_path / "the data, 漢字" / "redis" / "password").exists()
    assert one.end() == 0


def test_it_speaks_to_a_redis_by_socket(serve: Callable[..., Serve], tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    command = [find_redis(), "--port", "0", "--unixsocket", path, "--requirepass", "a/b@c", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(path.exists)
            one = serve(REDIS_URL=f"unix://:a%2Fb%40c@{path}?db=1").wait_until_up()
            job_id = one.post(iterations="3").json()["id"]
            eventually(lambda: one.job(job_id)["status"] == "succeeded")
            eventually(lambda: "The service is up" in one.out.read_text())
            assert one.end() == 0
            with redis.Redis(unix_socket_path=str(path), db=1, password="a/b@c") as client:
                assert client.exists(f"job:{job_id}")
        finally:
            server.terminate()
    assert not re.search("a/b@c|a%2Fb%40c", one.out.read_text() + one.err.read_text())


# What cannot be started


def refused(**settings: str) -> str:
    """What `mead serve` says as it ends with status 1 or 2."""
    environment = {"PATH": os.environ["PATH"], "PORT": str(free_port()), **settings}
    done = subprocess.run(
        [*MEAD, "serve"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(PORT=str(port), DATA_DIR=str(tmp_path / "var"))
    assert f"mead: port {port} is in use (" in said and f"PORT={port + 1}" in said


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    more = {"DATA_DIR": str(tmp_path / "var"), "ALLOW_ANONYMOUS": "true"}
    assert "mead: HOST=192.0.2.1 PORT=" in refused(HOST="192.0.2.1", **more)
    assert "mead: HOST=no.such.name.invalid: " in refused(HOST="no.such.name.invalid", **more)


def test_a_data_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "var", Path("/proc/var")):
        assert f"mead: DATA_DIR={path} cannot be used: " in refused(DATA_DIR=str(path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
def test_a_data_folder_of_another_user_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    folder.mkdir(mode=0o755)
    code = f"""
import os
from pathlib import Path
from mead.cli.local_service import local_service
os.setuid(65534)
with local_service(Path({str(folder)!r})):
    pass
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert f"DATA_DIR={folder} cannot be used: [Errno 13] Permission denied" in done.stderr


@pytest.mark.parametrize(
    "url", ["valkey://here", "redis://:pa/ss@here:6379", "here:6379", "redis://here:port"]
)
def test_an_address_of_no_redis_is_named_and_not_shown(url: str, tmp_path: Path) -> None:
    said = refused(REDIS_URL=url, DATA_DIR=str(tmp_path))
    assert said.startswith("mead: REDIS_URL: ") and "rediss://host:6379/0" in said and url not in said


def test_a_wrong_password_is_told(redis_server: RedisServer, tmp_path: Path) -> None:
    url = redis_server.url.replace("//", "//someone:wrong@")
    said = refused(REDIS_URL=url, DATA_DIR=str(tmp_path))
    assert "does not answer (" in said and "wrong" not in said.replace("WRONGPASS", "")
