"""SRVGGNetCompact: a small network that makes a picture larger, in the published layout.

Wang, Xie, Dong and Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021 (arXiv 2107.10833), in the state-dict layout of xinntao/Real-ESRGAN's `srvgg_arch`, with PReLU.
"""

from __future__ import annotations

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, count, shape


class SRVGGNetCompact(nn.Module):
    """Convolutions at the picture's own size, whose last one says what each pixel's block adds to it.

    Args:
        num_feat: channels of the convolutions.
        num_conv: convolutions between the first and the last.
        scale: how many times as wide and high the picture becomes.
        channels: of the picture.
    """

    def __init__(self, num_feat: int, num_conv: int, scale: int, channels: int = 3) -> None:
        super().__init__()
        self.num_feat = num_feat
        self.num_conv = num_conv
        self.scale = scale
        widths = [channels] + [num_feat] * (num_conv + 1)
        self.body = nn.Sequential()
        for before, width in itertools.pairwise(widths):
            self.body.append(nn.Conv2d(before, width, 3, padding=1))
            self.body.append(nn.PReLU(width))
        self.body.append(nn.Conv2d(num_feat, channels * scale**2, 3, padding=1))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> SRVGGNetCompact:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        num_feat, channels = shape(state_dict, "body.0.weight")[:2]
        last = count(state_dict, "body.") - 1
        key = f"body.{last}.weight"
        scale = math.isqrt(shape(state_dict, key)[0] // channels)
        if scale < 1:
            raise StateDictError(f"{key} has too few channels for a picture of {channels}")
        return build(lambda: cls(num_feat, last // 2 - 1, scale, channels), state_dict)

    @property
    def reach(self) -> int:
        """How many pixels away a pixel of the picture still counts."""
        return self.num_conv + 2

    def forward(self, picture: Tensor) -> Tensor:
        """Picture [N, channels, H, W] in [0, 1] -> [N, channels, scale * H, scale * W], about [0, 1]."""
        added = F.pixel_shuffle(self.body(picture), self.scale)
        return added.float() + F.interpolate(picture, scale_factor=self.scale, mode="nearest")
