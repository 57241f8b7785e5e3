"""LatentRevisions' hyperparameters. The caching server reads them too, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.params import split_size


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(CutoutHyperparameters):
    """What a weights set's manifest may set for this model; the defaults are the published values."""

    iterations: int = 100
    size: str = "512x512"
    start: str = "noise"
    learning_rate: float = 0.5
    start_candidates: int = field(default=4, metadata={"formerly": "starts"})
    """Learned starts drawn; the one CLIP finds nearest to the target is taken."""
    learned_start_rate: float = 0.5
    """Learning rate from a learned start, which is nearer to its goal."""
    starter_rate: float = 0.5
    """Learning rate from a starter picture, of which something should remain."""
    weight_decay: float = 0.1
    towards: float = 10.0
    """Weight of the cosine to the target."""
    away: float = 5.0
    """Weight of the cosine to a text no picture should look like."""

    init_weight: float = 0.0
    """Weight of the mean squared distance from the first latents."""
    tv_weight: float = 0.0
    """Weight of the picture's total variation."""
    denoise: float = 0.0
    """Part of the way to the denoiser's output that latents go after each step, from 0 to 1."""
    guidance: float = 1.0
    """How much what the target says counts for the denoiser."""
    noise_first: float = 1.0
    """Deviation of the noise that the denoiser looks for at first, where the start is noise."""
    learned_start_noise: float = 0.3
    """The same from a learned start."""
    starter_noise: float = 0.3
    """The same from a starter picture."""
    noise_last: float = 0.1
    """The same after the last step."""

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels, from `size`."""
        width, height = split_size(self.size)
        return int(width), int(height)
