"""Memory that was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give back to the system what this process has freed and keeps for later.

    Loading networks, and rearranging their weights in a first step, leave hundreds of megabytes in gaps that
    later steps' features do not fit into. Other C libraries than glibc do not offer it.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
