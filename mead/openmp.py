"""How PyTorch's threads wait for each other."""

from __future__ import annotations

import os

SPIN_COUNT = "1000"  # some microseconds


def wait_briefly() -> None:
    """Let PyTorch's threads sleep soon when they wait for each other, unless the environment says otherwise.

    By default they keep their cores busy for milliseconds. That saves up to a seventh of a step on an idle
    machine, but where other processes need the cores, each waits for the other to get its turn: beside two
    busy processes on two cores, a step takes three to ten times as long.

    Call it before PyTorch is imported: its OpenMP library reads the environment once.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
