"""Where uploads, results and previews lie: a folder each, files named by job. Both servers must see the same.

A file lasts as long as the job's record that it belongs to, or shorter: uploads go when their job has
succeeded or was cancelled (a failed job keeps them, so that it can be put back), previews when it has ended.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from PIL import Image

from mead.images import bmp_bytes, png_bytes
from mead.job import End, Job, Status


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` as a PNG, or as a BMP where `path` ends so, making its folder if need be.

    The file appears under its name only when it is whole and on the disk: it is written under another name,
    synced and then renamed, so that nobody ever reads half a picture, whenever the power goes.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(bmp_bytes(picture) if path.suffix == ".bmp" else png_bytes(picture))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


class Storage:
    """The folders of uploads, results and previews below `root`, made on first use."""

    def __init__(self, root: Path) -> None:
        self.uploads = root.resolve() / "uploads"
        self.results = root.resolve() / "results"
        self.previews = root.resolve() / "previews"

    def upload_path(self, job_id: str, field: str) -> Path:
        """Where the picture sent in form field `field` of a job lies.

        As a BMP: it lives as long as its job does, and packing it as a PNG would be most of what accepting a
        job costs.
        """
        return self.uploads / f"{job_id}.{field}.bmp"

    def new_result_path(self, job_id: str) -> Path:
        """A place for a job's finished picture, another one each time: no attempt ever writes over another's.

        The job's record says which one counts.
        """
        return self.results / f"{job_id}.{secrets.token_hex(4)}.png"

    def preview_path(self, job_id: str) -> Path:
        """Where a running job's picture so far lies, if anybody has asked for it."""
        return self.previews / f"{job_id}.png"

    def remove_uploads(self, pictures: Iterable[Path]) -> None:
        """Remove what was uploaded for a job: the pictures among its parameters."""
        for picture in pictures:
            with suppress(OSError):  # the sweep comes by again
                (self.uploads / picture.name).unlink()

    def tidy(self, job: Job, status: Status) -> None:
        """Remove what a job that has ended as `status` needs no more."""
        self.preview_path(job.id).unlink(missing_ok=True)
        if status != "failed":
            self.remove_uploads(job.pictures)

    def sweep(self, ends: Callable[[Sequence[str]], Mapping[str, End]], unclaimed: float) -> int:
        """Remove the files of jobs that need them no more, or whose record is gone.

        Args:
            ends: `Jobs.ends`, which says how jobs stand.
            unclaimed: seconds that uploads may lie before their job's record is made, and that an unfinished
                file is left to whoever writes it.

        Returns:
            How many files were removed.
        """
        before = time.time() - unclaimed
        removed = 0
        entries = self._entries()
        while batch := list(islice(entries, 500)):
            # Each file is seen before the record that it must be named in.
            known = ends(sorted({job_id for _, job_id in batch}))
            for path, job_id in batch:
                if self._needed(path, known.get(job_id), before):
                    continue
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _entries(self) -> Iterator[tuple[Path, str]]:
        """All files, each with the job it belongs to ("" for unfinished ones)."""
        for folder in (self.uploads, self.results, self.previews):
            if folder.is_dir():
                for path in folder.iterdir():
                    yield path, path.name.partition(".")[0]

    def _needed(self, path: Path, end: End | None, before: float) -> bool:
        if end is None:
            waits = path.parent == self.uploads or path.name.startswith(".")
            try:
                return waits and path.stat().st_mtime >= before
            except FileNotFoundError:  # another worker was faster
                return True
        if not end.ended:
            return True
        if path.parent == self.results:
            return end.out_path is not None and Path(end.out_path).name == path.name
        return path.parent == self.uploads and end.status == "failed"

    def check(self) -> None:
        """Make sure that results can be written now.

        Raises:
            OSError: if not, saying why.
        """
        for folder in (self.uploads, self.results):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{secrets.token_hex(4)}"
            try:
                probe.write_bytes(b"\0" * 65536)
            finally:
                probe.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that the disk has left for us.

        Raises:
            OSError: if the folders cannot be made.
        """
        try:
            return shutil.disk_usage(self.results).free
        except FileNotFoundError:
            self.results.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.results).free


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
