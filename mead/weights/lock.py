"""The `lock.json` of a set: checksums of its downloads and files, and when these were verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from pydantic import Field, ValidationError

from mead.files import write_whole
from mead.weights.errors import WeightsError
from mead.weights.manifest import Sha256, StrictModel, first_problem


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class PinnedDownload(StrictModel):
    """A published file as it was first downloaded; later downloads must be the same."""

    sha256: Sha256
    size: int
    url: str
    """Where it came from; empty if it was put there by hand."""
    fetched: datetime


class VerifiedFile(StrictModel):
    """A file of weights as it was when it was last verified."""

    sha256: Sha256
    size: int
    modified: int
    """The file's time of modification, in nanoseconds."""
    verified: datetime
    source: str = ""
    """The file it was converted from."""
    trained_with: tuple[str, ...] = ()
    """As in `mead.weights.manifest.FileEntry`."""

    @classmethod
    def of(
        cls, path: Path, source: str = "", trained_with: Iterable[str] = (), sha256: str | None = None
    ) -> VerifiedFile:
        """A file as it is now. Unless its `sha256` is given, all of it is read."""
        status = path.stat()
        return cls(
            sha256=sha256 or sha256_of(path),
            size=status.st_size,
            modified=status.st_mtime_ns,
            verified=now(),
            source=source,
            trained_with=tuple(sorted(trained_with)),
        )


class Lock(StrictModel):
    """`lock.json`: downloads by file name, files by network."""

    downloads: dict[str, PinnedDownload] = Field(default_factory=dict)
    files: dict[str, VerifiedFile] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Lock:
        """The lock of the set in `folder`; empty if it has none yet.

        Raises:
            WeightsError: for a file that is not a lock.
        """
        path = folder / "lock.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise WeightsError(
                f"{path} is damaged ({first_problem(error)}); delete it, and fetch or convert the set again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the file; the caller holds the folder (see `mead.weights.set_folder.exclusive`)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "lock.json", f"{self.model_dump_json(indent=2)}\n".encode())
