"""Where uploads, results and previews lie: a folder each, files named by job. Both servers must see the same.

A job's record holds the names of its files, so that servers may see the folder under different paths. What a
record says is never trusted as a path: only the job's own files are opened, and no symbolic link is followed.

A file lasts as long as the job's record that it belongs to, or shorter: uploads go when their job has
succeeded, was cancelled or cannot be done as asked (a job that failed for another reason keeps them, so that
it can be put back), previews when it has ended.
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
from mead.imaging.pictures import Bitmap, png_bytes, webp_bytes
from mead.queue.job import End, Job

log = logging.getLogger(__name__)

UPLOAD_GROWTH = 32  # bytes on the disk for each that was sent, as a photo of JPEG quality 75 takes
DISK_BLOCK = 4096  # bytes; no file takes less of the disk
LONGEST_WEBP_SIDE = 16_383  # pixels

_PART = r"[0-9A-Za-z_-]{1,64}"  # of a file's name; job ids are one
_NAME = re.compile(rf"{_PART}(\.{_PART}){{1,2}}")

# What the sweep takes for ours: ids of jobs are 32 hex digits.
_UPLOAD = r"([0-9a-f]{32})\.[a-z][a-z0-9_]*\.(upload|bmp)"  # .bmp: as older versions called them
_RESULT = r"([0-9a-f]{32})\.[0-9a-f]{8}\.png"
_PREVIEW = r"([0-9a-f]{32})\.preview\.png"
_UNFINISHED = re.compile(rf"\.(probe|{_UPLOAD}|{_RESULT}|{_PREVIEW})\.[0-9a-f]{{8}}")


class Storage:
    """The folders of uploads, results and previews below `root`, made on first use.

    Files are readable and writable by their owner alone (0600), or by the group too in a shared folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uploads = self.root / "uploads"
        self.results = self.root / "results"
        self.previews = self.root / "previews"
        self.marker = self.root / ".mead-id"

    def upload_path(self, job_id: str, field: str) -> Path:
        """Where the picture sent in form field `field` of a job lies. Its content tells its format.

        Raises:
            FileNotFoundError: no file can be of such a job, as with all paths here.
        """
        return self.uploads / f"{_checked(job_id)}.{field}.upload"

    def new_result_path(self, job_id: str) -> Path:
        """A place for a job's finished picture, another one each time: no attempt ever writes over another's.

        The job's record says which one counts.
        """
        return self.results / f"{_checked(job_id)}.{secrets.token_hex(4)}.png"

    def preview_path(self, job_id: str) -> Path:
        """Where a running job's picture so far lies, if anybody has asked for it."""
        return self.previews / f"{_checked(job_id)}.preview.png"

    def write(self, content: bytes | bytearray, path: Path) -> None:
        """Write a file of ours whole, making its folder if need be.

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
        """Write an upload, which was `sent` bytes long. Raises OSError as `write`.

        As a BMP: it lives as long as its job does, and packing a photo would be much of what accepting a job
        costs. But a small file may hold millions of pixels: where a BMP would be more than UPLOAD_GROWTH
        times as long, the picture is packed, without loss.
        """
        content = bitmap.file
        if len(content) > max(UPLOAD_GROWTH * sent, DISK_BLOCK) and max(bitmap.size) <= LONGEST_WEBP_SIDE:
            content = webp_bytes(bitmap.picture())
        self.write(content, path)

    def upload_bytes(self, pictures: Iterable[Path]) -> int:
        """How many bytes of the disk a job's uploads take together; those that are not there take none."""
        total = 0
        for picture in pictures:
            with suppress(OSError):
                total += (self.uploads / picture.name).stat().st_size
        return total

    def parameters(self, job: Job) -> dict[str, str]:
        """A job's parameters, with the paths of its uploads here in place of their names.

        Raises:
            FileNotFoundError: the record names a picture that is not the job's, or that is gone.
        """
        _checked(job.id)
        return {
            name: str(_own(self.uploads, job.id, value)) if name.endswith("_path") else value
            for name, value in job.parameters.items()
        }

    def read_result(self, job: Job) -> bytes:
        """The PNG of a job that has succeeded.

        Raises:
            FileNotFoundError: the record names a file that is not the job's, or that is gone.
        """
        return _own(self.results, job.id, job.out_path or "").read_bytes()

    def read_preview(self, job_id: str) -> bytes:
        """The PNG of a running job's picture so far.

        Raises:
            FileNotFoundError: there is none.
        """
        return _regular(self.preview_path(job_id)).read_bytes()

    def remove_uploads(self, pictures: Iterable[Path]) -> None:
        """Remove uploads, wherever their paths say they are."""
        for picture in pictures:
            remove(self.uploads / picture.name)

    def tidy(self, job: Job, keep_uploads: bool = False) -> None:
        """Remove what a job that has ended needs no more: its preview, and its uploads unless they are to be
        kept. Never raises: the sweep comes by again."""
        with suppress(FileNotFoundError):
            remove(self.preview_path(job.id))
        if not keep_uploads:
            self.remove_uploads(one for one in job.pictures if _is_of(one.name, job.id))

    def sweep(self, ends: Callable[[Sequence[str]], Mapping[str, End]], unclaimed: float, kept: float) -> int:
        """Remove the files of jobs that need them no more, or whose record is gone.

        Whatever has not exactly a name of ours is left alone, and what cannot be removed stops nothing.

        Args:
            ends: `Jobs.ends`, which says how jobs stand.
            unclaimed: seconds that files may lie before their job's record is made, and that an unfinished
                file is left to whoever writes it.
            kept: seconds that a result without a record is kept: as long as the record would have been, so
                that a Redis that has lost its records does not take the pictures with it.

        Returns:
            How many files were removed.
        """
        removed, failed, why = 0, 0, ""
        entries = self._entries()
        while batch := list(islice(entries, 500)):
            # Each file is seen before the record that it must be named in.
            known = ends(sorted({entry.job_id for entry in batch if entry.job_id}))
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
        """All files that are ours."""
        for folder, ours in ((self.uploads, _UPLOAD), (self.results, _RESULT), (self.previews, _PREVIEW)):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        match = re.fullmatch(ours, entry.name)
                        if (match or _UNFINISHED.fullmatch(entry.name)) and entry.is_file(
                            follow_symlinks=False
                        ):
                            yield _Entry(folder / entry.name, match[1] if match else "")
            except FileNotFoundError:  # nothing was stored yet
                continue
            except OSError as error:
                log.warning("cannot sweep", extra={"folder": str(folder), "error": str(error)})

    def _needed(self, entry: _Entry, end: End | None, longest: float) -> bool:
        if end is None:
            age = time.time() - entry.path.lstat().st_mtime
            if age < 0:  # the clock was set back: its age counts from now
                os.utime(entry.path, follow_symlinks=False)
            return age < longest
        if not end.ended:
            return True
        if entry.path.parent == self.results:
            return end.out_path is not None and PurePath(end.out_path).name == entry.path.name
        return entry.path.parent == self.uploads and end.needs_uploads

    def read_id(self) -> str | None:
        """The folder's id; None if it has none yet."""
        try:
            return _regular(self.marker).read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def write_id(self, folder_id: str) -> None:
        """Give the folder an id, unless it has one. Raises OSError as `write`."""
        new = self.marker.with_name(f"{self.marker.name}.{folder_id}")
        self.write(f"{folder_id}\n".encode("ascii"), new)
        try:
            with suppress(FileExistsError):  # another server was faster
                os.link(new, self.marker)
        finally:
            remove(new)

    def touch_id(self) -> None:
        """Say that a server uses the folder now."""
        os.utime(self.marker)

    def held_at(self) -> float:
        """When a server last said that it uses the folder; seconds since 1970."""
        return self.marker.stat().st_mtime

    def check(self) -> None:
        """Make sure that results can be written now.

        Raises:
            OSError: if not, saying why.
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
        """Bytes that the disk has left for us; the fuller one's, where uploads and results are on two.

        Raises:
            OSError: if the folders cannot be made.
        """
        try:
            return min(shutil.disk_usage(folder).free for folder in (self.uploads, self.results))
        except FileNotFoundError:
            for folder in (self.root, self.uploads, self.results):
                make_private_folder(folder)
            return min(shutil.disk_usage(folder).free for folder in (self.uploads, self.results))


@dataclass(frozen=True)
class _Entry:
    """A file of ours, and the job it belongs to ("" for unfinished ones)."""

    path: Path
    job_id: str


def _mode_in(folder: Path) -> int:
    return 0o660 if is_shared(folder) else 0o600


def _checked(job_id: str) -> str:
    """A job's id, fit to be part of a file's name."""
    if not re.fullmatch(_PART, job_id):
        raise FileNotFoundError(errno.ENOENT, "no file can belong to a job of this id", job_id)
    return job_id


def _is_of(name: str, job_id: str) -> bool:
    """Whether a file's name is one of a job's."""
    return bool(_NAME.fullmatch(name)) and name.partition(".")[0] == job_id


def _own(folder: Path, job_id: str, named: str) -> Path:
    """The job's own file in `folder` that its record names; records of older versions hold whole paths."""
    name = PurePath(named).name
    if not _is_of(name, job_id):
        raise FileNotFoundError(errno.ENOENT, "not a file of this job", named)
    return _regular(folder / name)


def _regular(path: Path) -> Path:
    """A path at which there is a file; not a symbolic link, which may lead anywhere."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return path
