"""Where uploads and results lie: a folder each, files named by job. Both servers must see the same ones."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from PIL import Image

from mead.images import png_bytes


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` as a PNG, making its folder if need be. The same pixels give the same bytes.

    The file appears under its name only when it is whole and on the disk: it is written under another name,
    synced and then renamed, so that nobody ever reads half a picture, whenever the power goes.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(png_bytes(picture))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


class Storage:
    """The folders of uploads and results below `root`, made on first use."""

    def __init__(self, root: Path) -> None:
        self.uploads = root.resolve() / "uploads"
        self.results = root.resolve() / "results"

    def upload_path(self, job_id: str, field: str) -> Path:
        """Where the picture sent in form field `field` of a job lies."""
        return self.uploads / f"{job_id}-{field}.png"

    def result_path(self, job_id: str) -> Path:
        """Where a job's finished picture lies."""
        return self.results / f"{job_id}.png"

    def remove_uploads(self, job_id: str) -> None:
        """Remove what was uploaded for a job, if anything."""
        for path in self.uploads.glob(f"{job_id}-*.png"):
            path.unlink(missing_ok=True)

    def remove_old_results(self, age: float) -> int:
        """Remove results (and abandoned temporary files) older than `age` seconds; returns how many."""
        before = time.time() - age
        removed = 0
        for path in self.results.glob("*"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # another worker was faster
                pass
        return removed

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


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
