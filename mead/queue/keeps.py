"""Jobs whose records and pictures are kept beyond the retention time, until they are released.

The record of such a job has the field `kept` and no time to live, so nothing removes its picture: what the
sweeps of the storage remove is decided by records. It goes on counting towards MAX_KEPT_JOBS and
MAX_KEPT_BYTES.
"""

from __future__ import annotations

from mead.queue import records
from mead.queue.errors import TooManyKeepsError, UnknownJobError
from mead.queue.jobs import ACCEPT_SECONDS, Jobs
from mead.queue.keys import job_key
from mead.queue.scripts import TimelyScript, load_script


class Keeps:
    """Keeps jobs, up to `most` of each owner. Raises redis.RedisError as `mead.queue.jobs.Jobs` does."""

    def __init__(self, jobs: Jobs, most: int, replicas: int = 0) -> None:
        self.most = most
        self._ttl = jobs.ttl
        self._keep = TimelyScript(load_script(jobs.redis, "keep", replicas, ACCEPT_SECONDS))
        self._release = TimelyScript(load_script(jobs.redis, "release"))

    def keep(self, job_id: str) -> bool:
        """Keep a job: PERSIST and HSET the record, SADD and ZADD the id.

        Returns:
            False if it has not ended with a picture.

        Raises:
            UnknownJobError: there is no such job.
            TooManyKeepsError: its owner keeps as many as allowed.
        """
        answer = self._keep(job_id, *records.now(), self.most, keys=[job_key(job_id)])
        if answer == -1:
            raise UnknownJobError(job_id)
        if answer == -2:
            raise TooManyKeepsError(self.most)
        return bool(answer)

    def release(self, job_id: str) -> bool:
        """Let a job go when the retention time has passed from now: EXPIRE and HDEL the record, SREM the id.

        Returns:
            False if it was not kept.

        Raises:
            UnknownJobError: there is no such job.
        """
        _, now_ms = records.now()
        if (answer := self._release(job_id, now_ms, self._ttl, keys=[job_key(job_id)])) == -1:
            raise UnknownJobError(job_id)
        return bool(answer)
