"""Random crops of a picture, for CLIP to look at.

As published with Latent Revisions: the picture is padded with zeros by half its side, flipped, turned and
shifted (all crops of a step alike), and square crops of random side and place are resized to CLIP's input.
Here all of it is one affine map per crop and one `grid_sample` for all crops of all pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Cutouts:
    """How crops are drawn. Lengths are in units of the picture's shorter side.

    `number` crops; sides from a normal distribution of `mean` and `deviation` clipped to [smallest, largest];
    turns up to `degrees` either way; shifts up to `shift` of the padded picture; noise of a random strength
    up to `noise`.
    """

    number: int
    mean: float = 1.2
    deviation: float = 0.3
    smallest: float = 0.43
    largest: float = 1.9
    degrees: float = 24.0
    shift: float = 0.1
    noise: float = 0.11
    flip: bool = True

    def draw(self, width: int, height: int, generator: torch.Generator) -> Tensor:
        """Draw the affine maps [number, 2, 3] from a crop's places to the picture's, both in [-1, 1]."""
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device) * 2 - 1

        shorter = min(width, height)
        half = torch.tensor([width, height], device=device) / shorter / 2  # of the picture
        padded = half + 0.5
        flip = torch.sign(uniform(1)) if self.flip else torch.ones(1, device=device)
        angle = uniform(1) * (self.degrees * pi / 180)
        shift = uniform(2) * self.shift * 2 * padded
        side = torch.randn(self.number, generator=generator, device=device) * self.deviation + self.mean
        side = side.clamp(self.smallest, self.largest)
        centre = uniform(self.number, 2) * (padded - side[:, None] / 2).clamp_min(0)

        cos, sin = angle.cos(), angle.sin()
        turn = torch.cat([cos * flip, -sin * flip, sin, cos]).view(2, 2)
        scale = (side / 2)[:, None, None] * turn
        place = (centre - shift) @ turn.mT
        return torch.cat([scale, place[:, :, None]], 2) / half[:, None]

    def cut(self, pictures: Tensor, maps: Tensor, side: int) -> Tensor:
        """Cut maps [N, number, 2, 3] out of pictures [N, 3, H, W]: crops [N * number, 3, side, side].

        They come picture by picture. A picture much larger than a crop is first averaged down, so that no
        pixel is passed over.
        """
        shrink = min(pictures.shape[2:]) // side
        if shrink > 1:
            pictures = F.avg_pool2d(pictures, shrink)
        n, number = maps.shape[:2]
        grid = F.affine_grid(maps.flatten(0, 1), [n * number, 3, side, side], align_corners=False)
        # the crops of a picture stand below each other in one grid, so that the picture need not be repeated
        crops = F.grid_sample(pictures, grid.view(n, number * side, side, 2), align_corners=False)
        return crops.unflatten(2, (number, side)).transpose(1, 2).flatten(0, 1)

    def add_noise(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Add normal noise to crops [number, 3, side, side], each of its own strength."""
        strength = torch.rand((len(crops), 1, 1, 1), generator=generator, device=crops.device) * self.noise
        return crops + strength * torch.randn(crops.shape, generator=generator, device=crops.device)
