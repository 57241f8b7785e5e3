"""Ownership of jobs' uploads until the jobs are queued."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mead.imaging.encoding import Bitmap
from mead.queue.job import Job, ids_of_group, new_ids
from mead.storage import Storage


class PendingUploads:
    """The uploads of jobs that are not queued yet. Each job has files of its own, which go when it has ended.

    They are removed at the end of the block, unless `keep` was called: then they belong to the jobs.

    Attributes:
        job_ids: ids for a form's jobs; `number` makes more of them.
        bytes: the size of what was stored for each job.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.job_ids = new_ids(1)
        self._paths: dict[str, list[Path]] = {}
        self._begun: list[Path] = []  # that may be stored
        self._kept = False
        self.bytes = 0

    def number(self, n: int) -> None:
        """Make ids for `n` jobs, before anything is written."""
        self.job_ids = ids_of_group(self.job_ids[0], n)
        self._paths = {field: self._new_paths(field) for field in self._paths}

    def path(self, field: str) -> Path:
        """The first job's path of the picture in form field `field`."""
        return self._paths.setdefault(field, self._new_paths(field))[0]

    def write(self, field: str, bitmap: Bitmap, sent: int) -> None:
        """Store the picture of a form field, which was sent as `sent` bytes, for each job.

        Raises:
            OSError: it cannot be stored.
        """
        size = 0
        for path in self._paths[field]:
            self._begun.append(path)
            size = self.storage.write_upload(bitmap, path, sent)
        self.bytes += size

    def add(self, field: str, content: bytes) -> None:
        """Store a file for the first job.

        Raises:
            OSError: it cannot be stored.
        """
        path = self.path(field)
        self._begun.append(path)
        self.bytes += self.storage.write(content, path)

    def copy(self, field: str, job: Job, named: str) -> None:
        """Store a copy of another job's upload, as its record names it, for the first job.

        Raises:
            OSError: it cannot be read or stored.
        """
        path = self.path(field)
        self._begun.append(path)
        self.bytes += self.storage.copy_upload(job, named, path)

    def _new_paths(self, field: str) -> list[Path]:
        return [self.storage.upload_path(job_id, field) for job_id in self.job_ids]

    def keep(self) -> None:
        """Leave the uploads to the jobs."""
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
