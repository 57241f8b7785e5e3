"""LatentRevisions' hyperparameters. The caching server reads them too, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.params import split_size

Way = Literal["noise", "learned", "starter", "changed", "masked"]


class Beginning(NamedTuple):
    """What depends on where the optimisation starts."""

    learning_rate: float
    init_weight: float
    noise: float
    """Deviation of the noise that the denoiser looks for at first; 0: it is not used."""
    guidance: float


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(CutoutHyperparameters):
    """What a weights set's manifest may set for this model; the defaults are the published values."""

    iterations: int = 100
    size: str = "512x512"
    start: str = "noise"
    starter_start: str = "latents"
    """Where a starter picture's optimisation starts: at its "latents", or "changed", with what the target
    says drawn into them by the learned start, if that can draw the picture again."""
    masked_start: str = "starter"
    """Where what a mask lets change starts: "starter", "noise" or "learned"."""
    patience: int = 0
    """Steps in which the loss must have fallen, on average, or a job ends early if it leaves its number of
    steps to the set; 0: all are taken."""
    step_decay: float = 0.0
    """Power with which steps beyond `iterations` shrink, unless the denoiser still expects noise to fall: the
    n-th is (iterations / n) ** step_decay as long; 0: none shrinks."""
    half_size: float = 0.0
    """Share of the steps, from noise, that are taken at half the width and height."""
    first_cutouts: int = 0
    """Cutouts of the first step, whose number goes evenly to `cutouts` in the last; 0: as many from the first
    on."""
    learning_rate: float = 0.5
    start_candidates: int = field(default=4, metadata={"formerly": "starts"})
    """Learned starts drawn; the one CLIP finds nearest to the target is taken."""
    story_start: str = "latents"
    """Where each text of a story starts: "latents", where the one before has led, or "learned", at a learned
    start in the scene so far."""
    masked_candidates: int = 16
    """Learned starts drawn for what a mask lets change; of those that fit the rest, `start_candidates` are
    tried."""
    learned_start_rate: float = 0.5
    """Learning rate from a learned start, which is nearer to its goal."""
    starter_rate: float = 0.5
    """Learning rate from a starter picture, of which something should remain."""
    changed_rate: float = 0.5
    """Learning rate from a starter picture with what the target says drawn into it."""
    masked_rate: float = 0.5
    """Learning rate from a starter picture of which a mask keeps a part."""
    weight_decay: float = 0.1
    towards: float = 10.0
    """Weight of the cosine to the target."""
    away: float = 5.0
    """Weight of the cosine to a text no picture should look like."""
    upscale: int = 1
    """How many times as wide and high the finished picture is made, if the set has an upscaler."""

    init_weight: float = 0.0
    """Weight of the mean squared distance from the first latents, where the start is noise."""
    learned_start_init_weight: float = 0.0
    """The same from a learned start."""
    starter_init_weight: float = 0.0
    """The same from a starter picture."""
    changed_init_weight: float = 0.0
    """The same from one with what the target says drawn into it."""
    masked_init_weight: float = 0.0
    """The same from a starter picture with a mask."""
    tv_weight: float = 0.0
    """Weight of the picture's total variation."""
    denoise: float = 0.2
    """Part of the way to the denoiser's output that latents go after each step, from 0 to 1."""
    sharpen: float = 0.0
    """How much of the latents' difference from their surroundings is added to the denoiser's output, which is
    a mean of what there may be and so softer."""
    guidance: float = 1.0
    """How much what the target says counts for the denoiser, where the start is noise."""
    learned_start_guidance: float = 1.0
    """The same from a learned start."""
    starter_guidance: float = 1.0
    """The same from a starter picture."""
    changed_guidance: float = 1.0
    """The same from one with what the target says drawn into it."""
    starter_hint: float = 0.0
    """How much of what a starter picture shows the denoiser is told beside the target."""
    masked_guidance: float = 1.0
    """The same from a starter picture with a mask."""
    noise_first: float = 0.0
    """Deviation of the noise that the denoiser looks for at first, where the start is noise; 0: it is not
    used."""
    learned_start_noise: float = 0.0
    """The same from a learned start."""
    starter_noise: float = 0.0
    """The same from a starter picture."""
    changed_noise: float = 0.0
    """The same from one with what the target says drawn into it."""
    masked_noise: float = 0.0
    """The same from a starter picture with a mask."""
    mask_feather: float = 1 / 32
    """Width of the soft border inside a mask, in shorter sides of the picture."""
    noise_last: float = 0.1
    """The same after the last step; in between the level falls by the same factor with each step."""

    def way(self, asked: str | None, *, has_starter: bool, has_mask: bool, has_learned_start: bool) -> Way:
        """How a job starts; with a mask, in what that lets change.

        Args:
            asked: the job's own `start`.
            has_learned_start: whether the set has the network; it may lack that of its own start.
        """
        if has_starter and not has_mask:
            return "starter"
        own = self.masked_start if has_mask else self.start
        if own == "learned" and not has_learned_start:
            own = "starter" if has_mask else "noise"
        ways: dict[str, Way] = {"learned": "learned", "starter": "starter"}
        return ways.get(asked or own, "noise")

    def beginning(self, way: Way) -> Beginning:
        """What holds for one way to start."""
        if way == "starter":
            return Beginning(
                self.starter_rate, self.starter_init_weight, self.starter_noise, self.starter_guidance
            )
        if way == "changed":
            return Beginning(
                self.changed_rate, self.changed_init_weight, self.changed_noise, self.changed_guidance
            )
        if way == "masked":
            return Beginning(
                self.masked_rate, self.masked_init_weight, self.masked_noise, self.masked_guidance
            )
        if way == "learned":
            return Beginning(
                self.learned_start_rate,
                self.learned_start_init_weight,
                self.learned_start_noise,
                self.learned_start_guidance,
            )
        return Beginning(self.learning_rate, self.init_weight, self.noise_first, self.guidance)

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels, from `size`."""
        width, height = split_size(self.size)
        return int(width), int(height)
