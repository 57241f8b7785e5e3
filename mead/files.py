"""Files that are written whole, and folders that are the service's alone."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes | bytearray, mode: int | None = None) -> None:
    """Write a file that appears under its name only when it is whole and on the disk.

    It is written under another name, synced and then renamed, so that nobody ever reads half of it, whenever
    the power goes.

    Args:
        mode: its permissions; what the umask leaves when None.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with create(temporary, mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise
    _sync_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that is the service's alone (0700), if there is none; one that is there stays as it is.

    In a folder that is shared with a group (see `is_shared`) it is shared with the group, too.
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
    """Whether a folder is set up for a group whose members all write in it: mode 2770 or the like."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def create(path: Path, mode: int | None) -> IO[bytes]:
    """A new file. With a `mode` it has just that from the start, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    if mode is not None:
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")


def remove(path: Path) -> None:
    """Remove a file that may be gone already. Never raises: the sweep comes by again."""
    with suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
