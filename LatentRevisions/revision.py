"""The state of one job of LatentRevisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

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
    cutouts: Cutouts
    hints: Tensor | None  # what the prior is told, [1, hints]; None if it is not used
    shown: Tensor | None  # what the prior is told of the starter picture, [d]
    guidance: float
    noise: tuple[float, float]  # levels that the prior expects at the start and after the last step
    first: Tensor  # latents of the starter picture or wherever it starts, without noise
    masked: Masked | None  # what of the starter picture stays
    draughtsman: AnyDraughtsman | None  # draws learned starts, if the weights set has the network
    scheduled: int = field(init=False)  # the steps of the schedule; further ones go on at its end

    def __post_init__(self) -> None:
        self.scheduled = self.steps

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
    def planned(self) -> int:
        """As `Revision.planned`."""
        falls = self.hints is not None and self.noise[0] != self.noise[1]
        return self.scheduled if falls or self.chapters is not None else self.steps

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
