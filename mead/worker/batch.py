"""The jobs that an engine advances together, and what happens when a step of them fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Generic

import torch

from mead.revision import Pipeline, R, check_loss
from mead.worker.active_job import ActiveJob
from mead.worker.memory import Room

log = logging.getLogger(__name__)


class Batch(Generic[R]):
    """The active jobs of an engine, by id, and how many of them fit in memory.

    When memory runs out, `capacity` shrinks; it grows again by one for each job that leaves, since that job
    may have been the large one.

    Args:
        pipeline: advances the jobs.
        capacity: the most jobs.
        context: fields for every log line.
        room: for their steps in memory; None: it is not foreseen, and steps may fail for want of it.
        in_a_pass: the most that are advanced in one pass; None: all.
    """

    def __init__(
        self,
        pipeline: Pipeline[R],
        capacity: int,
        context: Mapping[str, str],
        room: Room | None = None,
        in_a_pass: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.in_a_pass = in_a_pass or capacity
        self.room = room
        self.capacity = capacity
        self.full_capacity = capacity
        self.context = context
        self.jobs: dict[str, ActiveJob[R]] = {}
        self.steps_done = 0  # of all jobs together

    @property
    def is_full(self) -> bool:
        """Whether no job may be added now. The first one runs alone until its step has been measured."""
        if self.room is not None and not self.room.is_measured and self.unfinished():
            return True
        return len(self.jobs) >= self.capacity

    def has_room_for(self, revision: R) -> bool:
        """Whether a job fits in memory beside the others. One job alone is always tried."""
        if self.room is None or not self.jobs:
            return True
        return self.room.has(_latents([*(active.revision for active in self.unfinished()), revision]))

    def add(self, active: ActiveJob[R]) -> None:
        """Add a job."""
        self.jobs[active.job.id] = active

    def remove(self, job_id: str) -> None:
        """Remove a job, or note that one that was never added has ended."""
        self.jobs.pop(job_id, None)
        self.capacity = min(self.capacity + 1, self.full_capacity)

    def unfinished(self) -> list[ActiveJob[R]]:
        """The jobs that have steps left to do."""
        return [active for active in self.jobs.values() if active.is_unfinished]

    def advance(self) -> None:
        """Advance every unfinished job by one step. A job that fails gets its `error`; the others go on."""
        unfinished = self.unfinished()
        began = time.monotonic()
        most = min(self.capacity, self.in_a_pass)
        for first in range(0, len(unfinished), most):
            self._step(unfinished[first : first + most])
        took = time.monotonic() - began
        for active in unfinished:
            active.seconds += took

    def shrink(self, capacity: int) -> None:
        """Run fewer jobs at a time from now on: memory has run out."""
        self.capacity = max(1, capacity)
        log.warning(
            "no memory for more; fewer jobs in a batch until one has ended",
            extra={**self.context, "capacity": self.capacity},
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _step(self, together: Sequence[ActiveJob[R]]) -> None:
        """Advance jobs in one step; if it fails, divide them until the job at fault is alone."""
        before = [(active.revision.step, active.revision.generator.get_state()) for active in together]
        try:
            self.pipeline.step([active.revision for active in together])
        except torch.OutOfMemoryError as error:
            if len(together) == 1:
                together[0].error = error.with_traceback(None)
                return
            share = (len(together) + 1) // 2
            self.shrink(share)
        except Exception as error:
            if len(together) == 1:
                together[0].error = error
                return
            share = 1
            message = "a step of %d jobs failed (%s); stepping them one by one"
            log.warning(message, len(together), error, extra=self.context)
        else:
            self.steps_done += len(together)
            if self.room is not None:
                self.room.measure(_latents([active.revision for active in together]))
            _check_losses(together)
            return
        # Outside the `except` blocks: their tracebacks keep the failed step's tensors in memory.
        left = []
        for active, (step, state) in zip(together, before, strict=True):
            if active.revision.step == step:
                active.revision.generator.set_state(state)  # so that it draws the same numbers again
                left.append(active)
        for first in range(0, len(left), share):
            self._step(left[first : first + share])


def _latents(revisions: Sequence[R]) -> int:
    """The numbers in the latents of revisions together."""
    return sum(revision.most_latents for revision in revisions)


def _check_losses(stepped: Sequence[ActiveJob[R]]) -> None:
    for active in stepped:
        try:
            check_loss(active.revision)
        except FloatingPointError as error:
            active.error = error
