"""setup.sh, as far as it installs nothing: what it is asked, and what it does with everything in place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

REPOSITORY = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with a space in its path, and an environment (ours) in which everything is installed."""
    copy = tmp_path / "a clone"
    shutil.copytree(REPOSITORY / "mead", copy / "mead", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.sh", "caching_config.py", *LOCKS):
        shutil.copy(REPOSITORY / name, copy)
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in LOCKS:
        shutil.copy(REPOSITORY / name, copy / ".venv" / f"installed-{name}")
    return copy


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "setup.sh", *arguments],
        cwd=checkout.parent,  # any folder but its own
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["tset"], ["--demo"], ["1"]])
def test_an_unknown_argument_gives_the_usage(checkout: Path, arguments: list[str]) -> None:
    done = setup(checkout, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ./setup.sh ") and not done.stdout


def test_help(checkout: Path) -> None:
    done = setup(checkout, "--help")
    assert done.returncode == 0
    assert all(f"./setup.sh {command}" in done.stdout for command in ("demo", "serve", "test"))


def test_weights_are_fetched_too(checkout: Path) -> None:
    """The set that is asked for goes to `mead weights fetch`, before the command, which is then to use it."""
    log = checkout / "log"
    note = f'echo "$* WEIGHTS=${{WEIGHTS:-}}" >>"{log}"; exit ${{FETCH:-0}}'
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in "-m mead"*) {note};; esac\nexec "{sys.executable}" "$@"\n')
    assert setup(checkout, "--weights", "full").returncode == 0
    assert setup(checkout, "--weights", "full", "serve").returncode == 0
    fetched = "-m mead weights fetch full WEIGHTS=\n"
    assert log.read_text() == f"{fetched}{fetched}-m mead serve WEIGHTS=full\n"
    done = setup(checkout, "--weights", "full", "demo", FETCH="1")
    assert done.returncode == 1
    assert "the weights full are not all here: see above. Run it again to resume" in done.stderr
    assert log.read_text().endswith(fetched)
    assert setup(checkout, "--weights").returncode == 2


def test_with_everything_in_place_nothing_is_installed(checkout: Path) -> None:
    done = setup(checkout)
    assert (done.returncode, done.stderr, done.stdout) == (0, "setup: everything is in place\n", "")


def test_arguments_after_test_go_to_pytest(checkout: Path) -> None:
    done = setup(checkout, "test", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pytest ")


def test_a_redis_url_needs_no_redis_here(checkout: Path) -> None:
    """Only the tools that setup.sh itself needs are on PATH; REDIS_URL is not asked for an answer yet."""
    tools = checkout.parent / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "cat", "dirname", "id"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = setup(checkout, PATH=str(tools), REDIS_URL="redis://redis.example:6379/0")
    assert (done.returncode, done.stderr) == (0, "setup: everything is in place\n")


def test_ci_runs_the_tests() -> None:
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
    assert '/../setup.sh" test\n' in (REPOSITORY / ".ci" / "run").read_text()
