"""Where a job's optimisation starts: its first latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.aims import Aims
from LatentRevisions.drawing import Draughtsman
from LatentRevisions.feed_forward import FeedForward
from LatentRevisions.hyperparameters import Hyperparameters, Way
from LatentRevisions.masking import Masked
from LatentRevisions.mixer import Mixer
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.start import LearnedStart
from LatentRevisions.vqgan import VQGAN
from mead.imaging.tensors import to_tensor
from mead.nn.perceptor import Perceptor
from mead.params import lacking
from mead.weights.errors import WeightsError
from mead.weights.sets import WeightSet

UNLIKE = "these weights cannot draw img again, so less of the prompt may show in it"

AnyDraughtsman: TypeAlias = Draughtsman | FeedForward


@dataclass(frozen=True)
class FirstLatents:
    """Makes the first latents of jobs.

    Attributes:
        vqgan: whose latents they are.
        encode: pictures [1, 3, H, W] in [0, 1] -> latents [1, embed_dim, h, w].
        decode: the reverse.
        aims: embeds pictures and texts.
        learned_start: draws first latents for a target; None if the weights set has no such network.
        has_prior: whether a denoiser turns noise into a picture.
        hyperparameters: the weights set's.
        device: the networks'.
        notes: what a job's client should know of its start.
    """

    vqgan: VQGAN
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    aims: Aims
    learned_start: LearnedStart | Mixer | None
    has_prior: bool
    hyperparameters: Hyperparameters
    device: torch.device
    notes: list[str] = field(default_factory=list)

    def way(self, params: LatentRevisionsParams) -> Way:
        """How a job starts.

        Raises:
            ParamsError: for a learned start, if the weights set has no such network.
        """
        way = self.hyperparameters.way(
            params.start,
            has_starter=params.img_path is not None,
            has_mask=params.mask_path is not None,
            has_learned_start=self.learned_start is not None,
        )
        if way == "learned" and self.learned_start is None:
            raise lacking("start", "start")
        return way

    def draughtsman(self, prompt: str) -> AnyDraughtsman | None:
        """What draws a job's learned starts, if the weights set has the network."""
        perceptor = self.aims.perceptor
        match self.learned_start:
            case None:
                return None
            case Mixer() as mixer:
                return FeedForward(
                    mixer, self.vqgan, self.encode, self.decode, perceptor, prompt, self.device
                )
            case network:
                return Draughtsman(network, self.decode, perceptor, self.hyperparameters, self.device)

    def make(
        self,
        size: tuple[int, int],
        draughtsman: AnyDraughtsman | None,
        way: Way,
        starter: Image.Image | None,
        masked: Masked | None,
        target: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Way]:
        """First latents, [1, embed_dim, h, w], and how the job starts with them.

        Args:
            size: width and height in pixels.
            draughtsman: draws them if `way` is "learned", and what changes in a starter without a mask.
            starter: RGB, of any size.
            masked: what of the starter may change.
            target: what the picture should show, [d].
        """
        width, height = size
        grid = (height // self.vqgan.factor, width // self.vqgan.factor)
        if starter is None:
            if way == "learned" and draughtsman is not None:
                return draughtsman.draw(target, grid, generator), way
            return self._of_noise(width, height, generator), way
        fitted = ImageOps.fit(starter, size, Image.Resampling.LANCZOS)
        kept = self.encode(to_tensor(fitted).to(self.device))
        if masked is None:
            if self.hyperparameters.starter_start == "changed" and isinstance(draughtsman, Draughtsman):
                changed = self._changed(kept.float(), fitted, draughtsman, target)
                return (kept, way) if changed is None else (changed, "changed")
            return kept, way
        if way == "starter":
            return kept, way
        if way == "learned" and draughtsman is not None:
            scene = self.aims.embed_picture(starter).float()
            return draughtsman.draw_inside(masked, kept, scene, target, generator), way
        return masked.merge(self._of_noise(width, height, generator), kept), way

    def _changed(
        self, kept: Tensor, starter: Image.Image, draughtsman: Draughtsman, target: Tensor
    ) -> Tensor | None:
        """A starter's latents with what the target says drawn into them; None if it cannot be drawn again."""
        side = min(starter.size)
        middle = self.aims.embed_picture(ImageOps.fit(starter, (side, side))).float()
        changed = draughtsman.changed(kept, middle, target)
        if changed is None:
            self.notes.append(UNLIKE)
        return changed

    def _of_noise(self, width: int, height: int, generator: torch.Generator) -> Tensor:
        """Those of blurred noise."""
        first = self.encode(_blurred_noise(width, height, generator))
        if not self.has_prior:
            return first
        # the prior starts from normal noise, as the denoiser was trained on
        normal = torch.randn(first.shape, generator=generator, device=self.device)
        return first + self.hyperparameters.noise_first * normal


def _blurred_noise(width: int, height: int, generator: torch.Generator) -> Tensor:
    """The published start: dark uniform noise, blurred over 7 pixels, [1, 3, height, width] in [0, 1]."""
    noise = 0.5 * torch.rand((1, 3, height, width), generator=generator, device=generator.device)
    # the published Gaussian of deviation 14, cut off at 7 pixels, is a box filter to within 3%
    return F.avg_pool2d(F.pad(noise, (3, 3, 3, 3), mode="reflect"), 7, stride=1)


def load_start(weights: WeightSet, vqgan: VQGAN, perceptor: Perceptor) -> LearnedStart | Mixer | None:
    """The learned start of a weights set, of either kind; None if it has none.

    Raises:
        WeightsError: naming the file that is not whole, or made for other networks.
    """
    if "start" not in weights.files:
        return None
    tensors = weights.read("start")
    if "mixer.1.weight" not in tensors:
        return LearnedStart.from_state_dict(tensors)
    mixer = Mixer.from_state_dict(tensors)
    if (mixer.input_dim, mixer.channels) != (perceptor.embed_dim, vqgan.embed_dim):
        raise WeightsError(
            f"weights: in the set {weights.name!r}, start turns embeddings of {mixer.input_dim} numbers into "
            f"latents of {mixer.channels} channels; clip gives {perceptor.embed_dim} numbers and vqgan takes "
            f"{vqgan.embed_dim} channels; give the set a start made for its clip and vqgan"
        )
    return mixer
