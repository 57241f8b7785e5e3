"""One job being optimised, and the loop that runs one to its end.

A *pipeline* owns a model's loaded networks and has three methods, `start`, `step` and `image`; a *revision*
is the state of one job. The Python classes and the inference server's engine use nothing else of a model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from PIL import Image

from mead.imaging.faces import FoundFace
from mead.imaging.timelapse import TimeLapse

if TYPE_CHECKING:
    from mead.upscaling import Upscaler


class Losses:
    """The losses of a step's jobs, copied to the CPU without waiting for the GPU.

    Args:
        losses: a scalar for each job.
    """

    def __init__(self, losses: Sequence[torch.Tensor]) -> None:
        stacked = torch.stack([loss.detach() for loss in losses])
        self._copy = stacked.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if stacked.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def __getitem__(self, number: int) -> float:
        """A job's loss; waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._copy[number])

    @property
    def are_late(self) -> bool:
        """Whether the GPU may still have to compute them."""
        return self._copied is not None


@dataclass(eq=False)
class Revision:
    """The state of one job. Jobs share nothing, so batching never changes a job's picture."""

    latents: torch.Tensor  # the leaf tensor being optimised, [1, ...]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator  # on the pipeline's device
    steps: int
    step: int = 0
    loss: float = float("nan")  # of the last step; on a GPU, of the one before until the job has finished
    pending: tuple[Losses, int] | None = None  # the losses of the last step, and which of them is its own
    started: float = field(default_factory=time.monotonic)
    upscaler: Upscaler | None = None  # what enlarges the finished picture
    upscale: int = 1  # how many times as wide and high
    faces: tuple[FoundFace, ...] = ()  # in the job's photo, if all of them were looked for
    notes: tuple[str, ...] = ()  # what its pictures let know, each in a sentence; see `mead.weights.notes`
    timelapse: TimeLapse | None = None  # takes pictures of the way, if the job asks for them

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def most_latents(self) -> int:
        """The most numbers that its latents have on its way: the memory of a step grows with them."""
        return self.latents.numel()

    @property
    def planned(self) -> int:
        """The steps that a job must ask for to come as far in the same way.

        Fewer than it has taken if it went on after its last step, and its way depends on their number.
        """
        return self.steps

    def take_more(self, steps: int) -> None:
        """So many further steps are to be taken, all of them."""
        self.steps += steps

    def state(self) -> dict[str, torch.Tensor] | None:
        """What it depends on beside its parameters, once it has finished; None if it cannot go on."""
        return None

    def enlarge(self, picture: Image.Image) -> Iterator[Image.Image | None]:
        """Enlarge the finished picture as the job asks, in parts.

        Yields:
            None after each part but the last, so that other work can be done meanwhile; then the picture.
        """
        if self.upscaler is None or self.upscale == 1:
            yield picture
        else:
            yield from self.upscaler.enlarge(picture, self.upscale)


R = TypeVar("R", bound=Revision)


class Pipeline(Protocol[R]):
    """A model's loaded networks.

    `start` raises ValueError or PictureError for parameters that cannot be used. `step` advances each of the
    given revisions by one step, with one forward and backward pass for all of the same size; the caller has
    to check that the losses are finite (`check_loss`). `image` raises FloatingPointError for a picture that
    is not finite.
    """

    def start(self, params: Any) -> R: ...

    def step(self, revisions: Sequence[R]) -> None: ...

    def image(self, revision: R) -> Image.Image: ...


def optimise(
    revisions: Sequence[R],
    pictures: torch.Tensor,
    loss: Callable[[R, torch.Tensor], torch.Tensor],
    scaler: torch.amp.GradScaler,
) -> None:
    """Take an optimiser step for each revision on its own loss, with one backward pass through the generator.

    Each job's loss is computed, and led back to its picture, before the next one's: what CLIP keeps for that
    is in memory once, however many jobs there are.

    Args:
        pictures: one of each revision, [N, ...], with gradients to all their latents.
        loss: the loss, a scalar, of a revision with its picture [1, ...].
        scaler: scales the losses, for float16.
    """
    losses, grads = [], []
    for revision, picture in zip(revisions, pictures.detach().split(1), strict=True):
        picture.requires_grad_()
        revision.optimiser.zero_grad()
        losses.append(loss(revision, picture))
        scaler.scale(losses[-1]).backward()
        assert picture.grad is not None
        grads.append(picture.grad.clone())  # a CUDA graph writes the next job's to the same memory
    (pictures * torch.cat(grads)).sum().backward()  # `backward(gradient)` would import sympy first
    for revision in revisions:
        scaler.step(revision.optimiser)
    scaler.update()
    _tell(revisions, Losses(losses))


