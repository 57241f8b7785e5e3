"""The batch loop: one model's jobs, from the queue to their results.

Between any two steps the engine takes waiting jobs while it has room, so that a new job never waits for a
batch to end. Then it advances all of them by one step, together, and reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal

import redis
import torch
from pydantic import BaseModel

from mead.files import remove
from mead.job import Job
from mead.jobs import Jobs, Load, NotAloneError, Progress
from mead.log import reason
from mead.revision import Pipeline, R
from mead.storage import Storage

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0  # seconds between two tries when Redis is away
PREVIEW_PAUSE = 1.0  # seconds between two previews of one job


class Company:
    """The jobs that run in one process, whichever engine runs them.

    A job whose worker died may have killed it, and would take down with it whatever runs beside it. So it is
    taken only when nothing else runs in the process, and nothing else is taken until it has ended.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._alone: str | None = None  # the job that runs alone
        self._waiting: str | None = None  # the queue whose next job must run alone

    def take(self, queue: str, claim: Callable[[bool], Job | None]) -> Job | None:
        """The job that `claim` gives, if `queue` may take one now. `claim` is told whether it is alone."""
        with self._changed:  # so that no two engines take jobs at once
            if not self._open(queue):
                return None
            try:
                job = claim(not self._running)
            except NotAloneError:
                self._waiting = queue
                return None
            self._waiting = None
            if job is not None:
                self._running.add(job.id)
                if job.runs_alone:
                    self._alone = job.id
            self._changed.notify_all()
            return job

    def leave(self, job_id: str) -> None:
        """A job does not run any more."""
        with self._changed:
            self._running.discard(job_id)
            if self._alone == job_id:
                self._alone = None
            self._changed.notify_all()

    def wait(self, queue: str, timeout: float) -> bool:
        """Wait until `queue` may take a job; False if it may not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open(queue), timeout)

    def _open(self, queue: str) -> bool:
        if self._alone is not None:
            return False
        return self._waiting is None or (self._waiting == queue and not self._running)


@dataclass(eq=False)
class Running(Generic[R]):
    """A job and the revision it has become."""

    job: Job
    revision: R
    result: Path | None = None  # where its picture lies, once it is finished
    error: Exception | None = None  # why it cannot go on
    previewed: float = float("-inf")  # when (time.monotonic)


class Engine(Generic[R]):
    """Runs the jobs of one queue on one pipeline, up to `capacity` in a batch.

    A job that fails (as it starts, in a step, as its picture is made or stored) fails alone. Memory that does
    not suffice makes the batch smaller. While Redis is away the jobs pause; what they have computed, results
    too, is kept and reported when it is back.

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
        company: Company | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.params = params
        self.jobs = jobs
        self.queue = queue
        self.worker = worker
        self.capacity = capacity
        self.storage = storage
        self.pause = pause
        self.company = company or Company()
        self.running: dict[str, Running[R]] = {}
        self._steps = 0  # of all jobs together
        self._measured = (time.monotonic(), 0)  # when, and how many steps had been done then

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then end the step and put all jobs back at the front of the queue."""
        pause = self.pause
        while not stop.is_set():
            try:
                # Not while another engine's job runs alone, or the queue's next one waits to.
                if not self.running and self.company.wait(self.queue, self.pause):
                    self.jobs.wait_for_work(self.queue, self.pause)
                self.turn()
                pause = self.pause
            except redis.RedisError as error:
                log.warning(
                    "Redis is away: %s",
                    error,
                    extra={"queue": self.queue, "worker": self.worker, "pause": pause},
                )
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._put_all_back()

    def turn(self) -> None:
        """Take what there is room for, advance all by a step, report: one turn, which never waits for jobs.

        Raises:
            redis.RedisError: when Redis is away; nothing is lost by calling again later.
        """
        self._admit()
        unfinished = [one for one in self.running.values() if not one.revision.finished and one.error is None]
        for first in range(0, len(unfinished), self.capacity):
            self._step(unfinished[first : first + self.capacity])
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

    def _start(self, job: Job) -> None:
        log.info("job started", extra={"job": job.id, "worker": self.worker, "attempts": job.attempts})
        out_of_memory = False
        try:
            revision = self.pipeline.start(self.params.model_validate(self.storage.parameters(job)))
        except torch.OutOfMemoryError as error:
            out_of_memory = bool(self.running)
            if not out_of_memory:
                self._fail(job, error)
                return
        except Exception as error:
            self._fail(job, error, starting=True)
            return
        if out_of_memory:  # beside the others; it may well fit later
            self._shrink(len(self.running))
            self._leave(job)
            self.jobs.put_back(self.queue, self.worker, [job.id])
            return
        self.running[job.id] = Running(job, revision)

    # Advancing them

    def _step(self, batch: Sequence[Running[R]]) -> None:
        """Advance a batch by one step; where that fails, find the job at fault by stepping fewer together."""
        revisions = [one.revision for one in batch]
        before = [(revision.step, revision.generator.get_state()) for revision in revisions]
        try:
            self.pipeline.step(revisions)
            self._steps += len(batch)
            return
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
            "out of memory; fewer jobs in a batch from now on",
            extra={"queue": self.queue, "worker": self.worker, "capacity": self.capacity},
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Reporting

    def _report(self) -> None:
        for one in self.running.values():
            if one.revision.finished and one.result is None and one.error is None:
                self._store(one)
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
                self._fail(one.job, one.error)
            elif one.result is not None:
                self._succeed(one, one.result)
            elif one.job.id in standing.watched:
                self._preview(one)
        # A claim whose answer was lost on its way: the next one shall take it.
        if unknown := [job_id for job_id in standing.held if job_id not in revisions]:
            self.jobs.put_back(self.queue, self.worker, unknown)

    def _store(self, one: Running[R]) -> None:
        """Make the finished picture. Its name is new, so that it never replaces another worker's."""
        path = self.storage.new_result_path(one.job.id)
        try:
            self.storage.write_picture(self.pipeline.image(one.revision), path)
        except Exception as error:
            one.error = error
        else:
            one.result = path

    def _preview(self, one: Running[R]) -> None:
        now = time.monotonic()
        if now - one.previewed < PREVIEW_PAUSE:
            return
        one.previewed = now
        try:
            path = self.storage.preview_path(one.job.id)
            self.storage.write_picture(self.pipeline.image(one.revision), path)
        except Exception as error:  # the job itself may yet succeed
            log.warning("no preview: %s", error, extra={"job": one.job.id, "worker": self.worker})

    def _succeed(self, one: Running[R], result: Path) -> None:
        if not self.jobs.succeed(one.job, self.worker, result.name, result.stat().st_size):
            self._drop(one)
            return
        extra = {"job": one.job.id, "worker": self.worker, "steps": one.revision.step}
        log.info("job succeeded", extra=extra)
        self._leave(one.job)
        self.storage.tidy(one.job)

    def _fail(self, job: Job, error: Exception, starting: bool = False) -> None:
        kind: Literal["input", "internal"] = "internal"
        if starting and isinstance(error, ValueError):  # what `start` says of the parameters
            kind = "input"
        why = str(error) if kind == "input" else reason_of(error)
        try:
            ours = self.jobs.fail(job, self.worker, why, kind, getattr(error, "field", None))
        except redis.RedisError:
            if starting:
                self._leave(job)  # it is put back, as one that nobody knows of
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
        """Forget a job that the worker does not hold any more: it was cancelled, or given to another."""
        log.info("job dropped", extra={"job": one.job.id, "worker": self.worker})
        self._leave(one.job)
        if one.result is not None:
            remove(one.result)
        end = self.jobs.ends([one.job.id]).get(one.job.id)
        if end is None or end.ended:
            self.storage.tidy(one.job, keep_uploads=end is not None and end.needs_uploads)

    def _leave(self, job: Job) -> None:
        self.running.pop(job.id, None)
        self.company.leave(job.id)

    def _put_all_back(self) -> None:
        try:
            for job_id in self.jobs.put_back(self.queue, self.worker):
                log.info("job handed back", extra={"job": job_id, "worker": self.worker})
        except redis.RedisError as error:
            log.error("jobs cannot be handed back: %s", error, extra={"worker": self.worker})
        for one in list(self.running.values()):
            self._leave(one.job)
            if one.result is not None:
                remove(one.result)


def reason_of(error: Exception) -> str:
    """What a job's record says of an internal error: in one line, and without this machine's folders."""
    if isinstance(error, OSError) and error.strerror:
        return f"a picture could not be read or stored: {error.strerror}"
    return reason(error)
