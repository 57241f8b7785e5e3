"""What a weights set may say of LatentRevisions; the caching server reads it too, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a weights set says of this model; the defaults are the published values."""

    iterations: int = 100
    size: str = "512x512"
    start: str = "noise"
    learning_rate: float = 0.5
    starts: int = 4  # learned starts drawn, of which the best is taken
    learned_start_rate: float = 0.5  # the learning rate from a learned start, which has less far to go
    starter_rate: float = 0.5  # ... and from a starter picture, of which some is to be left
    weight_decay: float = 0.1
    cutouts: int = 32
    cutout_mean: float = 1.2
    cutout_deviation: float = 0.3
    cutout_smallest: float = 0.43
    cutout_largest: float = 1.9
    cutout_degrees: float = 24.0
    cutout_shift: float = 0.1
    cutout_noise: float = 0.11
    towards: float = 10.0
    away: float = 5.0

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels, as `size` gives them."""
        width, height = self.size.split("x")
        return int(width), int(height)