def _tell(revisions: Sequence[Revision], losses: Losses) -> None:
    """Note a step. On a GPU, the loss of the step before is told, so that nobody waits for this one."""
    for number, revision in enumerate(revisions):
        revision.step += 1
        before, revision.pending = revision.pending, (losses, number)
        if before is None or revision.finished or not losses.are_late:
            before = revision.pending
        revision.loss = before[0][before[1]]


def start(pipeline: Pipeline[R], params: Any, begin: Callable[[Any], R] | None = None) -> R:
    """`pipeline.start`, with a check of its result, and the first picture of its time-lapse.

    Args:
        begin: called with the parameters instead.

    Raises:
        FloatingPointError: if the first latents are not finite.
    """
    revision = (begin or pipeline.start)(params)
    _check_latents(revision)
    steps = revision.steps - revision.step
    if params.frames > steps + 1 and "frames" not in params.without_effect():
        revision.notes += (f"{steps + 1} frames are kept, not {params.frames}: there are {steps} steps",)
    begin_timelapse(pipeline, revision, params.frames)
    return revision


def begin_timelapse(pipeline: Pipeline[R], revision: R, frames: int) -> None:
    """Begin a time-lapse of so many frames of the steps to come; of 0, none. Raises as `take_frame`."""
    revision.timelapse = TimeLapse(frames, revision.step, revision.steps) if frames else None
    take_frame(pipeline, revision)


def take_frame(pipeline: Pipeline[R], revision: R) -> None:
    """Take a picture for the time-lapse, if one is due now.

    Raises:
        FloatingPointError: if the latents or the picture are not finite.
    """
    lapse = revision.timelapse
    if lapse is not None and lapse.is_due(revision.step):
        lapse.take(picture_of(pipeline, revision))


def check_loss(revision: Revision) -> None:
    """Check that the loss of the last step is finite.

    Raises:
        FloatingPointError: if not, naming the step and the loss.
    """
    if not math.isfinite(revision.loss):
        raise FloatingPointError(f"step {revision.step} of {revision.steps}: the loss is {revision.loss}")


def picture_of(pipeline: Pipeline[R], revision: R) -> Image.Image:
    """`pipeline.image`, if the latents are finite; networks and clipping may hide that they are not.

    Raises:
        FloatingPointError: if the latents or the picture are not finite.
    """
    _check_latents(revision)
    return pipeline.image(revision)


def render(pipeline: Pipeline[R], revision: R) -> Iterator[Image.Image | None]:
    """Render the finished picture and enlarge it as the job asks, in parts.

    Yields:
        None after each part but the last, so that other work can be done meanwhile; then the picture.

    Raises:
        FloatingPointError: if the latents or the picture are not finite.
    """
    yield from revision.enlarge(picture_of(pipeline, revision))


def result_of(pipeline: Pipeline[R], revision: R) -> Image.Image:
    """The finished picture, enlarged as the job asks. Raises as `render`."""
    return next(picture for picture in render(pipeline, revision) if picture is not None)


def _check_latents(revision: Revision) -> None:
    if not revision.latents.isfinite().all():  # synchronises with the device; too slow for each step
        raise FloatingPointError(
            f"after step {revision.step} of {revision.steps}: the latents are not finite"
        )


@dataclass(frozen=True)
class Progress:
    """The progress of a job after a step."""

    step: int
    steps: int
    loss: float
    seconds: float  # since the revision started
    _render: Callable[[], Image.Image] = field(repr=False)
    variant: int = 0  # which of several pictures that are made together, from 0 on

    def image(self) -> Image.Image:
        """Render the picture so far, which takes a pass through the generator."""
        return self._render()


def progress_of(pipeline: Pipeline[R], revision: R, variant: int = 0) -> Progress:
    """The progress of `revision` at this moment."""
    seconds = time.monotonic() - revision.started
    return Progress(
        revision.step,
        revision.steps,
        revision.loss,
        seconds,
        lambda: picture_of(pipeline, revision),
        variant,
    )


def run(
    pipeline: Pipeline[R], params: Any, callback: Callable[[Progress], None] | None = None
) -> Image.Image:
    """Optimise one job from start to end; `callback` is called after each step.

    Raises:
        FloatingPointError: when a loss, the latents or the picture are not finite.
    """
    return finish(pipeline, [start(pipeline, params)], callback)[0]


def finish(
    pipeline: Pipeline[R], revisions: Sequence[R], callback: Callable[[Progress], None] | None = None
) -> list[Image.Image]:
    """Take the remaining steps of jobs, all together, and render their pictures.

    Args:
        callback: called after each step, for each job that has taken it.

    Raises:
        FloatingPointError: when a loss, the latents or a picture are not finite.
    """
    while going := {n: revision for n, revision in enumerate(revisions) if not revision.finished}:
        pipeline.step(list(going.values()))
        for n, revision in going.items():
            check_loss(revision)
            take_frame(pipeline, revision)
            if callback is not None:
                callback(progress_of(pipeline, revision, n))
    return [result_of(pipeline, revision) for revision in revisions]
