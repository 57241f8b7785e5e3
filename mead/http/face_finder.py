"""Finding the faces of a photo in another process, so that the server needs no detector and no PyTorch.

The process is started for the first photo, looks at one at a time with low priority, and ends when none has
come for a while.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mead.imaging.decoder_process import receive, send
from mead.imaging.encoding import Bitmap
from mead.imaging.faces import FoundFace
from mead.imaging.fair_semaphore import BusyError, FairSemaphore
from mead.installation import ROOT
from mead.weights.errors import WeightsError

log = logging.getLogger(__name__)

SECONDS = 60.0  # that one photo may take; the first waits for imports and weights too
LONGEST_REPLY = 2**20  # bytes
ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "WEIGHTS_DIR", "XDG_DATA_HOME")


class FaceFinder:
    """Finds faces in another process, `python -m mead.http.face_finder_process`.

    Args:
        model: the type of the model whose faces it looks for.
        weights: the name of a weights set.
        waiting: how many photos may wait.
    """

    def __init__(self, model: str, weights: str, waiting: int) -> None:
        self._command = [sys.executable, "-m", "mead.http.face_finder_process", model, weights]
        self._turn = FairSemaphore(1, waiting, SECONDS)
        self._process: _Process | None = None

    @contextmanager
    def turn(self, field: str, client: str) -> Iterator[Callable[[Bitmap], tuple[FoundFace, ...]]]:
        """Wait until no other photo is looked at; yields what finds the faces of one, from the left.

        It raises WeightsError if the weights set cannot be used.

        Args:
            field: the name of the photo in errors.
            client: the client that has sent it; clients are served in turn.

        Raises:
            BusyError: too many photos wait, or the machine is too busy.
        """
        with self._turn.acquire(client, field):
            yield lambda photo: self._find(photo, field)

    def _find(self, photo: Bitmap, field: str) -> tuple[FoundFace, ...]:
        for _ in range(2):  # the process may have ended for lack of photos
            process = self._process or _Process(self._command)
            self._process = None
            try:
                reply = process.find(photo)
            except (OSError, EOFError, ValueError) as error:
                log.info("the face finder has ended", extra={"status": process.end(), "error": repr(error)})
                if isinstance(error, TimeoutError):
                    break
                continue
            self._process = process
            if "error" in reply:
                raise WeightsError(reply["error"])
            return tuple(FoundFace.model_validate(face) for face in reply["faces"])
        raise BusyError(field)


class _Process:
    """The process, as the server sees it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: list[str]) -> None:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the servers need the CPUs
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, cwd=ROOT, env=environment
            )
        weakref.finalize(self, _end, self._link, self._process)

    def find(self, photo: Bitmap) -> dict[str, Any]:
        """The reply to a photo.

        Raises:
            TimeoutError: it takes too long.
            OSError, EOFError: the process has ended.
        """
        deadline = time.monotonic() + SECONDS
        self._link.settimeout(SECONDS)
        send(self._link, {"size": photo.size}, len(photo.file))
        self._link.sendall(photo.file)
        reply, _ = receive(self._link, LONGEST_REPLY, deadline)
        return reply

    def end(self) -> int:
        """End the process, unless it has ended; returns its exit status, or minus a signal."""
        return _end(self._link, self._process)


def _end(link: socket.socket, process: subprocess.Popen[bytes]) -> int:
    link.close()
    process.kill()
    return process.wait()
