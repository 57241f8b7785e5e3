"""The names of stored files: each begins with its job's id."""

from __future__ import annotations

import errno
import re
from pathlib import Path, PurePath

PART = r"[0-9A-Za-z_-]{1,64}"  # of a file's name; job ids are one
_NAME = re.compile(rf"{PART}(\.{PART}){{1,2}}")

# The names that the sweep may remove; job ids are 32 hex digits.
UPLOAD = r"([0-9a-f]{32})\.[a-z][a-z0-9_]*\.(upload|bmp)"  # .bmp: from older versions
RESULT = r"([0-9a-f]{32})\.[0-9a-f]{8}\.png"
TIMELAPSE = r"([0-9a-f]{32})\.[0-9a-f]{8}\.webp"
LATENTS = r"([0-9a-f]{32})\.[0-9a-f]{8}\.safetensors"
PREVIEW = r"([0-9a-f]{32})\.preview\.png"
UNFINISHED = re.compile(rf"\.(probe|{UPLOAD}|{RESULT}|{TIMELAPSE}|{LATENTS}|{PREVIEW})\.[0-9a-f]{{8}}")


def checked_id(job_id: str) -> str:
    """The job's id.

    Raises:
        FileNotFoundError: it cannot be part of a file's name.
    """
    if not re.fullmatch(PART, job_id):
        raise FileNotFoundError(errno.ENOENT, "no file can belong to a job of this id", job_id)
    return job_id


def is_of(name: str, job_id: str) -> bool:
    """Whether a file with this name belongs to a job."""
    return bool(_NAME.fullmatch(name)) and name.partition(".")[0] == job_id


def own_file(folder: Path, job_id: str, named: str) -> Path:
    """The job's own file in `folder` that its record names. Records of older versions hold paths.

    Raises:
        FileNotFoundError: it names another file.
    """
    name = PurePath(named).name
    if not is_of(name, job_id):
        raise FileNotFoundError(errno.ENOENT, "not a file of this job", named)
    return folder / name
