"""Face identity: an IR-SE50 network whose features are close for pictures of the same person.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019 (arXiv
1801.07698), in the state-dict layout of TreB1eN/InsightFace_Pytorch, which StyleCLIP and e4e use. e4e
has the same trunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, count, shape
from StyleCLIP.frozen_identity import FrozenIdentity

WIDTHS = (64, 128, 256, 512)  # of the four stages of IR-SE50
BLOCKS = (3, 4, 14, 3)
WHOLE = 256  # side of the pictures that faces are cut out of
FACE = (35, 223, 32, 220)  # top, bottom, left and right of the face in an FFHQ-aligned picture of that side


class SqueezeExcitation(nn.Module):
    """Scale each channel by what all channels' means say about it."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Bottleneck(nn.Module):
    """Improved residual block with squeeze and excitation (IR-SE); a stride of two halves the sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if in_channels != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcitation(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "shortcut_layer"):
            shortcut = self.shortcut_layer(x)
        else:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        return self.res_layer(x) + shortcut


def trunk(widths: Sequence[int], blocks: Sequence[int]) -> tuple[nn.Sequential, nn.Sequential]:
    """Make `input_layer` and `body` of an IR-SE network.

    Together they turn pictures [N, 3, S, S] into features [N, widths[-1], S', S']: each stage halves the
    sides in its first block, so S' is S / 2**stages.

    Args:
        widths: channels of each stage, the first also of the input layer.
        blocks: residual blocks of each stage.

    Raises:
        ValueError: for widths that do not match blocks, or that repeat: the state dict would not show where
            a stage begins.
    """
    if len(widths) != len(blocks) or any(a == b for a, b in pairwise(widths)):
        raise ValueError(
            f"stages need one width each, unlike the one before: widths {widths}, blocks {blocks}"
        )
    input_layer = nn.Sequential(
        nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
    )
    body = nn.Sequential()
    channels = widths[0]
    for width, n in zip(widths, blocks, strict=True):
        for i in range(n):
            body.append(Bottleneck(channels, width, stride=2 if i == 0 else 1))
            channels = width
    return input_layer, body


def trunk_layout(state_dict: StateDict) -> tuple[list[int], list[int]]:
    """Read the widths and the blocks of each stage off a state dict with `input_layer` and `body`."""
    widths = [shape(state_dict, "input_layer.0.weight")[0]]
    blocks = [0]
    for i in range(count(state_dict, "body.")):
        width = shape(state_dict, f"body.{i}.res_layer.1.weight")[0]
        if width != widths[-1]:
            widths.append(width)
            blocks.append(0)
        blocks[-1] += 1
    return widths, blocks


class Identity(nn.Module):
    """Face [N, 3, S, S] in [-1, 1] -> features [N, embed_dim] of unit length.

    Args:
        widths, blocks: the stages, see `trunk`.
        embed_dim: length of the features.
        input_size: S.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        embed_dim: int = 512,
        input_size: int = 112,
    ) -> None:
        super().__init__()
        if input_size % 2 ** len(widths):
            raise ValueError(f"input_size must be a multiple of {2 ** len(widths)}, not {input_size}")
        self.input_size = input_size
        self.embed_dim = embed_dim
        input_layer, body = trunk(widths, blocks)
        side = input_size // 2 ** len(widths)
        self.input_layer = input_layer
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, embed_dim),
            nn.BatchNorm1d(embed_dim),
        )
        self.body = body

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Identity:
        """Build the network that `state_dict` holds, of any depth and widths.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        widths, blocks = trunk_layout(state_dict)
        embed_dim, in_features = shape(state_dict, "output_layer.3.weight")
        side = math.isqrt(in_features // widths[-1])
        if side == 0 or side * side * widths[-1] != in_features:
            raise StateDictError(
                f"output_layer.3.weight takes {in_features} features, body gives {widths[-1]} channels"
            )
        input_size = side * 2 ** len(widths)
        return build(lambda: cls(widths, blocks, embed_dim, input_size), state_dict)

    def forward(self, face: Tensor) -> Tensor:
        if face.shape[-2:] != (self.input_size, self.input_size):
            raise ValueError(f"faces must be {self.input_size} pixels square, not {tuple(face.shape[-2:])}")
        features = self.output_layer(self.body(self.input_layer(face)))
        return F.normalize(features.float(), dim=1)

    def of_face(self, image: Tensor) -> Tensor:
        """FFHQ-aligned face [N, 3, S, S] in [-1, 1], of any side -> unit features [N, embed_dim]."""
        return self(crop(image, self.input_size))

    def freeze(self, dtype: torch.dtype) -> FrozenIdentity:
        """The same network, computing in `dtype` and faster; this one cannot be used any more."""
        return FrozenIdentity(self, dtype)


def crop(image: Tensor, side: int) -> Tensor:
    """The face [N, 3, side, side] in an FFHQ-aligned picture [N, 3, S, S] of any side, as published."""
    whole = image.shape[-1]
    if whole > WHOLE:
        image = F.adaptive_avg_pool2d(image, WHOLE)
        whole = WHOLE
    top, bottom, left, right = (round(edge * whole / WHOLE) for edge in FACE)
    face = image[:, :, top:bottom, left:right]
    if face.shape[-1] < side:  # where pooling would repeat pixels
        return F.interpolate(face, (side, side), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(face, side)
