"""Checking that an output can be written before the work on it begins."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

PROBE_SIZE = 4 * 2**20  # bytes; a picture of 1024x1024 takes less


def try_output(path: Path, name: str) -> None:
    """Check that a file can be written to `path` later. Its folder is created; nothing is left in it.

    Args:
        name: of the argument or option that gives the path.

    Raises:
        OSError: of the type that writing would raise; the message begins with `name`.
        ValueError: for an invalid path.
    """
    if "\0" in str(path):
        raise ValueError(f"{name}: a path cannot contain a NUL character")
    # with a name as long as that of `mead.files.atomic_write`'s temporary file
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = path.is_dir()
        try:
            probe.write_bytes(b"\0" * PROBE_SIZE)
        finally:
            with suppress(OSError):
                probe.unlink()
    except FileExistsError as error:
        raise NotADirectoryError(f"{name}: {path.parent} is not a folder") from error
    except OSError as error:
        raise type(error)(f"{name}: cannot write to {path.parent}: {error.strerror}") from error
    if taken:
        raise IsADirectoryError(f"{name}: {path} is a folder, not a file")
