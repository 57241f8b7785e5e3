"""Runs a program that ends with the processes that need it: `launch.py PARENT LIFELINE WATCHED COMMAND...`.

PARENT is the process that started this one: when it ends, the kernel sends the program SIGTERM. If PARENT is
0, or the kernel cannot do that (Linux can), a small helper process waits until no process holds the other end
of the pipe LIFELINE, then sends SIGTERM, and SIGKILL if the program does not end. Several processes may hold
that end; so Redis ends after the servers that need it. The helper alone holds the pipe WATCHED open: if that
closes while the program runs, the helper has been killed, and nothing would end the program any more.

`mead.processes.child` runs this as a script. It imports only the standard library, so it starts in
milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 30


def end_with(parent: int) -> bool:
    """Have the kernel send this process SIGTERM when `parent` ends; False if it cannot."""
    try:
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM)) != 0:
            return False
    except AttributeError:  # not a Linux
        return False
    if os.getppid() != parent:  # it ended before that call
        sys.exit("launch: the process that started this one has ended")
    return True


def end_after(lifeline: int, watched: int) -> None:
    """Start a helper that ends this process when no process holds the other end of `lifeline` any more.

    The helper keeps `watched` open; the program does not.
    """
    program = os.getpid()
    if os.fork() != 0:
        os.close(watched)
        return
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    first, second = sorted((lifeline, watched))
    os.closerange(3, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, 4096)
    while os.getppid() == program and not select.select([lifeline], [], [], 1)[0]:
        pass
    deadline = time.monotonic() + STOP_SECONDS
    if os.getppid() == program:
        os.kill(program, signal.SIGTERM)
    while os.getppid() == program:
        if time.monotonic() > deadline:
            os.kill(program, signal.SIGKILL)
        time.sleep(0.1)
    os._exit(0)


if __name__ == "__main__":
    parent, lifeline, watched = map(int, sys.argv[1:4])
    if not (
        parent and end_with(parent)
    ):  # otherwise the program itself keeps `watched`: the kernel watches it
        end_after(lifeline, watched)
    os.close(lifeline)
    try:
        os.execvp(sys.argv[4], sys.argv[4:])
    except OSError as error:
        sys.exit(f"launch: {sys.argv[4]}: {error.strerror}")
