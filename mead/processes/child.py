"""Child processes: started, watched, restarted and stopped. They end with this process, however it ends."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from mead.installation import ROOT

log = logging.getLogger(__name__)

STOP_SECONDS = 30  # the inference server ends its step first
STEADY_SECONDS = 60  # a child that ran this long did not fail at its start
LONGEST_PAUSE = 5.0  # seconds before a child is started again


class ServiceError(RuntimeError):
    """The service, or a part of it, does not start or has ended."""


class Child:
    """A process that this one starts, in the folder of its code; stopped at the end of a `with` block.

    Make it in the main thread: the kernel ends a child with the thread that started it.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        environment: variables in addition to ours.
        logs: folder of its log, NAME.log; it logs to our stderr if None.
        reads: its standard input, which `ps` does not show.
        holds: open files that it inherits.
        needs: other children, made with `lasting`, that end after it even if this process is killed.
        lasting: whether, if this process is killed, it runs on until the children that need it have ended.

    Attributes:
        process: the current process, or the last one.
        restarts: how often in a row `check` restarts it, if each run takes less than STEADY_SECONDS.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        logs: Path | None,
        reads: bytes = b"",
        holds: Sequence[int] = (),
        needs: Sequence[Child] = (),
        lasting: bool = False,
    ) -> None:
        self.name = name
        self.log = logs / f"{name.replace(' ', '_')}.log" if logs else None
        self.restarts = 0.0
        self._command = command
        self._environment = environment
        self._reads = reads
        self._parent = 0 if lasting else os.getpid()
        self._lifeline, self._held = os.pipe()
        self._watched: int | None = None  # closes at its other end when nothing would end the process with us
        self._inherits = [self._lifeline, *holds, *(child._held for child in needs)]
        self._failures = 0
        self._again_at: float | None = None
        try:
            self._start()
        except BaseException:
            self._close()
            raise

    def _start(self) -> None:
        launch: list[str | Path] = [sys.executable, "-I", "-S", ROOT / "mead" / "processes" / "launch.py"]
        if self._watched is not None:
            os.close(self._watched)
        self._watched, watched = os.pipe()
        with ExitStack() as stack:
            stack.callback(os.close, watched)
            output = stack.enter_context(self.log.open("ab")) if self.log else sys.__stderr__
            self.process = subprocess.Popen(
                [*launch, str(self._parent), str(self._lifeline), str(watched), *self._command],
                env={**os.environ, **self._environment},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[*self._inherits, watched],
                umask=0o077,  # what it writes is for its user alone
                start_new_session=True,  # Ctrl-C is ours to handle: the servers must stop before Redis does
            )
        self._started = time.monotonic()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as stdin:  # `check` tells if it has ended
            stdin.write(self._reads)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Check that the process runs; if it has ended, restart it after a pause.

        A process whose helper was killed (see `mead.processes.launch`) is ended, and restarted likewise.

        Raises:
            ServiceError: it has ended and has no `restarts` left; with the end of its log.
        """
        now = time.monotonic()
        if self._again_at is not None:
            if now >= self._again_at:
                self._again_at = None
                self._start()
            return
        assert self._watched is not None
        unwatched = bool(
            select.select([self._watched], [], [], 0)[0]
        )  # before `poll`: it may just have ended
        status = self.process.poll()
        if status is None:
            if not unwatched:
                return
            log.error(
                "nothing would end the %s with this process: its helper was killed; ending it", self.name
            )
            status = self._end()
        how = f"ended with status {status}" if status >= 0 else f"was killed ({signal.Signals(-status).name})"
        self._failures = 1 if now - self._started > STEADY_SECONDS else self._failures + 1
        what = f"the {self.name} {how}"
        if self._failures > self.restarts:
            if self.restarts:
                what += f", {self._failures} times in a row soon after its start"
            raise ServiceError("\n".join([what, *self.last_lines()]))
        pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
        self._again_at = now + pause
        log.error("%s; restarting it in %.0f s", what, pause)

    def last_lines(self) -> list[str]:
        """The end of its log; nothing if it has none."""
        return self.log.read_text(errors="replace").splitlines()[-20:] if self.log else []

    def stop(self) -> None:
        """Ask the process to end (SIGTERM); kill it if it does not within STOP_SECONDS."""
        try:
            self._end()
        finally:
            self._close()

    def _end(self) -> int:
        """End the process; returns its status."""
        try:
            self.process.terminate()
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _close(self) -> None:
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None
        os.close(self._lifeline)
        os.close(self._held)
