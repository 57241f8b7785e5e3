"""Uploads, results and previews of jobs: what their files are called, whose they are, and when they go.

`FolderStorage` keeps them in a folder, `BucketStorage` in an object store; `mead.storage_url` picks one. All
servers of a queue must use the same one.

A job's record holds the names of its files, so servers may see a folder under different paths. A record is
never trusted as a path: only the job's own files are opened.

A result is kept as long as its job's record; so is the last picture of a job that was cancelled as it ran.
Uploads are removed once their job has succeeded, was cancelled or failed because of its input; a job that
failed for another reason keeps them, so that it can be requeued. Previews are removed once their job has
ended.
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

log = logging.getLogger(__name__)

UPLOAD_GROWTH = 32  # bytes stored for each that was sent, as a photo of JPEG quality 75 takes
DISK_BLOCK = 4096  # bytes; no file takes less of a disk
LONGEST_WEBP_SIDE = 16_383  # pixels
SWEEP_BATCH = 500  # files whose jobs are looked up at a time

_PART = r"[0-9A-Za-z_-]{1,64}"  # of a file's name; job ids are one
_NAME = re.compile(rf"{_PART}(\.{_PART}){{1,2}}")

# The names that the sweep may remove; job ids are 32 hex digits.
_UPLOAD = r"([0-9a-f]{32})\.[a-z][a-z0-9_]*\.(upload|bmp)"  # .bmp: from older versions
_RESULT = r"([0-9a-f]{32})\.[0-9a-f]{8}\.png"
_PREVIEW = r"([0-9a-f]{32})\.preview\.png"
_UNFINISHED = re.compile(rf"\.(probe|{_UPLOAD}|{_RESULT}|{_PREVIEW})\.[0-9a-f]{{8}}")


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
    """Uploads, results and previews, in `uploads`, `results` and `previews` below `root`.

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
        return self.uploads / f"{_checked(job_id)}.{field}.upload"

    def new_result_path(self, job_id: str) -> Path:
        """A new path for a job's finished picture, so that no attempt overwrites the result of another.

        The job's record names the one that counts.
        """
        return self.results / f"{_checked(job_id)}.{secrets.token_hex(4)}.png"

    def preview_path(self, job_id: str) -> Path:
        """The path of a running job's preview."""
        return self.previews / f"{_checked(job_id)}.preview.png"

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
        _checked(job.id)
        return {
            name: str(self.local(_own(self.uploads, job.id, value))) if name.endswith("_path") else value
            for name, value in job.parameters.items()
        }

    def read_result(self, job: Job) -> bytes:
        """The PNG of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or that is missing.
        """
        return self.read(_own(self.results, job.id, job.out_path or ""))

    def result_link(self, job: Job, valid: timedelta) -> str | None:
        """A URL under which anyone can fetch the job's result for a while; None if there are no such URLs.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own.
        """
        return self.link(_own(self.results, job.id, job.out_path or ""), valid)

    def read_preview(self, job_id: str) -> bytes:
        """A running job's preview, a PNG.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.read(self.preview_path(job_id))

    # Removing

    def remove_uploads(self, pictures: Iterable[Path]) -> None:
        """Remove uploads by name, whatever folder their paths are in. Never raises."""
        self.remove([self.uploads / picture.name for picture in pictures])

    def cleanup(self, job: Job, keep_uploads: bool = False) -> None:
        """Remove the preview of a job that has ended, and its uploads unless `keep_uploads`.

        Never raises; the sweep removes what could not be removed now.
        """
        own = [] if keep_uploads else [name for name in job.pictures if _is_of(name.name, job.id)]
        previews = [self.preview_path(job.id)] if re.fullmatch(_PART, job.id) else []
        self.remove([*previews, *(self.uploads / picture.name for picture in own)])

    def sweep(
        self,
        outcomes: Callable[[Sequence[str]], Mapping[str, JobOutcome]],
        unclaimed: float,
        kept: float,
    ) -> int:
        """Remove files that their jobs no longer need, or whose jobs have no record.

        Files whose names do not match exactly are left alone. A file that cannot be removed is skipped.

        Args:
            outcomes: `Jobs.outcomes`.
            unclaimed: seconds that an upload or preview is kept without a record, and that an unfinished file
                is kept.
            kept: seconds that a result is kept without a record: as long as the record would have been, so
                that results survive when Redis loses its data.

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
                longest = kept if entry.path.parent == self.results and job_id else unclaimed
                if not self._needed(entry, known.get(job_id), longest, unclaimed):
                    unneeded.append(entry.path)
            removed += self.remove(unneeded)
        return removed

    def _swept(self) -> Iterator[tuple[Entry, str]]:
        """All files with names that the service gives, each with its job's id ("" for an unfinished file)."""
        for folder, pattern in ((self.uploads, _UPLOAD), (self.results, _RESULT), (self.previews, _PREVIEW)):
            try:
                for entry in self.entries(folder):
                    match = re.fullmatch(pattern, entry.path.name)
                    if match or _UNFINISHED.fullmatch(entry.path.name):
                        yield entry, match[1] if match else ""
            except FileNotFoundError:  # nothing has been stored yet
                continue
            except OSError as error:
                log.warning("cannot sweep", extra={"folder": str(folder), "error": str(error)})

    def _needed(self, entry: Entry, outcome: JobOutcome | None, longest: float, unnamed: float) -> bool:
        """Whether a file must stay.

        Args:
            longest: seconds that it is kept if its job has no record.
            unnamed: seconds that a result is kept if its job was cancelled and may still name it.
        """
        if outcome is None:
            return self.age(entry) < longest
        if not outcome.ended:
            return True
        if entry.path.parent == self.results:
            if outcome.status == "cancelled" and outcome.out_path is None:
                return self.age(entry) < unnamed
            return outcome.out_path is not None and PurePath(outcome.out_path).name == entry.path.name
        return entry.path.parent == self.uploads and outcome.needs_uploads

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


def _checked(job_id: str) -> str:
    """The job's id, if it can be part of a file's name."""
    if not re.fullmatch(_PART, job_id):
        raise FileNotFoundError(errno.ENOENT, "no file can belong to a job of this id", job_id)
    return job_id


def _is_of(name: str, job_id: str) -> bool:
    """Whether a file with this name belongs to a job."""
    return bool(_NAME.fullmatch(name)) and name.partition(".")[0] == job_id


def _own(folder: Path, job_id: str, named: str) -> Path:
    """The job's own file in `folder` that its record names. Records of older versions hold paths."""
    name = PurePath(named).name
    if not _is_of(name, job_id):
        raise FileNotFoundError(errno.ENOENT, "not a file of this job", named)
    return folder / name
