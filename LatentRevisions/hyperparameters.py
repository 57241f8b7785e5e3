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
    upscale: int = 1
    """How many times as wide and high the finished picture is made, if the set has an upscaler."""

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels, from `size`."""
        width, height = split_size(self.size)
        return int(width), int(height)
