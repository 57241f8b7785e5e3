"""VQGAN's group normalisation, with a backward pass of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from LatentRevisions import group_norm_kernels as kernels
from mead.nn.kernels import FORMATS
from mead.nn.modulation import plain_multiply_add

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What the backward pass needs: the features, the weights, and three more, which differ between devices."""


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Saved]:
    """x [N, C, H, W] normalised in groups of channels, and its SiLU if `swish`; without gradients."""
    if _has_kernels(x):
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, rstd, lines = kernels.forward(x, weight, bias, groups, eps, swish)
        return y, (x, weight, mean, rstd, lines)
    y, mean, rstd = _normalise(x, weight, bias, groups, eps)
    return F.silu(y, inplace=True) if swish else y, (x, weight, mean, rstd, bias)


def gradients(grad: Tensor, skipped: Tensor | None, saved: Saved, swish: bool) -> tuple[Tensor, Tensor]:
    """The gradients of x, and of weight and bias for each sample, [N, 2, C].

    Args:
        grad: that of the result.
        skipped: one of x by another way, which is added.
        saved: by `normalise`.
    """
    x, weight, mean, rstd, last = saved
    if _has_kernels(x):
        grad = grad.contiguous(memory_format=torch.channels_last)
        if skipped is not None:
            skipped = skipped.contiguous(memory_format=torch.channels_last)
        return kernels.backward(grad, skipped, x, weight, mean, rstd, last, swish)
    grad_x, grads = _backward(grad, x, weight, last, mean, rstd, swish)
    return grad_x if skipped is None else grad_x.add_(skipped), grads


def _has_kernels(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[1] % kernels.LANES == 0


class _Normalise(torch.autograd.Function):
    """It keeps only the features that come in."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
    ) -> Tensor:
        y, saved = normalise(x, weight, bias, groups, eps, swish)
        ctx.save_for_backward(*saved)
        ctx.swish = swish
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grads = gradients(grad, None, ctx.saved_tensors, ctx.swish)
        grad_weight, grad_bias = grads.sum(0) if any(ctx.needs_input_grad[1:3]) else (None, None)
        return grad_x, grad_weight, grad_bias, None, None, None


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    swish: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x, and of weight and bias for each sample, [N, 2, C]."""
    n, channels, height, width = x.shape
    grouped = (-1, mean.shape[1], channels // mean.shape[1])  # of what is about channels
    weight, bias, mean, rstd = weight.view(grouped), bias.view(grouped), mean[..., None], rstd[..., None]
    factor = weight * rstd
    if swish:
        y = plain_multiply_add(x, factor.flatten(1), (bias - mean * factor).flatten(1))
        grad = torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=y)
    # With h = (x - mean) * rstd, g = weight * grad, and <> the mean over a group:
    # grad_x = rstd * (g - <g> - h * <g * h>)
    grad_bias = grad.sum((2, 3), dtype=torch.float32).view(grouped)
    grad_x = grad * x  # as a buffer for now
    grad_weight = (grad_x.sum((2, 3), dtype=torch.float32).view(grouped) - grad_bias * mean) * rstd
    minus_rstd = rstd / -(grouped[2] * height * width)
    slope = (weight * grad_weight).sum(2, keepdim=True) * rstd * minus_rstd
    offset = (weight * grad_bias).sum(2, keepdim=True) * minus_rstd - slope * mean
    slope, offset = (each.to(x.dtype).expand_as(factor).flatten(1) for each in (slope, offset))
    plain_multiply_add(x, slope, offset, out=grad_x)
    grad_x.addcmul_(grad, factor.to(x.dtype).view(n, channels, 1, 1))
    return grad_x, torch.stack([grad_weight.flatten(1), grad_bias.flatten(1)], 1)


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalised, and the mean and inverse deviation of its groups, [N, groups] each.

    PyTorch's own would rearrange channels-last features twice.
    """
    n, channels, height, width = x.shape
    grouped = x.permute(0, 2, 3, 1).reshape(n, height * width, groups, channels // groups)
    mean = grouped.mean((1, 3), dtype=torch.float32)
    norm = torch.linalg.vector_norm(grouped, dim=(1, 3), dtype=torch.float32)
    variance = norm.square() / (grouped[0].numel() // groups) - mean.square()
    rstd = (variance.clamp_min(0) + eps).rsqrt()
    factor = weight * rstd.repeat_interleave(channels // groups, 1)
    summand = bias - mean.repeat_interleave(channels // groups, 1) * factor
    y = torch.empty_like(x)
    torch.addcmul(summand[:, :, None, None], x, factor[:, :, None, None], out=y)  # in float32
    return y, mean, rstd


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups as published, unless VQGAN's `norm_groups` says otherwise.

    Args:
        swish: whether a SiLU follows.
    """

    def __init__(self, channels: int, swish: bool = False) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=1e-6)
        self.swish = swish

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W], normalised."""
        if x.device.type == "cpu" and x.dtype not in FORMATS:
            y = super().forward(x)
            return F.silu(y) if self.swish else y
        weight, bias = self.weight.float(), self.bias.float()
        return _Normalise.apply(x, weight, bias, self.num_groups, self.eps, self.swish)

    def compute(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The same without gradients, and what `gradient` needs."""
        weight, bias = self.weight.float(), self.bias.float()
        return normalise(x, weight, bias, self.num_groups, self.eps, self.swish)

    def gradient(self, grad: Tensor, skipped: Tensor | None, saved: Saved) -> Tensor:
        """The gradient of x, for that of the result; `skipped` is added."""
        return gradients(grad, skipped, saved, self.swish)[0]
