"""e4e: the encoder that inverts a face to StyleGAN2's codes w+.

Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", SIGGRAPH 2021 (arXiv 2102.02766), in the
state-dict layout of omertov/encoder4editing. A feature pyramid over the IR-SE trunk feeds one small
network for each code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, count, shape
from StyleCLIP.identity import BLOCKS, WIDTHS, trunk, trunk_layout
from StyleCLIP.stylegan2 import EqualLinear

STAGES = 4  # of the trunk; the ends of the last three feed the pyramid


class StyleBlock(nn.Module):
    """Features [N, in_channels, 2**halvings, 2**halvings] -> one code [N, style_dim]."""

    def __init__(self, in_channels: int, style_dim: int, halvings: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for i in range(halvings):
            self.convs.append(nn.Conv2d(style_dim if i else in_channels, style_dim, 3, stride=2, padding=1))
            self.convs.append(nn.LeakyReLU())
        self.linear = EqualLinear(style_dim, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Encoder4Editing(nn.Module):
    """FFHQ-aligned face [N, 3, S, S] in [-1, 1] -> codes [N, n_styles, style_dim] minus the average code.

    Args:
        input_size: S, a power of two from 32 up.
        n_styles: number of codes, the generator's `n_latent`.
        style_dim: length of a code.
        widths, blocks: the four stages of the trunk, see `StyleCLIP.identity.trunk`.
        coarse, middle: how many codes, from the first, read the coarse features, and how many after them the
            middle ones; all others read the fine ones.
    """

    def __init__(
        self,
        input_size: int = 256,
        n_styles: int = 18,
        style_dim: int = 512,
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        coarse: int = 3,
        middle: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) != STAGES:
            raise ValueError(f"widths must be those of {STAGES} stages, not {list(widths)}")
        if input_size < 2 ** (STAGES + 1) or input_size & (input_size - 1):
            raise ValueError(
                f"input_size must be a power of two from {2 ** (STAGES + 1)} up, not {input_size}"
            )
        if coarse < 1 or middle < 0 or coarse + middle > n_styles:
            raise ValueError(f"coarse {coarse} and middle {middle} do not divide {n_styles} styles")
        self.input_size = input_size
        self.n_styles = n_styles
        self.style_dim = style_dim
        self.coarse = coarse
        self.middle = middle
        self.input_layer, self.body = trunk(widths, blocks)
        halvings = int(math.log2(input_size)) - STAGES  # from the coarse features, the trunk's output, to 1x1
        levels = [0] * coarse + [1] * middle + [2] * (n_styles - coarse - middle)
        self.styles = nn.ModuleList(StyleBlock(widths[3], style_dim, halvings + level) for level in levels)
        self.latlayer1 = nn.Conv2d(widths[2], widths[3], 1)
        self.latlayer2 = nn.Conv2d(widths[1], widths[3], 1)
        self._taps = [sum(blocks[: i + 1]) - 1 for i in range(1, STAGES)]

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Encoder4Editing:
        """Build the network that `state_dict` holds (the published file has it under the prefix `encoder.`).

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        widths, blocks = trunk_layout(state_dict)
        if len(widths) != STAGES:
            raise StateDictError(f"body has {len(widths)} stages (channels {widths}), not {STAGES}")
        n_styles = count(state_dict, "styles.")
        style_dim = shape(state_dict, "styles.0.linear.weight")[0]
        halvings = [count(state_dict, f"styles.{i}.convs.") for i in range(max(1, n_styles))]
        input_size = 2 ** (halvings[0] + STAGES)
        coarse, middle = (halvings.count(halvings[0] + level) for level in (0, 1))
        return build(lambda: cls(input_size, n_styles, style_dim, widths, blocks, coarse, middle), state_dict)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"pictures must be {self.input_size} pixels square, not {tuple(image.shape[-2:])}"
            )
        x = self.input_layer(image)
        taps = []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in self._taps:
                taps.append(x)
        fine, middle, coarse = taps
        middle = _upsample_to(coarse, middle.shape[2:]) + self.latlayer1(middle)
        fine = _upsample_to(middle, fine.shape[2:]) + self.latlayer2(fine)
        features = [coarse] * self.coarse + [middle] * self.middle
        features += [fine] * (len(self.styles) - len(features))
        # The first code is that of the whole face, the others are offsets from it.
        first, *deltas = (style(x) for style, x in zip(self.styles, features, strict=True))
        return torch.stack([first, *(first + delta for delta in deltas)], 1)


def _upsample_to(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
