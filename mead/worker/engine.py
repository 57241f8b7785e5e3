"""The engine: runs one model's jobs, from the queue to their results.

Before each step the engine claims queued jobs while it has room, so a new job never waits for a batch to end.
Then it advances all of its jobs by one step together, and reports their progress.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Generic, Literal

import redis
import torch

from mead.log import reason
from mead.nn.threads import end_threads
from mead.params import JobParams, ParamsError, check
from mead.queue.heartbeats import EngineLoad
from mead.queue.job import Job, JobProgress
from mead.queue.jobs import Jobs
from mead.queue.redis_errors import explain
from mead.resuming import FIELD, Origin, ResumingPipeline, resume
from mead.revision import Pipeline, R, picture_of, start
from mead.storage import Storage, StorageUnavailableError
from mead.worker.active_job import PATIENCE, STORE_PAUSE, ActiveJob, reason_of
from mead.worker.admission import AdmissionControl
from mead.worker.batch import Batch
from mead.worker.cancelled import CancelledPictures
from mead.worker.memory import Room

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0  # seconds between two attempts while Redis is away
UNAVAILABLE_SHARE = 1 / 4  # of the time that waiting for an unavailable storage may take from running jobs


class Engine(Generic[R]):
    """Runs the jobs of one queue on one pipeline, up to `capacity` at a time.

    A job that fails (as it starts, in a step, when its picture is rendered or stored) fails alone. So does a
    job whose loss or picture is not finite, or that takes too long. When memory runs out, the batch shrinks
    until a job has ended. While Redis is away the jobs pause; their state and results are kept, and reported
    when it is back.

    Args:
        pipeline: the loaded networks.
        params: the model that reads a job's parameters.
        jobs: the jobs in Redis.
        storage: where results and previews are written, and the files of ended jobs removed.
        queue: the queue's name.
        worker: the worker's name. Nothing else may claim jobs of `queue` under it.
        capacity: the most jobs in a batch.
        pause: seconds to wait for a job at a time, and first pause while Redis is away.
        admission: shared by all engines of the process; by default the engine is the only one.
        max_job_seconds: the longest a job may take, without pauses while Redis is away; 0: no limit.
        notes_on: what to note in the record of a job with these parameters.
        check_steps: raises ParamsError if a job with these parameters takes too many steps; called once it
            has started, since that may depend on its pictures.
        weights: the weights set as records have it (`mead.provenance.recorded_weights`); jobs that were
            checked against another set fail.
        chunks_of: the text chunks of the picture's PNG, by keyword, of a job with these parameters, and so
            many steps and further ones (see `mead.provenance`).
        origin: what makes latents here; None: no job can go on here.
        latents_ttl: seconds that those of jobs that succeed are kept, so that they can go on; 0: not at all.
        room: for the jobs' steps in memory; None: it is not foreseen.
        in_a_pass: the most jobs that are advanced in one pass; None: all.
    """

    def __init__(
        self,
        pipeline: Pipeline[R],
        *,
        params: type[JobParams],
        jobs: Jobs,
        storage: Storage,
        queue: str,
        worker: str,
        capacity: int = 1,
        pause: float = 1.0,
        admission: AdmissionControl | None = None,
        max_job_seconds: int = 0,
        notes_on: Callable[[JobParams], tuple[str, ...]] = lambda params: (),
        check_steps: Callable[[JobParams, int], None] = lambda params, steps: None,
        weights: Mapping[str, str] | None = None,
        chunks_of: Callable[..., Mapping[str, str]] = lambda params, steps, further: {},
        origin: Origin | None = None,
        latents_ttl: int = 0,
        room: Room | None = None,
        in_a_pass: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.params = params
        self.jobs = jobs
        self.storage = storage
        self.queue = queue
        self.worker = worker
        self.batch: Batch[R] = Batch(pipeline, capacity, {"queue": queue, "worker": worker}, room, in_a_pass)
        self.pause = pause
        self.admission = admission or AdmissionControl()
        self.max_job_seconds = max_job_seconds
        self.notes_on = notes_on
        self.check_steps = check_steps
        self.weights = weights or {}
        self.chunks_of = chunks_of
        self.origin = origin
        self.latents_ttl = latents_ttl
        self.cancelled = CancelledPictures(jobs, storage)
        self.writers = ThreadPoolExecutor(2 * capacity + 2, "storage")  # threads start when needed
        self._admit_after = float("-inf")  # time.monotonic; set when uploads could not be read
        self._measured = (time.monotonic(), 0)  # when `load` was called last, and the steps done by then

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then finish the current step and hand all jobs back."""
        pause = self.pause
        while not stop.is_set():
            try:
                if not self.batch.jobs:
                    end_threads()  # or another engine's steps would be slower
                    stop.wait(self._admit_after - time.monotonic())
                    self._wait_for_work()
                self.step()
                waiting = self.batch.jobs.values()
                if waiting and not any(active.has_work for active in waiting):  # to be stored
                    stop.wait(STORE_PAUSE)
                pause = self.pause
            except redis.RedisError as error:
                extra = {"queue": self.queue, "worker": self.worker, "error": reason(error), "pause": pause}
                log.warning(explain(error), extra=extra)
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self.hand_back()

    def step(self) -> None:
        """Claim jobs while there is room, advance all by one step, and report. Does not wait for jobs.

        Raises:
            redis.RedisError: when Redis is away. Nothing is lost; call again later.
        """
        self.admit()
        self.batch.advance()
        for active in self.batch.jobs.values():
            active.take_frame(self.pipeline)
            active.check_time(self.max_job_seconds)
        self.report()

    def load(self) -> EngineLoad:
        """How busy the engine is. The speed is measured since the last call. Not thread-safe."""
        now, steps = time.monotonic(), self.batch.steps_done
        then, before = self._measured
        self._measured = (now, steps)
        speed = (steps - before) / max(now - then, 1e-3)
        return EngineLoad(
            running=len(self.batch.jobs), capacity=self.batch.capacity, steps_per_second=round(speed, 3)
        )

    # Starting jobs

    def admit(self) -> None:
        """Claim and start jobs while the queue has some and the batch has room."""
        while not self.batch.is_full and time.monotonic() >= self._admit_after:
            job = self.admission.admit(
                self.queue, lambda alone: self.jobs.claim(self.queue, self.worker, alone=alone)
            )
            if job is None:
                return
            self._start(job)
        self.admission.cancel_reservation(self.queue)

    def _wait_for_work(self) -> None:
        """Wait until the engine may claim a job and the queue has one, each for `pause` seconds at most."""
        if self.admission.wait(self.queue, min(self.pause, LONGEST_PAUSE)):
            self.jobs.wait_for_work(self.queue, self.pause)

    def _start(self, job: Job) -> None:
        began = time.monotonic()
        log.info("job started", extra={"job": job.id, "worker": self.worker, "attempts": job.attempts})
        try:
            self._check_weights(job)
            params = check(self.params, self.storage.parameters(job))
            revision = start(self.pipeline, params, self._beginning(job))
            notes = self.notes_on(params.model_copy(update={"n": job.n})) + revision.notes
            self.check_steps(params, revision.steps)
            chunks = partial(self._chunks, params, revision)
            if not self.batch.has_room_for(revision):
                raise torch.OutOfMemoryError("no room beside the running jobs")
        except torch.OutOfMemoryError as error:
            if not self.batch.jobs:
                self._fail(job, error)
                return
        except StorageUnavailableError as error:
            self._requeue_for_storage(job, error, time.monotonic() - began)
            return
        except ValueError as error:  # the parameters are wrong
            self._fail(job, error, "input")
            return
        except Exception as error:
            self._fail(job, error)
            return
        else:
            seconds = time.monotonic() - began
            origin = self.origin if self.latents_ttl else None
            self.batch.add(ActiveJob(job, revision, notes, revision.faces, chunks, seconds, origin=origin))
            return
        self._requeue_for_memory(job)  # outside the `except` block: its traceback keeps tensors in memory

    def _beginning(self, job: Job) -> Callable[[JobParams], R] | None:
        """What begins a job that goes on with another one's latents; None for other jobs.

        Raises:
            ParamsError: no job can go on here.
            OSError: they cannot be read.
        """
        if job.latents is None:
            return None
        if self.origin is None or not isinstance(self.pipeline, ResumingPipeline):
            raise ParamsError(FIELD, "no job can go on here", out_of_range=True)
        latents = self.storage.read_upload(job, job.latents)
        return partial(resume, self.pipeline, content=latents, here=self.origin)

    def _chunks(self, params: JobParams, revision: R) -> Mapping[str, str]:
        """The text chunks of a finished job's PNG."""
        further = revision.steps - revision.planned
        return self.chunks_of(params, revision.steps, further=further)

    def _check_weights(self, job: Job) -> None:
        """Raises RuntimeError if the job was checked against another weights set."""
        own = self.weights.get("weights", job.weights)
        if job.weights not in (None, own):
            raise RuntimeError(f"it was accepted for the weights {job.weights!r}, not for {own!r}")
        digests = {job.weights_digest, self.weights.get("weights_digest")} - {None, ""}
        if len(digests) > 1:
            extra = {"job": job.id, "worker": self.worker, "weights": own}
            log.warning("the weights have changed since the job was accepted", extra=extra)

    def _requeue_for_memory(self, job: Job) -> None:
        """Hand back a job that does not fit beside the running ones; it may fit later."""
        self._release(job)
        self.batch.shrink(len(self.batch.jobs))
        self.jobs.requeue(self.queue, self.worker, [job.id])

    def _requeue_for_storage(self, job: Job, error: StorageUnavailableError, took: float) -> None:
        """Hand back a job whose uploads cannot be read now, and claim none for a while."""
        pause = max(STORE_PAUSE, took / UNAVAILABLE_SHARE)
        extra = {
            "job": job.id,
            "worker": self.worker,
            "error": reason(error.__cause__ or error),
            "pause": pause,
        }
        log.warning("uploads cannot be read; trying again", extra=extra)
        self._admit_after = time.monotonic() + pause
        self._release(job)
        self.jobs.requeue(self.queue, self.worker, [job.id])

    # Reporting and ending jobs

    def report(self) -> None:
        """Store finished pictures, report progress, and end the jobs that have finished or failed."""
        for active in self.batch.jobs.values():
            if active.revision.finished and active.result is None and active.error is None:
                active.store(self.pipeline, self.storage, self.writers)
        reported = set(self.batch.jobs)
        reply = self.jobs.report(self.queue, self.worker, self._progress())
        for active in self.batch.jobs.values():
            active.notes = active.faces = ()  # the record has them
        for job_id in reply.lost:
            self._drop(self.batch.jobs[job_id])
        for active in list(self.batch.jobs.values()):
            self._end_or_preview(active, active.job.id in reply.watched)
        # Jobs that were claimed, but Redis's answer was lost. The next claim takes them.
        if unknown := [job_id for job_id in reply.held if job_id not in reported]:
            self.jobs.requeue(self.queue, self.worker, unknown)

    def _progress(self) -> list[JobProgress]:
        return [
            JobProgress(
                job_id,
                active.revision.step,
                active.revision.steps,
                active.revision.loss,
                active.notes,
                active.faces,
            )
            for job_id, active in self.batch.jobs.items()
        ]

    def _end_or_preview(self, active: ActiveJob[R], watched: bool) -> None:
        if active.error is not None:
            is_input = isinstance(active.error, ParamsError)
            self._fail(active.job, active.error, "input" if is_input else "internal")
        elif active.result is not None:
            self._succeed(active, active.result)
        elif watched:
            active.preview(self.pipeline, self.storage, self.writers)

    def _succeed(self, active: ActiveJob[R], result: Path) -> None:
        stored = active.result_bytes, active.latents_bytes, self.latents_ttl
        if self.jobs.succeed(active.job, self.worker, result.name, *stored):
            self._succeeded(active)
        else:
            self._drop(active)

    def _succeeded(self, active: ActiveJob[R]) -> None:
        extra = {"job": active.job.id, "worker": self.worker, "steps": active.revision.step}
        log.info("job succeeded", extra=extra)
        self._release(active.job)
        self._cleanup(active.job, keep_uploads=active.latents_bytes > 0)

    def _fail(self, job: Job, error: Exception, kind: Literal["input", "internal"] = "internal") -> None:
        why = str(error) if kind == "input" else reason_of(error)
        try:
            ended = self.jobs.fail(job, self.worker, why, kind, getattr(error, "field", None))
        except redis.RedisError:
            if job.id not in self.batch.jobs:  # it failed as it started; `report` will requeue it
                self._release(job)
            raise
        self._release(job)
        if ended:
            log.log(
                logging.INFO if kind == "input" else logging.ERROR,
                "job failed",
                extra={"job": job.id, "worker": self.worker, "error": why},
                exc_info=error if kind == "internal" else None,
            )
            self._cleanup(job, keep_uploads=kind == "internal")

    def _drop(self, active: ActiveJob[R]) -> None:
        """Drop a job that the worker no longer holds: cancelled, recovered by another worker, or deleted.

        If the record names our own result, the job has succeeded, and only the answer was lost.
        """
        job = active.job
        outcome = self.jobs.outcomes([job.id]).get(job.id)
        out_path = outcome.out_path if outcome else None
        if active.result is not None and Path(out_path or "").name == active.result.name:
            self._succeeded(active)
            return
        log.info("job dropped", extra={"job": job.id, "worker": self.worker})
        self._release(job)
        active.discard(self.storage)
        if outcome is not None and outcome.status == "cancelled":
            self._keep_so_far(active)
        if outcome is None or outcome.ended:
            self._cleanup(job, keep_uploads=outcome is not None and outcome.needs_uploads)

    def _keep_so_far(self, active: ActiveJob[R]) -> None:
        """Store the last picture of a cancelled job, if there is one."""
        if active.revision.step == 0 or active.error is not None:
            return
        try:
            picture = active.picture or picture_of(self.pipeline, active.revision)
        except Exception as error:  # it is only a picture that nobody waits for
            log.warning("no picture of a cancelled job", extra={"job": active.job.id, "error": reason(error)})
            return
        wait([self.writers.submit(self.cancelled.store, active.job.id, picture)], PATIENCE)

    def _cleanup(self, job: Job, keep_uploads: bool = False) -> None:
        wait([self.writers.submit(self.storage.cleanup, job, keep_uploads)], PATIENCE)

    def _release(self, job: Job) -> None:
        self.batch.remove(job.id)
        self.admission.release(job.id)

    def hand_back(self) -> None:
        """Put all jobs back at the front of the queue."""
        handed_back: list[str] = []
        try:
            handed_back = self.jobs.requeue(self.queue, self.worker)
        except redis.RedisError as error:
            log.error("jobs cannot be handed back: %s", error, extra={"worker": self.worker})
        for job_id in handed_back:
            log.info("job handed back", extra={"job": job_id, "worker": self.worker})
        for active in list(self.batch.jobs.values()):
            self._release(active.job)
            if active.job.id in handed_back:  # otherwise the job may have ended with this result
                active.discard(self.storage)
