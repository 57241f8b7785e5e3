"""The picture so far of a job that was cancelled as it ran."""

from __future__ import annotations

import logging
from pathlib import Path

import redis
from PIL import Image

from mead.queue import records
from mead.queue.jobs import Jobs
from mead.queue.keys import job_key
from mead.queue.redis_errors import explain
from mead.queue.scripts import load_script
from mead.storage import Storage

log = logging.getLogger(__name__)


class CancelledPictures:
    """Stores the last pictures of cancelled jobs, and names them in their records."""

    def __init__(self, jobs: Jobs, storage: Storage) -> None:
        self._ttl = jobs.ttl
        self._storage = storage
        self._keep = load_script(jobs.redis, "keep_cancelled")

    def store(self, job_id: str, picture: Image.Image) -> None:
        """Store a job's picture under a new name, then name it in the record (HSET). Never raises.

        The sweep leaves such a file alone until it has had time to be named, and removes it if it was not.
        """
        try:
            path = self._storage.new_result_path(job_id)
            size = self._storage.write_picture(picture, path)
            self._name(job_id, path, size)
        except OSError as error:
            log.warning("the picture of a cancelled job cannot be stored: %s", error, extra={"job": job_id})
        except redis.RedisError as error:
            why = explain(error)
            log.warning("the picture of a cancelled job cannot be stored: %s", why, extra={"job": job_id})

    def _name(self, job_id: str, path: Path, size: int) -> None:
        _, now_ms = records.now()
        if not self._keep(job_id, path.name, size, now_ms, self._ttl, keys=[job_key(job_id)]):
            self._storage.remove([path])
