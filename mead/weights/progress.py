"""How a download or a conversion reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told about progress, to show it."""

    def show(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of the file `name` are here; None if its size is unknown."""

    def say(self, line: str) -> None:
        """Something happened that is worth a line."""
