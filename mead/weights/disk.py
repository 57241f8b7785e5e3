"""Free disk space: checked before it is needed, and clear errors once it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mead.terminal import format_size

RESERVE = 200_000_000  # bytes of the disk left free
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(OSError):
    """There is, or will be, no space for a file; what has been downloaded is kept."""


def require_space(folder: Path, size: int) -> None:
    """Check that the disk of `folder` has `size` bytes free, and RESERVE more.

    Raises:
        DiskFullError: if not.
    """
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DiskFullError(
            f"{folder} needs {format_size(size + RESERVE)} of free disk space and has {format_size(free)}; "
            "free some space, or set WEIGHTS_DIR to a folder on another disk"
        )


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn the system's error for a full disk into a DiskFullError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"the disk of {folder} is full ({error.strerror}); free some space and try again: what has been "
            "downloaded is kept"
        ) from error
