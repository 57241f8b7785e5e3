"""Cutouts: random crops of a picture for CLIP.

As published with Latent Revisions: the picture is padded with zeros by half its side, flipped, rotated and
shifted (the same for all crops of a step), and square crops of random side and position are resized to CLIP's
input. Here that is one affine map per crop and one `grid_sample` for all crops of all pictures.
"""

from __future__ import annotations

from dataclasses import replace
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.nn.resampling import sample


class Cutouts:
    """Draws the cutouts of a step.

    Args:
        hyperparameters: how many, and their distribution.
    """

    def __init__(self, hyperparameters: CutoutHyperparameters) -> None:
        self.hyperparameters = hyperparameters

    def of(self, number: int) -> Cutouts:
        """Cutouts like these, but so many."""
        return Cutouts(replace(self.hyperparameters, cutouts=number))

    def draw(self, width: int, height: int, generator: torch.Generator) -> Tensor:
        """Draw the affine maps [cutouts, 2, 3] from a crop's coordinates to the picture's, both in [-1, 1].

        Args:
            width, height: of the picture, in pixels.
        """
        hyper = self.hyperparameters
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device) * 2 - 1

        shorter = min(width, height)
        # of the picture; filled on the device, since a copy to it would wait
        half = torch.stack([torch.full((), side / shorter / 2, device=device) for side in (width, height)])
        padded = half + 0.5
        flip = torch.sign(uniform(1))
        angle = uniform(1) * (hyper.cutout_degrees * pi / 180)
        shift = uniform(2) * hyper.cutout_shift * 2 * padded
        side = torch.randn(hyper.cutouts, generator=generator, device=device)
        side = side * hyper.cutout_deviation + hyper.cutout_mean
        side = side.clamp(hyper.cutout_smallest, hyper.cutout_largest)
        centre = uniform(hyper.cutouts, 2) * (padded - side[:, None] / 2).clamp_min(0)

        cos, sin = angle.cos(), angle.sin()
        rotation = torch.cat([cos * flip, -sin * flip, sin, cos]).view(2, 2)
        scale = (side / 2)[:, None, None] * rotation
        translation = (centre - shift) @ rotation.mT
        return torch.cat([scale, translation[:, :, None]], 2) / half[:, None]

    @staticmethod
    def cut(pictures: Tensor, maps: Tensor, side: int) -> Tensor:
        """Sample maps [N, cutouts, 2, 3] from pictures [N, 3, H, W]: crops [N * cutouts, 3, side, side].

        Crops of one picture are next to each other. A picture much larger than a crop is average-pooled
        first, so that every pixel counts.
        """
        shrink = min(pictures.shape[2:]) // side
        if shrink > 1:
            pictures = F.avg_pool2d(pictures, shrink)
        n, cutouts = maps.shape[:2]
        grid = F.affine_grid(maps.flatten(0, 1), [n * cutouts, 3, side, side], align_corners=False)
        # a picture's crops are stacked in one tall grid, which spares copies of the picture
        crops = sample(pictures, grid.view(n, cutouts * side, side, 2))
        return crops.unflatten(2, (cutouts, side)).transpose(1, 2).flatten(0, 1)

    def noise(self, side: int, generator: torch.Generator) -> Tensor:
        """Normal noise for crops, [cutouts, 3, side, side], of a standard deviation drawn for each."""
        cutouts, device = self.hyperparameters.cutouts, generator.device
        deviation = torch.rand((cutouts, 1, 1, 1), generator=generator, device=device)
        deviation = deviation * self.hyperparameters.cutout_noise
        return deviation * torch.randn((cutouts, 3, side, side), generator=generator, device=device)
