"""The state of one job of LatentRevisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.first_latents import AnyDraughtsman
from LatentRevisions.losses import MeanSquaredDistance, Similarity
from LatentRevisions.masking import Masked
from LatentRevisions.story import Chapters
from mead.nn.cutouts import Cutouts
from mead.nn.losses import Sum
from mead.revision import Revision
from mead.revision_state import common_state, restore_common


@dataclass(eq=False, kw_only=True)
class LatentRevision(Revision):
    """A picture being optimised: its latents are z [1, embed_dim, height / factor, width / factor]."""

    target: Tensor  # q, the embedding [d] of unit length to move towards
    objective: Sum
    towards: Similarity  # the part of the objective that is about the target
    further: Sequence[tuple[Similarity, Tensor]]  # the other guides', and their targets [chapters, d]
    anchor: MeanSquaredDistance  # the part of the objective that is about the first latents
    chapters: Chapters | None  # what the target becomes, if there is a story
    coming: Tensor | None = None  # where the chapter starts, to which the latents go as it begins
    last_cutouts: Cutouts  # of the last step
    first_cutouts: int  # how many the first step has
    half: int = 0  # the steps at half the size, until they are taken
    patience: int = 0  # steps; 0: it takes all of them
    full_steps: int  # how many are taken before they shrink
    step_decay: float  # the power with which they do
    hints: Tensor | None  # what the prior is told, [1, hints]; None if it is not used
    shown: Tensor | None  # what the prior is told of the starter picture, [d]
    guidance: float
    noise: tuple[float, float]  # levels that the prior expects at the start and after the last step
    first: Tensor  # latents of the starter picture or wherever it starts, without noise
    masked: Masked | None  # what of the starter picture stays
    draughtsman: AnyDraughtsman | None  # draws learned starts, if the weights set has the network
    scheduled: int = field(init=False)  # the steps of the schedule; further ones go on at its end
    _losses: list[float] = field(default_factory=list)  # of as many steps as are compared to end early

    def __post_init__(self) -> None:
        self.scheduled = self.steps

    @property
    def cutouts(self) -> Cutouts:
        """How the next step's are drawn. Their number goes evenly from the first step's to the last one's."""
        last = self.last_cutouts.hyperparameters.cutouts
        done = min(1.0, self.step / max(1, self.scheduled - 1))
        return self.last_cutouts.of(round(self.first_cutouts + (last - self.first_cutouts) * done))

    @property
    def noise_level(self) -> float:
        """The level that the prior expects now: it falls by the same factor with each step of a chapter."""
        first, last = self.noise
        if self.chapters is None:
            done = min(1.0, self.step / self.scheduled)
        else:
            done = self.chapters.done(self.step)
        return first * float((last / first) ** done)

    @property
    def most_latents(self) -> int:
        """As `Revision.most_latents`."""
        return self.latents.numel() * (4 if self.half else 1)

    @property
    def planned(self) -> int:
        """As `Revision.planned`."""
        more_cutouts = self.first_cutouts != self.last_cutouts.hyperparameters.cutouts
        by_schedule = self.noise_falls or self.chapters is not None or more_cutouts
        return self.scheduled if by_schedule else self.steps

    @property
    def noise_falls(self) -> bool:
        """Whether the prior expects less noise with each step."""
        return self.hints is not None and self.noise[0] != self.noise[1]

    def size_of(self, step: int) -> float:
        """How large a step is, counted from 1, as a share of those before they shrink.

        They shrink so that the picture converges: steps of full size raise CLIP's score further, but lead
        away from what drawings look like. Jobs from noise and stories have a schedule of their own instead.
        """
        if self.noise_falls or self.chapters is not None or step <= self.full_steps:
            return 1.0
        return float((self.full_steps / step) ** self.step_decay)

    def shrink_step(self) -> None:
        """Prepare the optimiser for the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] *= self.size_of(self.step + 1) / self.size_of(self.step)

    @torch.no_grad()
    def grow(self) -> None:
        """Go on at twice the width and height, with all that is known of the picture so far.

        A latent now has a quarter of the influence on the loss, and so have the optimiser's moments.
        """

        def grown(grid: Tensor) -> Tensor:
            return F.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)

        before, self.half = self.latents, 0
        self.latents = grown(before).requires_grad_()
        self.first = grown(self.first)
        self.anchor.first = grown(self.anchor.first)
        self.coming = None if self.coming is None else grown(self.coming)
        moments = self.optimiser.state.pop(before, {})
        self.optimiser.param_groups[0]["params"] = [self.latents]
        if moments:
            self.optimiser.state[self.latents] = {
                "step": moments["step"],
                "exp_avg": grown(moments["exp_avg"]) / 4,
                "exp_avg_sq": grown(moments["exp_avg_sq"]) / 16,
            }

    def end_if_settled(self) -> None:
        """End early if the loss has not fallen, on average, in the last `patience` steps.

        Never while a schedule runs: noise would be left in the picture, or a chapter of the story out.
        """
        if not self.patience or self.noise_falls or (self.chapters and self.step < self.scheduled):
            return
        self._losses = [*self._losses, self.loss][-2 * self.patience :]
        before, now = self._losses[: -self.patience], self._losses[-self.patience :]
        if len(before) == self.patience and sum(now) >= sum(before):
            self.steps = self.scheduled = self.step
            if self.timelapse is not None:
                self.timelapse.end(self.step)

    def take_more(self, steps: int) -> None:
        """As `Revision.take_more`."""
        super().take_more(steps)
        self.patience = 0

    def state(self) -> dict[str, Tensor]:
        """As `Revision.state`."""
        state = common_state(self)
        state["scheduled"] = torch.tensor(self.scheduled)
        state["noise"] = torch.tensor((*self.noise, self.guidance), dtype=torch.float64)
        if self.chapters is not None:  # which move what the picture stays close to
            state["anchor"] = self.anchor.first
            state |= {} if self.coming is None else {"coming": self.coming}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another revision has ended, of the same parameters but for the number of steps.

        Args:
            state: of `state`.

        Raises:
            LookupError, ValueError, RuntimeError: it is not that of such a revision.
        """
        if self.half:
            self.grow()
        restore_common(self, state)
        self.scheduled = int(state["scheduled"])
        first, last, self.guidance = state["noise"].tolist()
        self.noise = (first, last)
        if self.chapters is not None:
            self.chapters.steps = self.scheduled
            self.anchor.first = state["anchor"].to(self.latents.device)
            self.coming = state["coming"].to(self.latents.device) if "coming" in state else None

    def seen(self, picture: Tensor) -> Tensor:
        """What CLIP sees of a picture [1, 3, H, W]: through a mask, over the starter."""
        return picture if self.masked is None else self.masked.over(picture)

    def enlarge(self, picture: Image.Image) -> Iterator[Image.Image | None]:
        """As `Revision.enlarge`; what the mask keeps of the starter stays."""
        if self.masked is None or self.upscaler is None or self.upscale == 1:
            return super().enlarge(picture)
        return self.masked.enlarge(picture, self.upscaler, self.upscale)
