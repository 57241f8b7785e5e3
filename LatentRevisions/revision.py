"""The state of one job of LatentRevisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from LatentRevisions.first_latents import AnyDraughtsman
from LatentRevisions.losses import MeanSquaredDistance, Similarity
from LatentRevisions.masking import Masked
from LatentRevisions.story import Chapters
from mead.nn.cutouts import Cutouts
from mead.nn.losses import Sum
from mead.revision import Revision


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

    @property
    def noise_level(self) -> float:
        """The level that the prior expects now: it falls by the same factor with each step of a chapter."""
        first, last = self.noise
        done = self.step / self.steps if self.chapters is None else self.chapters.done(self.step)
        return first * float((last / first) ** done)

    def seen(self, picture: Tensor) -> Tensor:
        """What CLIP sees of a picture [1, 3, H, W]: through a mask, over the starter."""
        return picture if self.masked is None else self.masked.over(picture)

    def enlarge(self, picture: Image.Image) -> Iterator[Image.Image | None]:
        """As `Revision.enlarge`; what the mask keeps of the starter stays."""
        if self.masked is None or self.upscaler is None or self.upscale == 1:
            return super().enlarge(picture)
        return self.masked.enlarge(picture, self.upscaler, self.upscale)
