"""The command line, as far as it needs no networks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mead.installation import version

REPOSITORY = Path(__file__).parents[3]


def mead(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mead", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("arguments", [[], ["paint"], ["latent_revision"], ["styleclip", "x", "--w0", "1"]])
def test_what_is_not_understood_gives_the_usage(arguments: list[str]) -> None:
    done = mead(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m mead")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["latent_revision", "x", "--w0", "abc"], "mead: w0: "),
        (["latent_revision", "x", "--w0", "nan"], "mead: w0: "),
        (["latent_revision", " "], "mead: prompt: "),
        (["latent_revision", "x", "--size", "100x100"], "mead: size: "),
        (["styleclip", "x", "--iterations", "0"], "mead: iterations: "),
    ],
)
def test_a_wrong_value_is_named(arguments: list[str], says: str) -> None:
    done = mead(*arguments)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["latent_revision", "styleclip"])
def test_the_output_path_is_tried_first(command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "none").mkdir()
    done = mead(command, "a red heart", "--output_path", str(file), WEIGHTS_DIR=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr == f"mead: output_path: {file} is not a folder\n" and not done.stdout


def test_the_demo_tries_its_folders_first(tmp_path: Path) -> None:
    (tmp_path / "styleclip_out").touch()
    command = [sys.executable, "-m", "mead", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == "mead: output_path: styleclip_out is not a folder\n"


def test_convert_tries_where_weights_go_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    command = ["weights", "convert", str(tmp_path / "checkpoint.pt"), "--name", "mine"]
    done = mead(*command, WEIGHTS_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr == f"mead: WEIGHTS_DIR: {tmp_path / 'file'} is not a folder\n"


def test_what_can_be_made() -> None:
    done = mead("models")
    assert done.returncode == 0
    for said in ("make drawings", '"a boat on the sea at sunset"', "w0: -1000 to 1000, default 5.0"):
        assert said in done.stdout
    full = mead("models", "--weights", "full").stdout
    assert "The full weights paint" in full and "size: default 512x512" in full
    unknown = mead("models", "--weights", "nowhere")
    assert unknown.returncode == 1 and "there is no set 'nowhere'" in unknown.stderr


@pytest.mark.slow
def test_the_faces_of_a_photo(tmp_path: Path) -> None:
    result = mead("faces", "tests/data/face.jpeg")
    assert result.returncode == 0
    assert re.fullmatch(r"1: \d+,\d+ to \d+,\d+, turned by -?\d+ degrees\n", result.stdout), result.stdout
    missing = mead("faces", str(tmp_path / "none.jpg"))
    assert missing.returncode == 1 and "img: there is no file" in missing.stderr


def test_notes_are_said_beside_the_path(tmp_path: Path) -> None:
    options = ["--iterations", "1", "--size", "64x64", "--w2", "1", "--output_path", str(tmp_path)]
    done = mead("latent_revision", "a cat astronaut", *options)
    assert Path(done.stdout.strip()).parent == tmp_path and done.returncode == 0
    assert "mead: the demo weights have not learned: cat, astronaut\n" in done.stderr
    assert "mead: w2 has no effect: there is no img_enc\n" in done.stderr
    assert "Warning" not in done.stderr


def test_the_version() -> None:
    assert mead("--version").stdout == f"{version()}\n"


def test_help_names_every_setting() -> None:
    done = mead("serve", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("REDIS_URL", "DATA_DIR", "PORT", "STYLECLIP_THREADS"))


def test_serve_says_when_redis_does_not_answer(tmp_path: Path) -> None:
    done = mead("serve", REDIS_URL="redis://127.0.0.1:1/0", DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "Redis at redis://127.0.0.1:1/0 does not answer" in done.stderr
