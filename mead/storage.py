"""The folders of uploads, results and previews. All servers of a queue must see the same ones.

A job's record holds the names of its files, so servers may see the folders under different paths. A record is
never trusted as a path: only the job's own files are opened, and symbolic links are not followed.

A result is kept as long as its job's record. Uploads are removed once their job has succeeded, was cancelled
or failed because of its input; a job that failed for another reason keeps them, so that it can be requeued.
Previews are removed once their job has ended.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from PIL import Image

from mead.files import create, is_shared, make_private_folder, remove, write_whole
from mead.imaging.encoding import Bitmap, png_bytes, webp_bytes
from mead.queue.job import Job, JobOutcome

log = logging.getLogger(__name__)

UPLOAD_GROWTH = 32  # bytes on the disk for each that was sent, as a photo of JPEG quality 75 takes
DISK_BLOCK = 4096  # bytes; no file takes less of the disk
LONGEST_WEBP_SIDE = 16_383  # pixels

_PART = r"[0-9A-Za-z_-]{1,64}"  # of a file's name; job ids are one
_NAME = re.compile(rf"{_PART}(\.{_PART}){{1,2}}")

# The names that the sweep may remove; job ids are 32 hex digits.
_UPLOAD = r"([0-9a-f]{32})\.[a-z][a-z0-9_]*\.(upload|bmp)"  # .bmp: from older versions
_RESULT = r"([0-9a-f]{32})\.[0-9a-f]{8}\.png"
_PREVIEW = r"([0-9a-f]{32})\.preview\.png"
_UNFINISHED = re.compile(rf"\.(probe|{_UPLOAD}|{_RESULT}|{_PREVIEW})\.[0-9a-f]{{8}}")


class Storage:
    """The folders of uploads, results and previews in `root`, created on first use.

    Only their owner may read and write the files (0600); in a shared folder the group may too.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uploads = self.root / "uploads"
        self.results = self.root / "results"
        self.previews = self.root / "previews"
        self.marker = self.root / ".mead-id"

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

    def write(self, content: bytes | bytearray, path: Path) -> None:
        """Write a file whole, creating its folder if necessary.

        Raises:
            OSError: if the disk is full or the folder cannot be written.
        """
        if not path.parent.is_dir():
            make_private_folder(self.root)
            make_private_folder(path.parent)
        write_whole(path, content, _mode_in(path.parent))

    def write_picture(self, picture: Image.Image, path: Path) -> None:
        """Write a result or a preview as a PNG. Raises OSError as `write`."""
        self.write(png_bytes(picture), path)

    def write_upload(self, bitmap: Bitmap, path: Path, sent: int) -> None:
        """Write an upload that was sent as `sent` bytes. Raises OSError as `write`.

        It is a BMP, since compressing a photo would take much of the time that accepting a job takes. But a
        small file may hold millions of pixels: if the BMP would be more than UPLOAD_GROWTH times as large, it
        is a lossless WebP instead.
        """
        content = bitmap.file
        if len(content) > max(UPLOAD_GROWTH * sent, DISK_BLOCK) and max(bitmap.size) <= LONGEST_WEBP_SIDE:
            content = webp_bytes(bitmap.picture())
        self.write(content, path)

    def upload_bytes(self, pictures: Iterable[Path]) -> int:
        """The size of these uploads together, in bytes; missing ones count as 0."""
        total = 0
        for picture in pictures:
            with suppress(OSError):
                total += (self.uploads / picture.name).stat().st_size
        return total

    def parameters(self, job: Job) -> dict[str, str]:
        """A job's parameters, with paths of its uploads in place of their names.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or that is missing.
        """
        _checked(job.id)
        return {
            name: str(_own(self.uploads, job.id, value)) if name.endswith("_path") else value
            for name, value in job.parameters.items()
        }

    def read_result(self, job: Job) -> bytes:
        """The PNG of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's own, or that is missing.
        """
        return _own(self.results, job.id, job.out_path or "").read_bytes()

    def read_preview(self, job_id: str) -> bytes:
        """A running job's preview, a PNG.

        Raises:
            FileNotFoundError: there is none.
        """
        return _regular(self.preview_path(job_id)).read_bytes()

    def remove_uploads(self, pictures: Iterable[Path]) -> None:
        """Remove uploads by name, whatever folder their paths are in."""
        for picture in pictures:
            remove(self.uploads / picture.name)

    def cleanup(self, job: Job, keep_uploads: bool = False) -> None:
        """Remove the preview of a job that has ended, and its uploads unless `keep_uploads`.

        Never raises; the sweep removes what could not be removed now.
        """
        with suppress(FileNotFoundError):
            remove(self.preview_path(job.id))
        if not keep_uploads:
            self.remove_uploads(picture for picture in job.pictures if _is_of(picture.name, job.id))

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
        removed, failed, why = 0, 0, ""
        entries = self._entries()
        while batch := list(islice(entries, 500)):
            # The folder is listed before the records are read, so that a file's record is never missed.
            known = outcomes(sorted({entry.job_id for entry in batch if entry.job_id}))
            for entry in batch:
                try:
                    longest = kept if entry.path.parent == self.results and entry.job_id else unclaimed
                    if not self._needed(entry, known.get(entry.job_id), longest):
                        entry.path.unlink()
                        removed += 1
                except FileNotFoundError:  # another worker was faster
                    continue
                except OSError as error:
                    failed, why = failed + 1, str(error)
        if failed:
            log.warning("files cannot be removed", extra={"files": failed, "error": why})
        return removed

    def _entries(self) -> Iterator[_Entry]:
        """All files with names that the service gives."""
        for folder, pattern in ((self.uploads, _UPLOAD), (self.results, _RESULT), (self.previews, _PREVIEW)):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        match = re.fullmatch(pattern, entry.name)
                        if (match or _UNFINISHED.fullmatch(entry.name)) and entry.is_file(
                            follow_symlinks=False
                        ):
                            yield _Entry(folder / entry.name, match[1] if match else "")
            except FileNotFoundError:  # nothing has been stored yet
                continue
            except OSError as error:
                log.warning("cannot sweep", extra={"folder": str(folder), "error": str(error)})

    def _needed(self, entry: _Entry, outcome: JobOutcome | None, longest: float) -> bool:
        if outcome is None:
            age = time.time() - entry.path.lstat().st_mtime
            if age < 0:  # the clock was set back; count the age from now on
                os.utime(entry.path, follow_symlinks=False)
            return age < longest
        if not outcome.ended:
            return True
        if entry.path.parent == self.results:
            return outcome.out_path is not None and PurePath(outcome.out_path).name == entry.path.name
        return entry.path.parent == self.uploads and outcome.needs_uploads

    def read_id(self) -> str | None:
        """The folder's id; None if it has none yet."""
        try:
            return _regular(self.marker).read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def write_id(self, folder_id: str) -> None:
        """Give the folder an id unless it has one. Raises OSError as `write`."""
        new = self.marker.with_name(f"{self.marker.name}.{folder_id}")
        self.write(f"{folder_id}\n".encode("ascii"), new)
        try:
            with suppress(FileExistsError):  # another server was faster
                os.link(new, self.marker)
        finally:
            remove(new)

    def touch_id(self) -> None:
        """Mark the folder as in use now."""
        os.utime(self.marker)

    def held_at(self) -> float:
        """When the folder was last marked as in use; seconds since 1970."""
        return self.marker.stat().st_mtime

    def check(self) -> None:
        """Write and remove a small file in the folders of uploads and results.

        Raises:
            OSError: a folder cannot be written to.
        """
        make_private_folder(self.root)
        for folder in (self.uploads, self.results):
            make_private_folder(folder)
            probe = folder / f".probe.{secrets.token_hex(4)}"
            try:
                with create(probe, _mode_in(folder)) as file:
                    file.write(b"\0" * 65536)
            finally:
                probe.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Free bytes on the disk of uploads and results; of the fuller disk, if they are on two.

        Raises:
            OSError: the folders cannot be created.
        """
        try:
            return min(shutil.disk_usage(folder).free for folder in (self.uploads, self.results))
        except FileNotFoundError:
            for folder in (self.root, self.uploads, self.results):
                make_private_folder(folder)
            return min(shutil.disk_usage(folder).free for folder in (self.uploads, self.results))


@dataclass(frozen=True)
class _Entry:
    """A file, and the id of its job ("" for an unfinished file)."""

    path: Path
    job_id: str


def _mode_in(folder: Path) -> int:
    return 0o660 if is_shared(folder) else 0o600


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
    return _regular(folder / name)


def _regular(path: Path) -> Path:
    """The path, if a regular file is there; a symbolic link might lead anywhere."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return path
