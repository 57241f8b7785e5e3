"""Uploads, results and previews of jobs: what their files are called, whose they are, and when they go.

`FolderStorage` keeps them in a folder, `BucketStorage` in an object store; `mead.storage_url` picks one. All
servers of a queue must use the same one.

A job's record holds the names of its files, so servers may see a folder under different paths. A record is
never trusted as a path: only the job's own files are opened.

A result is kept as long as its job's record, and so is its time-lapse, which is named after it, and the last
picture of a job that was cancelled as it ran. Uploads are removed once their job has succeeded, was cancelled
or failed because of its input; a job that failed for another reason keeps them, so that it can be requeued.
Previews are removed once their job has ended.

A model that can go on after its last step leaves latents, named after the result. They are kept for a while
after the job's success, and so are its uploads, which a job that goes on needs.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path, PurePath
from typing import ClassVar

from PIL import Image

from mead.imaging.encoding import Bitmap, png_bytes, webp_bytes
from mead.queue.job import Job, JobOutcome
from mead.stored_names import (
    LATENTS,
    PART,
    PREVIEW,
    RESULT,
    TIMELAPSE,
    UNFINISHED,
    UPLOAD,
    checked_id,
    is_of,
    own_file,
)

log = logging.getLogger(__name__)

UPLOAD_GROWTH = 32  # bytes stored for each that was sent, as a photo of JPEG quality 75 takes
DISK_BLOCK = 4096  # bytes; no file takes less of a disk
LONGEST_WEBP_SIDE = 16_383  # pixels
SWEEP_BATCH = 500  # files whose jobs are looked up at a time


class StorageUnavailableError(OSError):
    """The storage does not answer, or refuses access. It may do so later."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)


@dataclass(frozen=True)
class Entry:
    """A file that a listing has found.

    Attributes:
        modified: when it was written, in seconds since 1970; None if the listing does not tell.
    """

    path: Path
    modified: float | None = None


