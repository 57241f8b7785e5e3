"""How cutouts are drawn, as a manifest gives it. Apart from `mead.nn.cutouts`, which needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CutoutHyperparameters:
    """Number and distribution of the cutouts of a step; the defaults are those of Latent Revisions.

    Lengths are in units of the picture's shorter side. The sides of the cutouts are drawn from a normal
    distribution clipped to [cutout_smallest, cutout_largest].
    """

    cutouts: int = 32
    cutout_mean: float = 1.2
    """Mean of the sides."""
    cutout_deviation: float = 0.3
    """Standard deviation of the sides."""
    cutout_smallest: float = 0.43
    cutout_largest: float = 1.9
    cutout_degrees: float = 24.0
    """Largest rotation, in either direction."""
    cutout_shift: float = 0.1
    """Largest shift, in units of the padded picture's sides."""
    cutout_noise: float = 0.11
    """Largest standard deviation of the noise added to a cutout."""
