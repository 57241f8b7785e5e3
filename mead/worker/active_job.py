"""A job as its engine runs it: its revision, the time it took, and the pictures made of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from PIL import Image

from mead.files import remove
from mead.log import reason
from mead.params import ParamsError
from mead.queue.job import Job
from mead.revision import Pipeline, R, picture_of
from mead.storage import Storage

log = logging.getLogger(__name__)

PREVIEW_PAUSE = 1.0  # seconds between two previews of one job
STORE_PAUSE = 2.0  # seconds between two tries to store a result
STORE_SECONDS = 600.0  # how long it is tried before the job fails: full disks are emptied


@dataclass(eq=False)
class Running(Generic[R]):
    """A job and the revision it has become."""

    job: Job
    revision: R
    seconds: float = 0.0  # spent on it so far, on what shared a batch with it too
    picture: Image.Image | None = None  # once it is finished
    result: Path | None = None  # where its picture lies, once it is stored
    result_bytes: int = 0
    error: Exception | None = None  # why it cannot go on
    # when (time.monotonic):
    previewed: float = float("-inf")
    store_after: float = float("-inf")
    store_until: float | None = None  # once it could not be stored

    def check_time(self, longest: int) -> None:
        """Give up a job that has taken more than `longest` seconds (0: any time) and is not finished."""
        if self.revision.finished or self.error is not None or not 0 < longest < self.seconds:
            return
        why = (
            f"took longer than MAX_JOB_SECONDS={longest}: {self.revision.step} of {self.revision.steps} "
            "steps were done; ask for fewer steps, fewer cutouts or a smaller picture"
        )
        self.error = ParamsError("iterations", why, out_of_range=True)

    def store(self, pipeline: Pipeline[R], storage: Storage) -> None:
        """Make the finished picture and store it. Its name is new, so that it replaces no other worker's.

        Work of minutes is not thrown away because the disk is full: a picture that cannot be stored is kept
        and tried again for STORE_SECONDS. The job keeps its place in the batch meanwhile, so that no more
        pictures wait than fit in one.
        """
        now = time.monotonic()
        if now < self.store_after:
            return
        path = storage.new_result_path(self.job.id)
        try:
            if self.picture is None:
                self.picture = picture_of(pipeline, self.revision)
            storage.write_picture(self.picture, path)
            self.result_bytes = path.stat().st_size
        except OSError as error:
            if self.store_until is None:
                self.store_until = now + STORE_SECONDS
                log.warning("no room for a result; trying again", extra=self._about(error))
            if now >= self.store_until:
                self.error = error
            self.store_after = now + STORE_PAUSE
        except Exception as error:
            self.error = error
        else:
            self.result = path

    def preview(self, pipeline: Pipeline[R], storage: Storage) -> None:
        """Store the picture so far, not more often than every PREVIEW_PAUSE."""
        now = time.monotonic()
        if now - self.previewed < PREVIEW_PAUSE:
            return
        self.previewed = now
        try:
            path = storage.preview_path(self.job.id)
            storage.write_picture(picture_of(pipeline, self.revision), path)
        except Exception as error:  # the job itself may yet succeed
            log.warning("no preview", extra=self._about(error))

    def discard(self) -> None:
        """Remove a stored result that nobody will hear of; where that fails, the sweep does it."""
        if self.result is not None:
            remove(self.result)

    def _about(self, error: Exception) -> dict[str, str | None]:
        return {"job": self.job.id, "worker": self.job.worker, "error": reason(error)}


def reason_of(error: Exception) -> str:
    """What a job's record says of an internal error: in one line, and without this machine's folders."""
    if isinstance(error, OSError) and error.strerror:
        return f"a picture could not be read or stored: {error.strerror}"
    return reason(error)
