"""A job that an engine is running: its revision, its time, its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from PIL import Image

from mead.imaging.encoding import add_texts
from mead.imaging.faces import FoundFace
from mead.log import reason
from mead.params import ParamsError
from mead.queue.job import Job
from mead.resuming import Origin, latents_file
from mead.revision import Pipeline, R, picture_of, render, take_frame
from mead.storage import Storage

log = logging.getLogger(__name__)

PREVIEW_PAUSE = 1.0  # seconds between two previews of a job
STORE_PAUSE = 2.0  # seconds between two attempts to store a result
PATIENCE = 0.2  # seconds that other jobs wait while a file is stored; a slow store takes longer
STORE_SECONDS = 600.0  # how long to retry before the job fails; someone may free disk space


@dataclass(eq=False)
class ActiveJob(Generic[R]):
    """A job and its revision."""

    job: Job
    revision: R
    notes: tuple[str, ...] = ()  # that are not in its record yet
    faces: tuple[FoundFace, ...] = ()  # likewise
    chunks: Callable[[], Mapping[str, str]] = dict  # text chunks of the finished picture's PNG, by keyword
    seconds: float = 0.0  # spent on it so far, steps of the whole batch included
    rendering: Iterator[Image.Image | None] | None = None  # once the revision is finished
    picture: Image.Image | None = None  # once it is rendered
    storing: tuple[Path, Future[int]] | None = None  # the picture's file, while it is being stored
    storing_preview: Future[int] | None = None
    result: Path | None = None  # the picture's file, once it is stored
    result_bytes: int = 0
    error: Exception | None = None  # why the job must fail
    origin: Origin | None = None  # what makes its latents; None: they are not stored
    latents_bytes: int = 0  # of the latents, if they are stored
    # Times of time.monotonic:
    previewed: float = float("-inf")
    store_after: float = float("-inf")
    store_until: float | None = None  # set when storing has failed for the first time

    @property
    def is_unfinished(self) -> bool:
        """Whether it has steps left to do."""
        return not self.revision.finished and self.error is None

    @property
    def has_work(self) -> bool:
        """Whether it has steps left to do, or parts of its picture to render."""
        return self.picture is None and self.error is None

    def check_time(self, longest: int) -> None:
        """Set `error` if the job has taken more than `longest` seconds (0: no limit) and is unfinished."""
        if not self.is_unfinished or not 0 < longest < self.seconds:
            return
        why = (
            f"took longer than MAX_JOB_SECONDS={longest}: {self.revision.step} of {self.revision.steps} "
            "steps were done; ask for fewer steps, fewer cutouts or a smaller picture"
        )
        self.error = ParamsError("iterations", why, out_of_range=True)

    def store(self, pipeline: Pipeline[R], storage: Storage, writers: Executor) -> None:
        """Render the finished picture and store it under a new name; call it until there is a `result`.

        An enlarged picture is rendered one part a call, and one of the `writers` stores it, so that other
        jobs go on meanwhile.

        A full disk should not waste minutes of work: if the picture cannot be stored, it is kept in memory,
        and later calls try again until STORE_SECONDS have passed. The job keeps its place in the batch
        meanwhile, which bounds the pictures in memory.
        """
        now = time.monotonic()
        if now < self.store_after:
            return
        try:
            if self.picture is None:
                self.rendering = self.rendering or render(pipeline, self.revision)
                self.picture = next(self.rendering)
            if self.picture is None:
                return
            if self.storing is None:
                add_texts(self.picture, self.chunks())
                path = storage.new_result_path(self.job.id)
                self.storing = path, writers.submit(self._write, storage, self.picture, path)
            path, stored = self.storing
            wait([stored], PATIENCE)
            if not stored.done():
                return
            self.storing = None
            self.result_bytes = stored.result()
        except OSError as error:
            if self.store_until is None:
                self.store_until = now + STORE_SECONDS
                log.warning("a result cannot be stored; trying again", extra=self._context(error))
            if now >= self.store_until:
                self.error = error
            self.store_after = now + STORE_PAUSE
        except Exception as error:
            self.error = error
        else:
            self.result = path

    def _write(self, storage: Storage, picture: Image.Image, path: Path) -> int:
        """Write the picture, and before it what lies beside it; all or nothing.

        Returns:
            The size in bytes, without the latents, which do not stay for long.
        """
        lapse, beside = self.revision.timelapse, storage.timelapse_path(path)
        size = storage.write(lapse.webp(), beside) if lapse is not None and lapse.frames else 0
        try:
            self._write_latents(storage, path)
            return size + storage.write_picture(picture, path)
        except OSError:
            storage.remove([beside, storage.latents_path(path)])
            raise

    def _write_latents(self, storage: Storage, path: Path) -> None:
        """Write the latents beside a result; if that fails, the job cannot go on, but succeeds."""
        latents = None if self.origin is None else latents_file(self.revision, self.origin)
        if latents is None:
            return
        try:
            self.latents_bytes = storage.write(latents, storage.latents_path(path))
        except OSError as error:
            log.warning("latents cannot be stored", extra=self._context(error))

    def take_frame(self, pipeline: Pipeline[R]) -> None:
        """Take a picture for the time-lapse, if one is due now. Never raises."""
        if self.error is not None:
            return
        try:
            take_frame(pipeline, self.revision)
        except Exception as error:  # the job itself may still succeed
            log.warning("no picture for the time-lapse", extra=self._context(error))

    def preview(self, pipeline: Pipeline[R], storage: Storage, writers: Executor) -> None:
        """Store the picture so far, at most once per PREVIEW_PAUSE. Never raises."""
        now = time.monotonic()
        stored = self.storing_preview
        if now - self.previewed < PREVIEW_PAUSE or (stored is not None and not stored.done()):
            return
        self.previewed = now
        try:
            path = storage.preview_path(self.job.id)
            stored = writers.submit(storage.write_picture, picture_of(pipeline, self.revision), path)
            self.storing_preview = stored
            wait([stored], PATIENCE)
            if stored.done():
                stored.result()
        except Exception as error:  # the job itself may still succeed
            log.warning("no preview", extra=self._context(error))

    def discard(self, storage: Storage) -> None:
        """Remove a stored result that no record names; if that fails, the sweep removes it."""
        if self.result is not None:
            beside = [storage.timelapse_path(self.result), storage.latents_path(self.result)]
            storage.remove([self.result, *beside])

    def _context(self, error: Exception) -> dict[str, str | None]:
        return {"job": self.job.id, "worker": self.job.worker, "error": reason(error)}


def reason_of(error: Exception) -> str:
    """An internal error as a job's record shows it: one line, without paths of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"a picture could not be read or stored: {error.strerror}"
    return reason(error)
