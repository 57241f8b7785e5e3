"""The process that finds faces in photos: `python -m mead.http.face_finder_process MODEL WEIGHTS`.

Photos come over the socket that is its standard input, as bitmaps; see `mead.http.face_finder`. It ends with
the server, or when no photo has come for IDLE_SECONDS.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PIL import Image

from mead.imaging.decoder_process import receive, send
from mead.imaging.encoding import Bitmap
from mead.imaging.faces import FoundFace
from mead.openmp import wait_least
from mead.registry import MODELS
from mead.weights.errors import WeightsError

IDLE_SECONDS = 600.0
LONGEST_PHOTO = 2**32 - 1  # bytes of a bitmap; the server limits photos


def main() -> None:
    """Find faces in the photos that come, until the server ends or none comes for a while."""
    model, weights = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, with which this process ends
    os.nice(5)
    wait_least()  # before PyTorch is imported
    with socket.socket(fileno=0) as link, suppress(TimeoutError, EOFError, OSError):
        find: Callable[[Image.Image], tuple[FoundFace, ...]] | None = None
        while True:
            link.settimeout(IDLE_SECONDS)
            head, bitmap = receive(link, LONGEST_PHOTO)
            link.settimeout(None)
            reply: dict[str, Any]
            try:
                find = find or MODELS[model].load_finder(weights)
                faces = find(Bitmap(tuple(head["size"]), bitmap).picture())
                reply = {"faces": [face.model_dump() for face in faces]}
            except WeightsError as error:
                reply = {"error": str(error)}
            send(link, reply)


if __name__ == "__main__":
    main()
