"""Writing files atomically, and private folders."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes | bytearray, mode: int | None = None) -> None:
    """Write a file atomically: under a temporary name, synced to the disk, then renamed.

    Readers never see half of it, even after a power failure.

    Args:
        mode: its permissions; None: those of the umask.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    with atomic_write(path, mode) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_write(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; at the end it is synced to the disk and renamed.

    So nobody ever reads half a file, even after a power failure. If an error occurs, the temporary file is
    removed and `path` stays as it was.

    Args:
        mode: the file's permissions; what the umask leaves when None.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        create(temporary, mode).close()
        permissions = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(permissions)  # writers may replace the file: safetensors' lets only its owner read it
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise
    _sync_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Create a folder that only its owner can use (0700). An existing folder stays as it is.

    In a folder that is shared with a group (see `is_shared`), the new folder is shared too.
    """
    try:
        folder.mkdir(0o700, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        if is_shared(folder.parent):
            folder.chmod(0o2770)


def is_shared(folder: Path) -> bool:
    """Whether a folder is set up for a group to write in: setgid and group-writable, as with mode 2770."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def create(path: Path, mode: int | None) -> IO[bytes]:
    """Create a new file and open it. It has `mode` from the start, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    if mode is not None:
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")


def remove(path: Path) -> None:
    """Remove a file, if it exists. Never raises; the sweep removes what could not be removed now."""
    with suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
