"""VQGAN's group normalisation, with a backward pass that is fast on the CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mead.nn.modulation import plain_multiply_add


class _FastBackward(torch.autograd.Function):
    """Group normalisation with a backward pass that is fast on the CPU.

    In channels-last bfloat16, PyTorch's own takes two thirds of an optimisation step, this one a sixth.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        channels, height, width = x.shape[1:]
        # one sample at a time: how PyTorch splits the sums, and so rounds them, depends on the batch size
        samples = [
            torch.native_group_norm(sample, weight, bias, 1, channels, height * width, groups, eps)
            for sample in x.split(1)
        ]
        y, mean, rstd = map(torch.cat, zip(*samples, strict=True))
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        n, channels, height, width = x.shape
        groups = mean.shape[1]
        size = channels // groups  # of a group, in channels
        mean, rstd = (stat.float().repeat_interleave(size, 1) for stat in (mean, rstd))  # [N, C]

        def over_group(per_channel: Tensor) -> Tensor:
            means = per_channel.view(n, groups, size).sum(2) / (size * height * width)
            return means.repeat_interleave(size, 1)

        # With h = (x - mean) * rstd, g = weight * grad, and <> the mean over a group:
        # grad_x = rstd * (g - <g> - h * <g * h>)
        grad_bias = grad.sum((2, 3), dtype=torch.float32)
        grad_weight = ((grad * x).sum((2, 3), dtype=torch.float32) - grad_bias * mean) * rstd
        slope = -over_group(weight * grad_weight) * rstd.square()
        offset = -over_group(weight * grad_bias) * rstd - slope * mean
        grad_x = plain_multiply_add(x, slope, offset) + plain_multiply_add(grad, weight * rstd)
        return grad_x, grad_weight.sum(0), grad_bias.sum(0), None, None


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups as published, unless VQGAN's `norm_groups` says otherwise."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return _FastBackward.apply(x, self.weight, self.bias, self.num_groups, self.eps)
