"""How far a job is, in a terminal."""

from __future__ import annotations

import sys
import time

from mead.terminal import say


class ProgressBar:
    """One line on stderr that shows how far a job is; where that is no terminal, one line per quarter."""

    WIDTH = 30

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.monotonic()
        self.shown = -1

    def show(self, step: int, steps: int) -> None:
        """Show that `step` of `steps` are done; `steps` is 0 as long as nobody knows."""
        if not sys.stderr.isatty():
            quarter = 4 * step // steps if steps else 0
            if quarter > self.shown:
                self.shown = quarter
                say(self._line(step, steps), file=sys.stderr, flush=True)
            return
        print(f"\r{self._line(step, steps)}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _line(self, step: int, steps: int) -> str:
        done = self.WIDTH * step // steps if steps else 0
        count = f"{step}/{steps}" if steps else "waiting"
        seconds = time.monotonic() - self.began
        return f"{self.name} [{'#' * done}{'.' * (self.WIDTH - done)}] {count} {seconds:.1f} s"
