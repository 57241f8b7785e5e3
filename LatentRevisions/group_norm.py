"""VQGAN's group normalisation, with a backward pass that is fast on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mead.nn.modulation import plain_multiply_add

DIVIDED = 1024
"""Positions from which on PyTorch's own, channels last, divides a sample's sums among its threads."""


class _FastBackward(torch.autograd.Function):
    """Group normalisation, and a SiLU after it if `swish`, with a backward pass that is fast on the CPU.

    In channels-last bfloat16, PyTorch's own takes two thirds of an optimisation step, this one a tenth. It
    keeps only the features that come in.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
    ) -> Tensor:
        normalise = _normalise_on_gpu if x.is_cuda else _normalise
        y, mean, rstd = normalise(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps, ctx.swish = eps, swish
        return F.silu(y, inplace=True) if swish else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if not x.is_cuda and x[0, 0].numel() < DIVIDED:
            if ctx.swish:
                y, _, _ = _normalise(x, weight, bias, mean.shape[1], ctx.eps)
                grad = _silu_backward(grad, y)
            return *_native_backward(grad, x, weight, mean, rstd, needed), None, None, None
        return *_backward(grad, x, weight, bias, mean, rstd, ctx.swish, needed), None, None, None


def _native_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, needed: Sequence[bool]
) -> Sequence[Tensor | None]:
    """The gradients of x, weight and bias that are needed, by PyTorch's own, one sample at a time."""
    channels, groups = x.shape[1], mean.shape[1]
    grad = grad.contiguous(memory_format=torch.channels_last)
    samples = zip(*(each.split(1) for each in (grad, x, mean, rstd)), strict=True)
    grads = [
        torch.ops.aten.native_group_norm_backward(
            *sample, weight, 1, channels, x[0, 0].numel(), groups, needed
        )
        for sample in samples
    ]
    if len(grads) == 1:
        return grads[0]
    of_x, of_weight, of_bias = zip(*grads, strict=True)
    return (
        torch.cat(of_x),
        torch.stack(of_weight).sum(0) if needed[1] else None,
        torch.stack(of_bias).sum(0) if needed[2] else None,
    )


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    swish: bool,
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """The gradient of x, and those of weight and bias if they are needed."""
    n, channels, height, width = x.shape
    grouped = (-1, mean.shape[1], channels // mean.shape[1])  # of what is about channels
    weight, bias, mean, rstd = weight.view(grouped), bias.view(grouped), mean[..., None], rstd[..., None]
    factor = weight * rstd
    if swish:
        y = plain_multiply_add(x, factor.flatten(1), (bias - mean * factor).flatten(1))
        grad = _silu_backward(grad, y)
    # With h = (x - mean) * rstd, g = weight * grad, and <> the mean over a group:
    # grad_x = rstd * (g - <g> - h * <g * h>)
    grad_bias = _sum(grad).view(grouped)
    grad_x = grad * x  # as a buffer for now
    grad_weight = (_sum(grad_x).view(grouped) - grad_bias * mean) * rstd
    minus_rstd = rstd / -(grouped[2] * height * width)
    slope = (weight * grad_weight).sum(2, keepdim=True) * rstd * minus_rstd
    offset = (weight * grad_bias).sum(2, keepdim=True) * minus_rstd - slope * mean
    slope, offset = (each.to(x.dtype).expand_as(factor).flatten(1) for each in (slope, offset))
    plain_multiply_add(x, slope, offset, out=grad_x)
    grad_x.addcmul_(grad, factor.to(x.dtype).view(n, channels, 1, 1))
    return (
        grad_x,
        grad_weight.sum(0).flatten() if needed[1] else None,
        grad_bias.sum(0).flatten() if needed[2] else None,
    )


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalised, and the mean and inverse deviation of its groups, [N, groups] each."""
    channels, height, width = x.shape[1:]
    if x.dtype != torch.bfloat16 or height * width < DIVIDED:
        # one sample at a time: how PyTorch splits the sums, and so rounds them, depends on the batch size
        samples = [
            torch.native_group_norm(sample, weight, bias, 1, channels, height * width, groups, eps)
            for sample in x.split(1)
        ]
        y, mean, rstd = samples[0] if len(samples) == 1 else map(torch.cat, zip(*samples, strict=True))
        return y, mean, rstd
    # PyTorch's own would add up one part of the features in each of its threads
    grouped = (-1, groups, channels // groups)
    count = grouped[2] * height * width
    y = x * x  # as a buffer for now
    mean, square = (_sum(each).view(grouped).sum(2, keepdim=True) / count for each in (x, y))
    rstd = ((square - mean.square()).clamp_min(0) + eps).rsqrt()
    factor = weight.view(grouped) * rstd
    plain_multiply_add(x, factor.flatten(1), (bias.view(grouped) - mean * factor).flatten(1), out=y)
    return y, mean.flatten(1), rstd.flatten(1)


def _normalise_on_gpu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where PyTorch's own would rearrange channels-last features twice."""
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


def _silu_backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of y, in its place, for the gradient of silu(y)."""
    return torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=y)


def _sum(x: Tensor) -> Tensor:
    """The sum of each channel, [N, C] in float32, of features [N, C, H, W].

    On the CPU, PyTorch adds bfloat16 up in float32, fast, and rounds the sum; asked for a float32 sum, it
    casts all of x first. So only the sums of rows are rounded.
    """
    if x.is_cuda:
        return x.sum((2, 3), dtype=torch.float32)
    return x.permute(0, 2, 3, 1).sum(2).sum(1, dtype=torch.float32)


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups as published, unless VQGAN's `norm_groups` says otherwise.

    Args:
        swish: whether a SiLU follows.
    """

    def __init__(self, channels: int, swish: bool = False) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=1e-6)
        self.swish = swish

    def forward(self, x: Tensor) -> Tensor:
        return _FastBackward.apply(x, self.weight, self.bias, self.num_groups, self.eps, self.swish)
