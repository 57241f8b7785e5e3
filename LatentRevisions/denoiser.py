"""A denoiser of VQGAN latents, given what the picture should show; `LatentRevisions.prior` uses it.

Preconditioned as in Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022
(arXiv 2206.00364).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from LatentRevisions.start import PATCH, Block
from mead.nn.state_dict import StateDict, build, count, shape

STEM = 48  # channels at the latents' own resolution
WAVES = 32  # of the noise level's encoding


class Layer(nn.Module):
    """A 3x3 convolution added to what comes in, then a transformer block, on a grid of patches."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.scale = nn.Linear(condition, 2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.block = Block(width, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, width, h, w], condition [N, condition] -> [N, width, h, w]."""
        scale, shift = self.scale(condition)[:, :, None, None].chunk(2, 1)
        h = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
        x = x + self.conv(F.silu(h * (1 + scale) + shift))
        positions = self.block(x.flatten(2).mT, condition)
        return positions.mT.unflatten(2, x.shape[2:])


class Denoiser(nn.Module):
    """Latents with noise -> the latents expected without it, given what the picture should show.

    Args:
        channels: of the latents.
        hints: length of what is known of the picture: `LearnedStart.hints` of an embedding.
        width: channels inside, a multiple of 32.
        condition: length of the condition.
        layers: number of layers.
        grid: height and width of the latents it is trained on; positions are interpolated to other sizes.
        deviation: of latents without noise.
    """

    deviation: Tensor

    def __init__(
        self,
        channels: int,
        hints: int,
        width: int,
        condition: int,
        layers: int,
        grid: tuple[int, int],
        deviation: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.tensor(deviation))
        self.hints_in = nn.Linear(hints, condition)
        self.noise_in = nn.Linear(2 * WAVES, condition)
        self.condition = nn.Linear(condition, condition)
        self.stem = nn.Conv2d(channels, STEM, 3, padding=1)
        self.patches_in = nn.Linear(STEM * PATCH**2, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, width, -(-grid[0] // PATCH), -(-grid[1] // PATCH)))
        self.layers = nn.ModuleList(Layer(width, condition) for _ in range(layers))
        self.patches_out = nn.Linear(width, STEM * PATCH**2)
        self.out = nn.Conv2d(2 * STEM, channels, 3, padding=1)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Denoiser:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        condition, hints = shape(state_dict, "hints_in.weight")
        channels = shape(state_dict, "out.bias")[0]
        _, width, height, breadth = shape(state_dict, "places")
        shape(state_dict, "deviation")
        grid = (PATCH * height, PATCH * breadth)
        layers = count(state_dict, "layers.")
        return build(lambda: cls(channels, hints, width, condition, layers, grid), state_dict)

    def forward(self, z: Tensor, noise: Tensor, hints: Tensor) -> Tensor:
        """Latents [N, channels, h, w] without their noise.

        Args:
            z: with noise.
            noise: its standard deviation, [N], positive.
            hints: what the picture shows, [N, hints]; zeros where nothing is known.
        """
        clean, sigma = self.deviation, noise.view(-1, 1, 1, 1)
        total = (sigma.square() + clean.square()).sqrt()
        condition = self._condition(noise, hints)
        found = self._network(z / total, condition)
        return (clean / total).square() * z + sigma * clean / total * found

    def _condition(self, noise: Tensor, hints: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(16.0), WAVES, device=noise.device))
        angles = noise.log()[:, None] / 4 * frequencies
        level = self.noise_in(torch.cat([angles.sin(), angles.cos()], 1))
        return F.silu(self.condition(F.silu(self.hints_in(hints) + level)))

    def _network(self, z: Tensor, condition: Tensor) -> Tensor:
        rows, columns = z.shape[2:]
        z = F.pad(z, (0, columns % PATCH, 0, rows % PATCH), mode="replicate")
        stem = F.silu(self.stem(z))
        h = self.patches_in(F.pixel_unshuffle(stem, PATCH).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        places = F.interpolate(self.places.float(), h.shape[2:], mode="bilinear", align_corners=False)
        h = h + places
        for layer in self.layers:
            h = layer(h, condition)
        h = F.layer_norm(h.permute(0, 2, 3, 1), h.shape[1:2])
        h = F.pixel_shuffle(self.patches_out(h).permute(0, 3, 1, 2), PATCH)
        return self.out(torch.cat([F.silu(h), stem], 1))[:, :, :rows, :columns]
