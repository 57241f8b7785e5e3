"""One job being optimised, and the loop that runs one to its end.

A *pipeline* owns a model's loaded networks and has three verbs; a *revision* is the state of one job. Whoever
drives them (the Python classes, the engine of the inference server) needs to know nothing else of a model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image


@dataclass(eq=False)
class Revision:
    """One job's state. Nothing in it is shared with another job: a batch never changes what a job becomes."""

    latents: torch.Tensor  # the leaf being optimised, [1, ...]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator  # on the pipeline's device
    steps: int
    step: int = 0
    loss: float = float("nan")
    started: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps


R = TypeVar("R", bound=Revision)


class Pipeline(Protocol[R]):
    """A model's loaded networks.

    `start` raises ValueError or PictureError for what is wrong with the parameters. `step`
    advances each of the given revisions by one, with one forward and one backward pass for all that have the
    same size; a loss that is not finite is for the caller to look at (`check_loss`). `image` raises
    FloatingPointError for a picture that is not finite.
    """

    def start(self, params: Any) -> R: ...

    def step(self, revisions: Sequence[R]) -> None: ...

    def image(self, revision: R) -> Image.Image: ...


def optimise(
    revisions: Sequence[Revision], losses: Sequence[torch.Tensor], scaler: torch.amp.GradScaler
) -> None:
    """Take an optimiser step for each revision on its own loss, a scalar, with one backward pass for all."""
    for revision in revisions:
        revision.optimiser.zero_grad()
    stacked = torch.stack(list(losses))
    scaler.scale(stacked.sum()).backward()
    for revision, loss in zip(revisions, stacked.tolist(), strict=True):
        scaler.step(revision.optimiser)
        revision.step += 1
        revision.loss = loss
    scaler.update()


def start(pipeline: Pipeline[R], params: Any) -> R:
    """`pipeline.start`, and a look at what came of it.

    Raises:
        FloatingPointError: if the first latents are not finite.
    """
    revision = pipeline.start(params)
    _check_latents(revision)
    return revision


def check_loss(revision: Revision) -> None:
    """Make sure that the step just done had a finite loss.

    Raises:
        FloatingPointError: if not, with the step and the loss.
    """
    if not math.isfinite(revision.loss):
        raise FloatingPointError(f"step {revision.step} of {revision.steps}: the loss is {revision.loss}")


def picture_of(pipeline: Pipeline[R], revision: R) -> Image.Image:
    """`pipeline.image`, of latents that are finite: networks and clipping may hide that they are not.

    Raises:
        FloatingPointError: if they, or the picture made of them, are not finite.
    """
    _check_latents(revision)
    return pipeline.image(revision)


def _check_latents(revision: Revision) -> None:
    if not revision.latents.isfinite().all():  # waits for the device, which a step must not do for this
        raise FloatingPointError(
            f"after step {revision.step} of {revision.steps}: the latents are not finite"
        )


@dataclass(frozen=True)
class Progress:
    """Where a job stands after a step."""

    step: int
    steps: int
    loss: float
    seconds: float  # since the revision started
    _render: Callable[[], Image.Image] = field(repr=False)

    def image(self) -> Image.Image:
        """Render the picture so far (one more pass through the generator)."""
        return self._render()


def progress_of(pipeline: Pipeline[R], revision: R) -> Progress:
    """The progress of `revision` at this moment."""
    seconds = time.monotonic() - revision.started
    return Progress(
        revision.step, revision.steps, revision.loss, seconds, lambda: picture_of(pipeline, revision)
    )


def run(
    pipeline: Pipeline[R], params: Any, callback: Callable[[Progress], None] | None = None
) -> Image.Image:
    """Optimise one job from start to end; `callback` is called after each step.

    Raises:
        FloatingPointError: when a loss, the latents or the picture are not finite.
    """
    return finish(pipeline, start(pipeline, params), callback)


def finish(
    pipeline: Pipeline[R], revision: R, callback: Callable[[Progress], None] | None = None
) -> Image.Image:
    """The steps that are left of a job, and its picture; `callback` is called after each step.

    Raises:
        FloatingPointError: when a loss, the latents or the picture are not finite.
    """
    while not revision.finished:
        pipeline.step([revision])
        check_loss(revision)
        if callback is not None:
            callback(progress_of(pipeline, revision))
    return picture_of(pipeline, revision)
