"""Videos of time-lapses, made when they are asked for."""

from __future__ import annotations

import threading
from functools import lru_cache

from mead.imaging.timelapse import mp4_bytes

KEPT = 4
"""Videos that a process keeps in memory: a player asks for the parts of one again and again."""


class Videos:
    """Makes videos, one at a time, and keeps the last of them."""

    def __init__(self) -> None:
        self._made = lru_cache(KEPT)(mp4_bytes)
        self._lock = threading.Lock()

    def of(self, webp: bytes) -> bytes:
        """The MP4 file of an animated WebP; waits for those that others have asked for before.

        Raises:
            NoVideoError, OSError: as `mp4_bytes`.
        """
        with self._lock:
            return self._made(webp)
