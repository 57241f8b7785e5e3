"""Progress on stderr: bars of tqdm's in a terminal, lines now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tqdm import tqdm

from mead.terminal import printable, say


class ProgressBar:
    """The progress of one task: a bar in a terminal; elsewhere a line for each tenth, for logs.

    Args:
        name: shown before the bar; it may hold any characters.
        done: how much was done before.
        total: how much there is to do; unknown if None or 0.
        every: amount after which there is another line where the total is unknown.
        options: of tqdm, such as `unit`.
    """

    def __init__(
        self, name: str, done: int = 0, total: int | None = None, every: int = 100, **options: Any
    ) -> None:
        self._name = printable(name)
        self._options = options
        self._every = every
        self._first, self._began = done, time.monotonic()
        self._lines = 0
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            known = all(os.get_terminal_size(sys.stderr.fileno()))  # 0x0 in some containers
            size = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
            self._bar = tqdm(desc=self._name, initial=done, total=total, **size, **options)

    def show(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` are done; `total` is None or 0 as long as it is unknown."""
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.update(done - self._bar.n)
            return
        lines = 1 + (10 * done // total if total else done // self._every)
        if lines > self._lines:
            self._lines = lines
            elapsed = time.monotonic() - self._began
            line = tqdm.format_meter(
                done, total, elapsed, initial=self._first, prefix=self._name, ascii=True, **self._options
            )
            say(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._bar is not None:
            self._bar.close()


class TransferBar:
    """The progress of downloads, one after another. It is a `mead.weights.progress.Progress`."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._name, self._done = "", 0

    def show(self, name: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes of a file are here."""
        if self._bar is None or name != self._name or done < self._done:  # another file, or from the start
            self.end()
            self._bar = ProgressBar(name, done, total, every=100_000_000, unit="B", unit_scale=True)
        self._name, self._done = name, done
        self._bar.show(done, total)

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.end()
        say(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._bar is not None:
            self._bar.end()
        self._bar = None
