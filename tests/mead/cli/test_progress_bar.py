"""Progress bars: tqdm's in a terminal, lines without control characters elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from mead.cli.main import main
from mead.cli.progress_bar import ProgressBar, TransferBar
from tests.conftest import ROOT

HOSTILE = "a\x1b[2J\rname"


def test_without_a_terminal_a_line_for_each_tenth(capfd: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(HOSTILE, unit="step")
    bar.show(0, 0)
    for step in range(1, 41):
        bar.show(step, 40)
    bar.end()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith(r"a\x1b[2J\rname: 100%|##########| 40/40 [") and lines[-1].endswith("step/s]")
    assert all(line.isprintable() for line in lines)


def test_downloads_one_after_another(capfd: pytest.CaptureFixture[str]) -> None:
    bar = TransferBar()
    bar.show("a", 0, 3_000_000)
    bar.show("a", 3_000_000, 3_000_000)
    bar.say("converting a")
    bar.show("b", 1_000_000, 2_000_000)  # resumed
    bar.show("b", 0, 2_000_000)  # started over
    bar.show("c", 250_000_000, None)
    bar.end()
    shown = [re.split(r" \[", line)[0] for line in capfd.readouterr().err.splitlines()]
    assert shown == [
        "a:   0%|          | 0.00/3.00M",
        "a: 100%|##########| 3.00M/3.00M",
        "converting a",
        "b:  50%|#####     | 1.00M/2.00M",
        "b:   0%|          | 0.00/2.00M",
        "c: 250MB",
    ]


@pytest.mark.parametrize("size", [(24, 80), (0, 0)], ids=["24x80", "unknown size"])
def test_in_a_terminal_names_cannot_move_the_cursor(size: tuple[int, int]) -> None:
    code = f"""
from mead.cli.progress_bar import TransferBar
bar = TransferBar()
bar.show({HOSTILE!r}, 0, 1000)
bar.show({HOSTILE!r}, 1000, 1000)
bar.say({HOSTILE!r})
"""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=its) as process:
        os.close(its)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux reports the end
            pass
        os.close(ours)
    assert process.returncode == 0
    assert rb"a\x1b[2J\rname: 100%|" in shown and b"1.00k/1.00k" in shown
    assert b"\x1b[2J" not in shown and shown.endswith(b"a\\x1b[2J\\rname\r\n")


@pytest.mark.parametrize(
    ("called", "name"), [("/usr/bin/mead", "mead"), ("/src/mead/__main__.py", "python -m mead")]
)
def test_the_programs_name(
    called: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    main()
    assert capsys.readouterr().out.startswith(f"Usage: {name} [OPTIONS] COMMAND")
