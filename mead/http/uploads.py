"""Ownership of a job's uploads until the job is queued."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mead.imaging.encoding import Bitmap
from mead.storage import Storage


class PendingUploads:
    """The uploads of a job that is not queued yet.

    They are removed at the end of the block, unless `keep` was called: then they belong to the job.

    Attributes:
        bytes: the size of what was stored.
    """

    def __init__(self, storage: Storage, job_id: str) -> None:
        self.storage = storage
        self.job_id = job_id
        self._paths: dict[str, Path] = {}
        self._begun: list[Path] = []  # that may be stored
        self._kept = False
        self.bytes = 0

    def path(self, field: str) -> Path:
        """The path of the picture in form field `field`."""
        return self._paths.setdefault(field, self.storage.upload_path(self.job_id, field))

    def write(self, field: str, bitmap: Bitmap, sent: int) -> None:
        """Store the picture of a form field, which was sent as `sent` bytes.

        Raises:
            OSError: it cannot be stored.
        """
        self._begun.append(self.path(field))
        self.bytes += self.storage.write_upload(bitmap, self.path(field), sent)

    def keep(self) -> None:
        """Leave the uploads to the job."""
        self._kept = True

    def remove(self) -> None:
        """Remove the uploads now. A second call does nothing."""
        self.storage.remove_uploads(self._begun)

    def __enter__(self) -> PendingUploads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self.remove()
