"""The batch loop: one model's jobs, from the queue to their results.

Between any two steps the engine takes waiting jobs while it has room, so that a new job never waits for a
batch to end. Then it advances all of them by one step, together, and reports.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import redis
import torch
from pydantic import BaseModel

from mead.jobs import Job, Jobs
from mead.revision import Pipeline, R
from mead.storage import Storage, write_picture

log = logging.getLogger(__name__)

LONGEST_PAUSE = 10.0  # seconds between two tries when Redis is away


@dataclass(eq=False)
class Running(Generic[R]):
    """A job and the revision it has become."""

    job: Job
    revision: R


class Engine(Generic[R]):
    """Runs the jobs of one queue on one pipeline, up to `capacity` in a batch.

    A job that fails (as it starts, in a step, as its picture is made or stored) fails alone. Memory that does
    not suffice makes the batch smaller. While Redis is away the jobs pause; what they have computed is kept.

    Args:
        pipeline: the loaded networks.
        params: the model that reads a job's parameters.
        jobs: the queue's Redis. Nobody else may claim under `worker` from `queue`.
        queue: its name.
        worker: this worker's name.
        capacity: the most jobs in a batch.
        storage: where results go, and uploads are removed from when their job has ended.
        pause: longest wait on the empty queue at a time, and first pause when Redis is away; seconds.
    """

    def __init__(
        self,
        pipeline: Pipeline[R],
        params: type[BaseModel],
        jobs: Jobs,
        queue: str,
        worker: str,
        capacity: int,
        storage: Storage,
        pause: float = 1.0,
    ) -> None:
        self.pipeline = pipeline
        self.params = params
        self.jobs = jobs
        self.queue = queue
        self.worker = worker
        self.capacity = capacity
        self.storage = storage
        self.pause = pause
        self.running: dict[str, Running[R]] = {}
        self._missed_redis = False

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then end the step and put all jobs back at the front of the queue."""
        pause = self.pause
        while not stop.is_set():
            try:
                if not self.running:
                    self.jobs.wait_for_work(self.queue, self.pause)
                self.turn()
                pause = self.pause
            except redis.RedisError as error:
                log.warning("%s: Redis is away (%s); trying again in %.0f s", self.queue, error, pause)
                self._missed_redis = True
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._put_all_back()

    def turn(self) -> None:
        """Take what there is room for, advance all by a step, report: one turn, which never waits for jobs.

        Raises:
            redis.RedisError: when Redis is away; nothing is lost by calling again later.
        """
        self._admit()
        unfinished = [one for one in self.running.values() if not one.revision.finished]
        for first in range(0, len(unfinished), self.capacity):
            self._step(unfinished[first : first + self.capacity])
        self._report()

    # Taking jobs

    def _admit(self) -> None:
        if self._missed_redis:  # a job may have been claimed by a call whose answer was lost
            for job in self.jobs.held_by(self.queue, self.worker):
                if job.id not in self.running:
                    self._start(job)
            self._missed_redis = False
        while len(self.running) < self.capacity:
            claimed = self.jobs.claim(self.queue, self.worker)
            if claimed is None:
                return
            self._start(claimed)

    def _start(self, job: Job) -> None:
        log.info("%s: starts", job.id)
        out_of_memory = False
        try:
            revision = self.pipeline.start(self.params.model_validate(job.parameters))
        except torch.OutOfMemoryError as error:
            out_of_memory = bool(self.running)
            if not out_of_memory:
                self._fail(job, error)
                return
        except Exception as error:
            self._fail(job, error)
            return
        if out_of_memory:  # beside the others; it may well fit later
            self._shrink(len(self.running))
            self.jobs.put_back(job, self.worker)
            return
        self.running[job.id] = Running(job, revision)
        self.jobs.progress(job, self.worker, revision.step, revision.steps, revision.loss)

    # Advancing them

    def _step(self, batch: Sequence[Running[R]]) -> None:
        """Advance a batch by one step; where that fails, find the job at fault by stepping fewer together."""
        revisions = [one.revision for one in batch]
        before = [(revision.step, revision.generator.get_state()) for revision in revisions]
        try:
            self.pipeline.step(revisions)
            return
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                self._fail(batch[0].job, error)
                return
            share = (len(batch) + 1) // 2
            self._shrink(share)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0].job, error)
                return
            log.warning("a step of %d jobs failed (%s); stepping them one by one", len(batch), error)
            share = 1
        # Outside of `except`, whose traceback would keep the failed step's tensors in memory.
        left = []
        for one, (step, state) in zip(batch, before, strict=True):
            if one.revision.step == step:
                one.revision.generator.set_state(state)  # draws the same numbers as it would have alone
                left.append(one)
        for first in range(0, len(left), share):
            self._step(left[first : first + share])

    def _shrink(self, capacity: int) -> None:
        self.capacity = max(1, capacity)
        log.warning("%s: out of memory; from now on %d in a batch", self.queue, self.capacity)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Reporting

    def _report(self) -> None:
        for one in list(self.running.values()):
            if one.revision.finished:
                self._succeed(one)
            elif not self.jobs.progress(
                one.job, self.worker, one.revision.step, one.revision.steps, one.revision.loss
            ):
                log.info("%s: not ours any more, dropped", one.job.id)
                del self.running[one.job.id]

    def _succeed(self, one: Running[R]) -> None:
        job, revision = one.job, one.revision
        path = self.storage.result_path(job.id)
        try:
            write_picture(self.pipeline.image(revision), path)
        except Exception as error:
            self._fail(job, error)
            return
        self.jobs.progress(job, self.worker, revision.step, revision.steps, revision.loss)
        if self.jobs.succeed(job, self.worker, str(path)):
            log.info("%s: succeeded", job.id)
        self._forget(job)

    def _fail(self, job: Job, error: Exception) -> None:
        if (
            isinstance(error, ValueError) and job.id not in self.running
        ):  # what `start` says of the parameters
            self.jobs.fail(job, self.worker, str(error), "input", getattr(error, "field", None))
            log.info("%s: refused: %s", job.id, error)
        else:
            self.jobs.fail(job, self.worker, f"{type(error).__name__}: {error}", "internal")
            log.error("%s: failed", job.id, exc_info=error)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        self.running.pop(job.id, None)
        self.storage.remove_uploads(job.id)

    def _put_all_back(self) -> None:
        for one in reversed(list(self.running.values())):  # the oldest comes to lie in front
            try:
                self.jobs.put_back(one.job, self.worker)
            except redis.RedisError as error:
                log.error("%s: cannot be put back: %s", one.job.id, error)
        self.running.clear()
