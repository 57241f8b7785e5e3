"""The identity network, frozen: the same features in one number format, and in fewer operations.

Batch normalisation is part of the layer after or before it, but where zero padding comes between them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mead.nn.modulation import multiply_add


class FrozenBottleneck(nn.Module):
    """Normalisation, two convolutions, squeeze and excitation, and a residual connection.

    Args:
        block: a `StyleCLIP.identity.Bottleneck`, whose weights it takes over.
    """

    factor: Tensor
    summand: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        norm, self.conv1, self.prelu, conv2, norm2, excitation = block.res_layer
        factor, summand = _affine(norm)
        self.register_buffer("factor", factor[:, None, None])
        self.register_buffer("summand", summand[:, None, None])
        self.conv2 = fuse_conv_bn_eval(conv2, norm2)
        self.fc1, self.fc2 = excitation.fc1, excitation.fc2
        self.stride: int = block.stride
        self.shortcut: nn.Module | None = None
        if hasattr(block, "shortcut_layer"):
            self.shortcut = fuse_conv_bn_eval(*block.shortcut_layer)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        h = torch.addcmul(self.summand, x, self.factor)
        h = self.conv2(self.prelu(self.conv1(h)))
        means = h.mean((2, 3), keepdim=True)
        gates = self.fc2(F.relu_(self.fc1(means))).sigmoid().flatten(1)
        x = x[:, :, :: self.stride, :: self.stride] if self.shortcut is None else self.shortcut(x)
        return multiply_add(h, gates) + x


class FrozenIdentity(nn.Module):
    """Face [N, 3, S, S] in [-1, 1] -> features [N, embed_dim] of unit length, in float32.

    Args:
        identity: a `StyleCLIP.identity.Identity`, whose weights it takes over.
        dtype: the number format to compute in.
    """

    @torch.no_grad()
    def __init__(self, identity: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.input_size: int = identity.input_size
        identity.eval()
        conv, norm, self.prelu = identity.input_layer
        self.conv = fuse_conv_bn_eval(conv, norm)
        self.body = nn.Sequential(*map(FrozenBottleneck, identity.body))
        norm, _, _, layer, norm2 = identity.output_layer
        factor, summand = _affine(norm)  # of each channel, before all its pixels are mixed
        weight = layer.weight.unflatten(1, (len(factor), -1))
        bias = layer.bias + (weight.sum(2) * summand).sum(1)
        layer.weight, layer.bias = nn.Parameter((weight * factor[:, None]).flatten(1)), nn.Parameter(bias)
        self.linear = fuse_linear_bn_eval(layer, norm2)
        self.requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)

    def forward(self, face: Tensor) -> Tensor:
        with torch.autocast(face.device.type, enabled=False):
            x = face.to(self.conv.weight.dtype, memory_format=torch.channels_last)
            x = self.body(self.prelu(self.conv(x)))
            return F.normalize(self.linear(x.flatten(1)).float(), dim=1)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What batch normalisation multiplies by and adds, for each channel."""
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor
