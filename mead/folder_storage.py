"""Storage in a folder, which all servers of a queue must see."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from mead.files import create, is_shared, make_private_folder, remove, write_whole
from mead.storage import Entry, Storage

log = logging.getLogger(__name__)


class FolderStorage(Storage):
    """Uploads, results and previews in the folder `root`, created on first use.

    Only their owner may read and write the files (0600); in a shared folder the group may too. Symbolic links
    to files are not followed.
    """

    setting = "DATA_DIR"

    def __init__(self, root: Path) -> None:
        super().__init__(root.resolve())

    def write(self, content: bytes | bytearray, path: Path) -> int:
        """Write a file whole, creating its folder if necessary; returns its size.

        Raises:
            OSError: if the disk is full or the folder cannot be written.
        """
        if not path.parent.is_dir():
            make_private_folder(self.root)
            make_private_folder(path.parent)
        write_whole(path, content, _mode_in(path.parent))
        return len(content)

    def read(self, path: Path) -> bytes:
        """Read a file."""
        return _regular(path).read_bytes()

    def copy(self, source: Path, path: Path) -> int:
        """Give a file a second name, since files never change; a copy where that cannot be done."""
        try:
            os.utime(_regular(source))  # the second name is new to the sweep
            os.link(source, path)
        except FileNotFoundError:
            raise
        except OSError:  # another user's file, or a file system without links
            return super().copy(source, path)
        return path.stat().st_size

    def local(self, path: Path) -> Path:
        """The path itself."""
        return _regular(path)

    def link(self, path: Path, valid: timedelta) -> None:
        """None: a folder has no URLs."""

    def remove(self, paths: Sequence[Path]) -> int:
        """Remove files; returns how many there were."""
        removed, failed, why = 0, 0, ""
        for path in paths:
            try:
                path.unlink()
                removed += 1
            except FileNotFoundError:  # another server was faster
                continue
            except OSError as error:
                failed, why = failed + 1, str(error)
        if failed:
            log.warning("files cannot be removed", extra={"files": failed, "error": why})
        return removed

    def entries(self, folder: Path) -> Iterator[Entry]:
        """The regular files in a folder."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield Entry(folder / entry.name)

    def age(self, entry: Entry) -> float:
        """Seconds since the file was written; 0 if it is gone."""
        try:
            age = time.time() - entry.path.lstat().st_mtime
            if age < 0:  # the clock was set back; count the age from now on
                os.utime(entry.path, follow_symlinks=False)
        except OSError:
            return 0.0
        return age

    def read_id(self) -> str | None:
        """The folder's id; None if it has none yet."""
        try:
            return _regular(self.marker).read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def write_id(self, folder_id: str) -> None:
        """Give the folder an id unless it has one."""
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
        """Write and remove a small file in the folders of uploads and results."""
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


def _mode_in(folder: Path) -> int:
    return 0o660 if is_shared(folder) else 0o600


def _regular(path: Path) -> Path:
    """The path, if a regular file is there; a symbolic link might lead anywhere."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return path
