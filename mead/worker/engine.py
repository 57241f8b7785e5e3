"""The batch loop: one model's jobs, from the queue to their results.

Between any two steps the engine takes waiting jobs while it has room, so that a new job never waits for a
batch to end. Then it advances all of them by one step, together, and reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal

import redis
import torch

from mead.log import reason
from mead.params import JobParams, ParamsError, check
from mead.queue.job import Job
from mead.queue.jobs import Jobs, Load, Progress
from mead.queue.redis_errors import explain
from mead.revision import Pipeline, R, check_loss, start
from mead.storage import Storage
from mead.worker.active_job import STORE_PAUSE, Running, reason_of
from mead.worker.admission import Company

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0  # seconds between two tries when Redis is away


class Engine(Generic[R]):
    """Runs the jobs of one queue on one pipeline, up to `capacity` in a batch.

    A job that fails (as it starts, in a step, as its picture is made or stored) fails alone, and so does one
    whose loss or picture is not finite, or that takes longer than it may. Memory that does not suffice makes
    the batch smaller until a job has ended. While Redis is away the jobs pause; what they have computed,
    results too, is kept and reported when it is back. A result that cannot be stored is tried again for a
    while.

    Args:
        pipeline: the loaded networks.
        params: the model that reads a job's parameters.
        jobs: the queue's Redis. Nobody else may claim under `worker` from `queue`.
        queue: its name.
        worker: this worker's name.
        capacity: the most jobs in a batch.
        storage: where results and previews go, and files are removed from when their job has ended.
        pause: longest wait on the empty queue at a time, and first pause when Redis is away; seconds.
        company: shared by all engines of the process.
        max_job_seconds: how long a job may take, pauses while Redis is away not counted; 0: any time.
    """

    def __init__(
        self,
        pipeline: Pipeline[R],
        params: type[JobParams],
        jobs: Jobs,
        queue: str,
        worker: str,
        capacity: int,
        storage: Storage,
        pause: float = 1.0,
        company: Company | None = None,
        max_job_seconds: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.params = params
        self.jobs = jobs
        self.queue = queue
        self.worker = worker
        self.capacity = capacity
        self.full_capacity = capacity
        self.storage = storage
        self.pause = pause
        self.company = company or Company()
        self.max_job_seconds = max_job_seconds
        self.running: dict[str, Running[R]] = {}
        self._steps = 0  # of all jobs together
        self._measured = (time.monotonic(), 0)  # when, and how many steps had been done then

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then end the step and put all jobs back at the front of the queue."""
        pause = self.pause
        while not stop.is_set():
            try:
                # Not while another engine's job runs alone, or the queue's next one waits to.
                if not self.running and self.company.wait(self.queue, min(self.pause, LONGEST_PAUSE)):
                    self.jobs.wait_for_work(self.queue, self.pause)
                self.turn()
                if self.running and not self._unfinished():  # results wait for room on the disk
                    stop.wait(STORE_PAUSE)
                pause = self.pause
            except redis.RedisError as error:
                extra = {"queue": self.queue, "worker": self.worker, "error": reason(error), "pause": pause}
                log.warning(explain(error), extra=extra)
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._put_all_back()

    def turn(self) -> None:
        """Take what there is room for, advance all by a step, report: one turn, which never waits for jobs.

        Raises:
            redis.RedisError: when Redis is away; nothing is lost by calling again later.
        """
        self._admit()
        unfinished = self._unfinished()
        began = time.monotonic()
        for first in range(0, len(unfinished), self.capacity):
            self._step(unfinished[first : first + self.capacity])
        for one in unfinished:
            one.seconds += time.monotonic() - began
            one.check_time(self.max_job_seconds)
        self._report()

    def load(self) -> Load:
        """What the engine does, its speed since it was asked last. For another thread, the same each time."""
        now, steps = time.monotonic(), self._steps
        then, before = self._measured
        self._measured = (now, steps)
        speed = (steps - before) / max(now - then, 1e-3)
        return Load(running=len(self.running), capacity=self.capacity, steps_per_second=round(speed, 3))

    # Taking jobs

    def _admit(self) -> None:
        while len(self.running) < self.capacity:
            job = self.company.take(
                self.queue, lambda alone: self.jobs.claim(self.queue, self.worker, alone=alone)
            )
            if job is None:
                return
            self._start(job)
        self.company.pass_by(self.queue)

    def _start(self, job: Job) -> None:
        began = time.monotonic()
        log.info("job started", extra={"job": job.id, "worker": self.worker, "attempts": job.attempts})
        out_of_memory = False
        try:
            revision = start(self.pipeline, check(self.params, self.storage.parameters(job)))
        except torch.OutOfMemoryError as error:
            out_of_memory = bool(self.running)
            if not out_of_memory:
                self._fail(job, error)
                return
        except ValueError as error:  # what is wrong with the parameters
            self._fail(job, error, "input")
            return
        except Exception as error:
            self._fail(job, error)
            return
        if out_of_memory:  # beside the others; it may well fit later
            self._leave(job)
            self._shrink(len(self.running))
            self.jobs.put_back(self.queue, self.worker, [job.id])
            return
        self.running[job.id] = Running(job, revision, time.monotonic() - began)

    # Advancing them

    def _unfinished(self) -> list[Running[R]]:
        return [one for one in self.running.values() if not one.revision.finished and one.error is None]

    def _step(self, batch: Sequence[Running[R]]) -> None:
        """Advance a batch by one step; where that fails, find the job at fault by stepping fewer together."""
        revisions = [one.revision for one in batch]
        before = [(revision.step, revision.generator.get_state()) for revision in revisions]
        try:
            self.pipeline.step(revisions)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                batch[0].error = error.with_traceback(None)
                return
            share = (len(batch) + 1) // 2
            self._shrink(share)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            log.warning(
                "a step of %d jobs failed (%s); stepping them one by one",
                len(batch),
                error,
                extra={"queue": self.queue, "worker": self.worker},
            )
            share = 1
        else:
            self._steps += len(batch)
            for one in batch:
                try:
                    check_loss(one.revision)
                except FloatingPointError as error:
                    one.error = error
            return
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
        log.warning(
            "out of memory; fewer jobs in a batch until one has ended",
            extra={"queue": self.queue, "worker": self.worker, "capacity": self.capacity},
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Reporting

    def _report(self) -> None:
        for one in self.running.values():
            if one.revision.finished and one.result is None and one.error is None:
                one.store(self.pipeline, self.storage)
        revisions = {job_id: one.revision for job_id, one in self.running.items()}
        progress = [
            Progress(job_id, revision.step, revision.steps, revision.loss)
            for job_id, revision in revisions.items()
        ]
        standing = self.jobs.report(self.queue, self.worker, progress)
        for job_id in standing.lost:
            self._drop(self.running[job_id])
        for one in list(self.running.values()):
            if one.error is not None:
                self._fail(one.job, one.error, "input" if isinstance(one.error, ParamsError) else "internal")
            elif one.result is not None:
                self._succeed(one, one.result)
            elif one.job.id in standing.watched:
                one.preview(self.pipeline, self.storage)
        # A claim whose answer was lost on its way: the next one shall take it.
        if unknown := [job_id for job_id in standing.held if job_id not in revisions]:
            self.jobs.put_back(self.queue, self.worker, unknown)

    def _succeed(self, one: Running[R], result: Path) -> None:
        if self.jobs.succeed(one.job, self.worker, result.name, one.result_bytes):
            self._succeeded(one)
        else:
            self._drop(one)

    def _succeeded(self, one: Running[R]) -> None:
        extra = {"job": one.job.id, "worker": self.worker, "steps": one.revision.step}
        log.info("job succeeded", extra=extra)
        self._leave(one.job)
        self.storage.tidy(one.job)

    def _fail(self, job: Job, error: Exception, kind: Literal["input", "internal"] = "internal") -> None:
        why = str(error) if kind == "input" else reason_of(error)
        try:
            ours = self.jobs.fail(job, self.worker, why, kind, getattr(error, "field", None))
        except redis.RedisError:
            if job.id not in self.running:  # as it started; it is put back, as one that nobody knows of
                self._leave(job)
            raise
        self._leave(job)
        if ours:
            extra = {"job": job.id, "worker": self.worker, "error": why}
            log.log(
                logging.INFO if kind == "input" else logging.ERROR,
                "job failed",
                extra=extra,
                exc_info=error if kind == "internal" else None,
            )
            self.storage.tidy(job, keep_uploads=kind == "internal")

    def _drop(self, one: Running[R]) -> None:
        """Forget a job that the worker does not hold any more: it was cancelled, or given to another, or its
        record is gone. Or it has its result, and the answer that said so was lost."""
        end = self.jobs.ends([one.job.id]).get(one.job.id)
        if one.result is not None and end is not None and Path(end.out_path or "").name == one.result.name:
            self._succeeded(one)
            return
        log.info("job dropped", extra={"job": one.job.id, "worker": self.worker})
        self._leave(one.job)
        one.discard()
        if end is None or end.ended:
            self.storage.tidy(one.job, keep_uploads=end is not None and end.needs_uploads)

    def _leave(self, job: Job) -> None:
        self.running.pop(job.id, None)
        # Where memory did not suffice, one job more is tried: it may have been this one that was too large.
        self.capacity = min(self.capacity + 1, self.full_capacity)
        self.company.leave(job.id)

    def _put_all_back(self) -> None:
        handed_back: list[str] = []
        try:
            handed_back = self.jobs.put_back(self.queue, self.worker)
        except redis.RedisError as error:
            log.error("jobs cannot be handed back: %s", error, extra={"worker": self.worker})
        for job_id in handed_back:
            log.info("job handed back", extra={"job": job_id, "worker": self.worker})
        for one in list(self.running.values()):
            self._leave(one.job)
            if one.job.id in handed_back:  # else it may have ended with this result
                one.discard()
