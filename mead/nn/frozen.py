"""Frozen networks: weights in the format that they compute in, and convolutions that keep no inputs.

Under autocast, PyTorch casts every weight again in each pass, and a convolution keeps its input for a
gradient of its weights that nobody asks for.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

Network = TypeVar("Network", bound=nn.Module)


def freeze(network: Network, dtype: torch.dtype) -> Network:
    """Freeze a network in place, whose convolutions and linear layers compute in `dtype` from now on.

    Normalisations and other parameters stay as they are: PyTorch takes them in float32 beside features of any
    format, and so nothing is rounded that is not rounded under autocast.
    """
    network.requires_grad_(False).eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d:
                setattr(module, name, FrozenConv2d(child, dtype))
            elif type(child) in (nn.Linear, nn.Conv1d):
                child.to(dtype)
    return network


class FrozenConv2d(nn.Module):
    """A convolution whose weights need no gradients.

    Args:
        conv: whose weights it takes over, cast to `dtype`.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = (
            None if conv.bias is None else nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        )
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H', W']."""
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        return _Convolution.apply(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.how = x.shape, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.shape, weight, grad, *ctx.how), *[None] * 6