class Storage(ABC):
    """Uploads, results, time-lapses, latents and previews, in folders of these names below `root`.

    Files are written whole or not at all. Methods that write or read raise OSError when that fails,
    StorageUnavailableError when it may succeed later, and FileNotFoundError when there is no such file.

    Attributes:
        setting: the setting that names the storage.
    """

    setting: ClassVar[str]

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads = root / "uploads"
        self.results = root / "results"
        self.timelapses = root / "timelapses"
        self.latents = root / "latents"
        self.previews = root / "previews"
        self.marker = root / ".mead-id"

    def __str__(self) -> str:
        return str(self.root)

    # Names

    def upload_path(self, job_id: str, field: str) -> Path:
        """The path of the picture uploaded in form field `field`. Its format is not part of the name.

        Raises:
            FileNotFoundError: the id cannot be part of a file's name. So do all methods that take an id.
        """
        return self.uploads / f"{checked_id(job_id)}.{field}.upload"

    def new_result_path(self, job_id: str) -> Path:
        """A new path for a job's finished picture, so that no attempt overwrites the result of another.

        The job's record names the one that counts.
        """
        return self.results / f"{checked_id(job_id)}.{secrets.token_hex(4)}.png"

    def timelapse_path(self, result: Path) -> Path:
        """The path of a result's time-lapse, an animated WebP."""
        return self.timelapses / f"{result.stem}.webp"

    def latents_path(self, result: Path) -> Path:
        """The path of the latents that the job of a result can go on with, see `mead.resuming`."""
        return self.latents / f"{result.stem}.safetensors"

    def preview_path(self, job_id: str) -> Path:
        """The path of a running job's preview."""
        return self.previews / f"{checked_id(job_id)}.preview.png"

    # Writing and reading

    def write_picture(self, picture: Image.Image, path: Path) -> int:
        """Write a result or a preview as a PNG; returns its size in bytes."""
        return self.write(png_bytes(picture), path)

    def write_upload(self, bitmap: Bitmap, path: Path, sent: int) -> int:
        """Write an upload that was sent as `sent` bytes; returns its size in bytes.

        It is a BMP, since compressing a photo would take much of the time that accepting a job takes. But a
        small file may hold millions of pixels: if the BMP would be more than UPLOAD_GROWTH times as large, it
        is a lossless WebP instead.
        """
        content = bitmap.file
        if len(content) > max(UPLOAD_GROWTH * sent, DISK_BLOCK) and max(bitmap.size) <= LONGEST_WEBP_SIDE:
            content = webp_bytes(bitmap.picture())
        return self.write(content, path)

    def parameters(self, job: Job) -> dict[str, str]:
        """A job's parameters, with paths on this machine of its uploads in place of their names.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or that is missing.
        """
        checked_id(job.id)
        return {
            name: str(self.local(own_file(self.uploads, job.id, value))) if name.endswith("_path") else value
            for name, value in job.parameters.items()
        }

    def copy_upload(self, job: Job, named: str, path: Path) -> int:
        """Copy one of a job's uploads, as its record names it; returns its size in bytes.

        Raises:
            FileNotFoundError: that is not the job's own, or it is missing.
        """
        return self.copy(own_file(self.uploads, job.id, named), path)

    def read_upload(self, job: Job, named: str) -> bytes:
        """One of a job's uploads, as its record names it.

        Raises:
            FileNotFoundError: that is not the job's own, or it is missing.
        """
        return self.read(own_file(self.uploads, job.id, named))

    def read_result(self, job: Job) -> bytes:
        """The PNG of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or that is missing.
        """
        return self.read(own_file(self.results, job.id, job.out_path or ""))

    def read_timelapse(self, job: Job) -> bytes:
        """The animated WebP of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or there is no time-lapse.
        """
        return self.read(self.timelapse_path(own_file(self.results, job.id, job.out_path or "")))

    def read_latents(self, job: Job) -> bytes:
        """The latents of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or there are none any more.
        """
        return self.read(self.latents_path(own_file(self.results, job.id, job.out_path or "")))

    def result_link(self, job: Job, valid: timedelta) -> str | None:
        """A URL under which anyone can fetch the job's result for a while; None if there are no such URLs.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own.
        """
        return self.link(own_file(self.results, job.id, job.out_path or ""), valid)

    def read_preview(self, job_id: str) -> bytes:
        """A running job's preview, a PNG.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.read(self.preview_path(job_id))

    def copy(self, source: Path, path: Path) -> int:
        """Copy a file; returns its size in bytes."""
        return self.write(self.read(source), path)

    # Removing

    def remove_uploads(self, pictures: Iterable[Path]) -> None:
        """Remove uploads by name, whatever folder their paths are in. Never raises."""
        self.remove([self.uploads / picture.name for picture in pictures])

    def cleanup(self, job: Job, keep_uploads: bool = False) -> None:
        """Remove the preview of a job that has ended, and its uploads unless `keep_uploads`.

        Never raises; the sweep removes what could not be removed now.
        """
        own = [] if keep_uploads else [name for name in job.uploads if is_of(name.name, job.id)]
        previews = [self.preview_path(job.id)] if re.fullmatch(PART, job.id) else []
        self.remove([*previews, *(self.uploads / picture.name for picture in own)])

    def sweep(
        self,
        outcomes: Callable[[Sequence[str]], Mapping[str, JobOutcome]],
        unclaimed: float,
        kept: float,
        latents: float = 0.0,
    ) -> int:
        """Remove files that their jobs no longer need, or whose jobs have no record.

        Files whose names do not match exactly are left alone. A file that cannot be removed is skipped.

        Args:
            outcomes: `Jobs.outcomes`.
            unclaimed: seconds that an upload or preview is kept without a record, and that an unfinished file
                is kept.
            kept: seconds that a result or time-lapse is kept without a record: as long as the record would
                have been, so that results survive when Redis loses its data.
            latents: seconds after a job's success that its latents are kept, and its uploads with them.

        Returns:
            How many files were removed.
        """
        removed = 0
        entries = self._swept()
        while batch := list(islice(entries, SWEEP_BATCH)):
            # The folder is listed before the records are read, so that a file's record is never missed.
            known = outcomes(sorted({job_id for _, job_id in batch if job_id}))
            unneeded = []
            for entry, job_id in batch:
                longest = (
                    kept if entry.path.parent in (self.results, self.timelapses) and job_id else unclaimed
                )
                if not self._needed(entry, known.get(job_id), longest, unclaimed, latents):
                    unneeded.append(entry.path)
            removed += self.remove(unneeded)
        return removed

    def _swept(self) -> Iterator[tuple[Entry, str]]:
        """All files with names that the service gives, each with its job's id ("" for an unfinished file)."""
        patterns = {
            self.uploads: UPLOAD,
            self.results: RESULT,
            self.timelapses: TIMELAPSE,
            self.latents: LATENTS,
            self.previews: PREVIEW,
        }
        for folder, pattern in patterns.items():
            try:
                for entry in self.entries(folder):
                    match = re.fullmatch(pattern, entry.path.name)
                    if match or UNFINISHED.fullmatch(entry.path.name):
                        yield entry, match[1] if match else ""
            except FileNotFoundError:  # nothing has been stored yet
                continue
            except OSError as error:
                log.warning("cannot sweep", extra={"folder": str(folder), "error": str(error)})

    def _needed(
        self, entry: Entry, outcome: JobOutcome | None, longest: float, unnamed: float, latents: float
    ) -> bool:
        """Whether a file must stay.

        Args:
            longest: seconds that it is kept if its job has no record.
            unnamed: seconds that a result is kept if its job was cancelled and may still name it.
            latents: seconds after a job's success that it can go on.
        """
        if outcome is None:
            return self.age(entry) < longest
        if not outcome.ended:
            return True
        folder, may_go_on = entry.path.parent, outcome.succeeded_within(latents)
        if folder == self.uploads:
            return outcome.needs_uploads or may_go_on
        if folder == self.previews or (folder == self.latents and not may_go_on):
            return False
        if folder == self.results and outcome.status == "cancelled" and outcome.out_path is None:
            return self.age(entry) < unnamed
        return outcome.out_path is not None and PurePath(outcome.out_path).stem == entry.path.stem

    # What each kind of storage does in its own way

    @abstractmethod
    def write(self, content: bytes | bytearray, path: Path) -> int:
        """Write a file whole; returns its size in bytes."""

    @abstractmethod
    def read(self, path: Path) -> bytes:
        """Read a file."""

    @abstractmethod
    def local(self, path: Path) -> Path:
        """A path on this machine where the file can be opened."""

    @abstractmethod
    def link(self, path: Path, valid: timedelta) -> str | None:
        """A URL under which anyone can fetch the file for a while; None if there are no such URLs."""

    @abstractmethod
    def remove(self, paths: Sequence[Path]) -> int:
        """Remove files; returns how many. Never raises: it skips and logs what it cannot remove."""

    @abstractmethod
    def entries(self, folder: Path) -> Iterator[Entry]:
        """The files in a folder, as many at a time as the storage lists in one page."""

    @abstractmethod
    def age(self, entry: Entry) -> float:
        """Seconds since the file was written."""

    @abstractmethod
    def read_id(self) -> str | None:
        """The storage's id (see `mead.data_folder`); None if it has none yet."""

    @abstractmethod
    def write_id(self, folder_id: str) -> None:
        """Give the storage an id unless it has one."""

    @abstractmethod
    def touch_id(self) -> None:
        """Mark the storage as in use now."""

    @abstractmethod
    def held_at(self) -> float:
        """When the storage was last marked as in use; seconds since 1970."""

    @abstractmethod
    def check(self) -> None:
        """Write and remove a small file in the folders of uploads and results."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free bytes for uploads and results; None if there is no limit."""
