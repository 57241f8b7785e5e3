"""Trying the place of an output before the work that it is for."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

ROOM = 4 * 2**20  # bytes; a picture of 1024x1024 takes less


def try_output(path: Path, name: str) -> None:
    """Make sure that a file can be written to `path` later. Its folder is made, and nothing is left in it.

    Args:
        name: the argument or option that gives the place.

    Raises:
        OSError: of the kind that writing would raise; the message begins with `name`.
        ValueError: for a path that cannot be one.
    """
    if "\0" in str(path):
        raise ValueError(f"{name}: a path holds no NUL character")
    # as long a name as a file has that is not whole yet
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = path.is_dir()
        try:
            probe.write_bytes(b"\0" * ROOM)
        finally:
            with suppress(OSError):
                probe.unlink()
    except FileExistsError as error:
        raise NotADirectoryError(f"{name}: {path.parent} is not a folder") from error
    except OSError as error:
        raise type(error)(f"{name}: cannot write to {path.parent}: {error.strerror}") from error
    if taken:
        raise IsADirectoryError(f"{name}: {path} is a folder, where a file is to be")
