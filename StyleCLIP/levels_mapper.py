"""A latent mapper for one edit: moves a face's StyleGAN2 codes there, in one pass.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021 (arXiv 2103.17249),
section 5, in the state-dict layout of orpatashnik/StyleCLIP. Coarse, medium and fine codes have a mapping
network each.

The published networks scale each number by its root mean square over a level's codes. e4e's codes differ
little from each other there, so that leaves of a number hardly more than its sign. That says enough of FFHQ's
faces, and nothing where no number changes its sign from face to face, as in the demo set. So a file may have
a mean and a deviation instead, and codes are standardised by them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, count, shape
from StyleCLIP.stylegan2 import SQRT2, EqualLinear, PixelNorm

LEVELS = {"course_mapping": slice(0, 4), "medium_mapping": slice(4, 8), "fine_mapping": slice(8, None)}
"""Which codes each network maps; the published files spell the first like that."""
STEP = 0.1  # how far a face goes along what the networks say
LR_MUL = 0.01


class FusedLinear(EqualLinear):
    """A linear layer and its activation, for any number of leading axes."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (self.lr_mul / self.weight.shape[1] ** 0.5)
        return F.leaky_relu(F.linear(x, weight, self.bias * self.lr_mul), 0.2) * SQRT2


class Standardise(nn.Module):
    """Codes [..., style_dim] in deviations from their mean."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, style_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(style_dim))
        self.register_buffer("deviation", torch.ones(style_dim))

    def forward(self, codes: Tensor) -> Tensor:
        return (codes - self.mean) / self.deviation


class LevelMapper(nn.Module):
    """The codes of a level [N, codes, style_dim] -> the way they go, of the same shape.

    Args:
        layers: linear ones.
        standardised: whether codes are standardised, and not scaled to a mean square of one over the level.
    """

    def __init__(self, style_dim: int, layers: int, standardised: bool = False) -> None:
        super().__init__()
        linear = (FusedLinear(style_dim, style_dim, lr_mul=LR_MUL) for _ in range(layers))
        first = Standardise(style_dim) if standardised else PixelNorm()
        self.mapping = nn.Sequential(first, *linear)

    def forward(self, codes: Tensor) -> Tensor:
        way: Tensor = self.mapping(codes)
        return way

    @torch.no_grad()
    def standardise(self, codes: Tensor) -> None:
        """Take mean and deviation from the codes [..., style_dim] of many faces."""
        first, codes = self.mapping[0], codes.flatten(0, -2)
        assert isinstance(first, Standardise)
        first.mean.copy_(codes.mean(0))
        first.deviation.copy_(codes.std(0))


class LevelsMapper(nn.Module):
    """Codes w+ [N, n_latent, style_dim] -> edited codes.

    Args:
        style_dim: length of a code.
        layers: for each of LEVELS that has a network, its linear layers. Codes of other levels stay.
        standardised: see `LevelMapper`.
    """

    def __init__(self, style_dim: int, layers: Mapping[str, int], standardised: bool = False) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.levels = tuple(layers)
        for level, number in layers.items():
            self.add_module(level, LevelMapper(style_dim, number, standardised))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> LevelsMapper:
        """Build the network that `state_dict` holds (a published file has it under the prefix `mapper.`).

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        layers = {level: count(state_dict, f"{level}.mapping.") for level in LEVELS}
        layers = {level: number for level, number in layers.items() if number}
        if not layers:
            raise StateDictError(f"the state dict has none of {', '.join(LEVELS)}")
        first = f"{next(iter(layers))}.mapping"
        style_dim = shape(state_dict, f"{first}.1.weight")[-1]
        standardised = f"{first}.0.mean" in state_dict
        if standardised:  # which is counted as one
            layers = {level: number - 1 for level, number in layers.items()}
        return build(lambda: cls(style_dim, layers, standardised), state_dict)

    def forward(self, codes: Tensor) -> Tensor:
        return codes + STEP * self.offset(codes)

    def offset(self, codes: Tensor) -> Tensor:
        """Ten times the way that codes go, as the networks say it."""
        way = torch.zeros_like(codes)
        for level in self.levels:
            way[:, LEVELS[level]] = self.get_submodule(level)(codes[:, LEVELS[level]])
        return way
