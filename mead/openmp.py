"""How PyTorch's threads wait for each other."""

from __future__ import annotations

import os

SPIN_COUNT = "10000"  # some tens of microseconds
LOWEST_SPIN_COUNT = "1000"  # for processes that always share the cores, with steps among others


def wait_briefly() -> None:
    """Let PyTorch's threads sleep soon when they wait for each other, unless the environment says otherwise.

    By default they keep their cores busy for milliseconds. No step is faster for that, since there is less to
    wait for, but where other processes need the cores, each waits for the other to get its turn: what is not
    measured by `mead.nn.paces`, such as a first step, may take seconds.

    Call it before PyTorch is imported: its OpenMP library reads the environment once.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def wait_least() -> None:
    """As `wait_briefly`, for a process beside others that compute, whatever the environment says.

    With `SPIN_COUNT`, a step beside another process takes two and a half times as long.
    """
    os.environ["GOMP_SPINCOUNT"] = LOWEST_SPIN_COUNT
