"""What is printed is not obeyed: control characters from others are shown as escapes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from caching_config import Settings
from mead.terminal import printable
from tests.mead.test_log import line

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[2J\x1b]0;title\x07\rmead: all is well\x9b31m\x7f\u202egnp.exe\u2028\u200b"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2029\u2066-\u2069]")


def test_what_a_terminal_would_obey_is_shown() -> None:
    shown = printable(HOSTILE)
    assert not OBEYED.search(shown)
    assert shown.startswith(r"\x1b[2J\x1b]0;title\x07\rmead: all is well\x9b31m\x7f\u202egnp.exe")
    assert printable("\ud800 \U000e0041") == r"\ud800 \U000e0041"


@pytest.mark.parametrize(
    "text", ["", "grün\tist\ndie Häuserwand", "漢字　かな", "صورة می‌خواهم", "👩‍🎤🌈", "a\xa0b"]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("log_json", [True, False])
def test_lines_of_the_log(log_json: bool) -> None:
    settings = Settings(log_json=log_json)
    written = line(settings, f"prompt {HOSTILE}", ValueError(HOSTILE), path=HOSTILE, more=[HOSTILE])
    assert not OBEYED.search(written) and "title" in written


def mead(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mead", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, env={"PYTHONUTF8": "1", **environment}, timeout=240
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()  # as it is: text mode would turn \r into \n
    return subprocess.CompletedProcess(command, done.returncode, stdout, stderr)


@pytest.mark.slow
def test_what_a_weight_file_holds(tmp_path: Path) -> None:
    """Its name and the names of its tensors are a stranger's."""
    file = tmp_path / f"{HOSTILE.partition('m')[0]}.safetensors"
    save_file({f"{HOSTILE}{n}": torch.zeros(2) for n in range(3)}, file)
    done = mead("weights", "convert", str(file), "--name", "mine", WEIGHTS_DIR=str(tmp_path))
    assert done.returncode == 1 and "title" in done.stderr and "Traceback" not in done.stderr
    assert not OBEYED.search(done.stderr + done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        *(["latent_revision", "x", "--size", HOSTILE], ["latent_revision", "x", "--start", HOSTILE]),
        *(["latent_revision", "x", HOSTILE], ["weights", "fetch", HOSTILE], [HOSTILE]),
        ["styleclip", "x", "--img", f"/no/{HOSTILE}.png"],
    ],
)
def test_what_is_typed(tmp_path: Path, arguments: list[str]) -> None:
    done = mead(*arguments, WEIGHTS_DIR=str(tmp_path))
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert done.stderr and not OBEYED.search(done.stderr + done.stdout)
