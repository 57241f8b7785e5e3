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
from mead.nn.vectors import LANES

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What the backward pass needs: the features, the weights, mean and inverse deviation of the groups,
[N, groups], and what each channel was multiplied by and what was added then, [N, 2, C]."""


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Saved]:
    """x [N, C, H, W] normalised in groups of channels, and its SiLU if `swish`; without gradients."""
    if _has_kernels(x):
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, rstd, lines = kernels.forward(x, weight, bias, groups, eps, swish)
    else:
        y, mean, rstd, lines = _forward(x, weight, bias, groups, eps, swish)
    return y, (x, weight, mean, rstd, lines)


def gradients(grad: Tensor, skipped: Tensor | None, saved: Saved, swish: bool) -> tuple[Tensor, Tensor]:
    """The gradients of x, and of weight and bias for each sample, [N, 2, C].

    Args:
        grad: that of the result.
        skipped: one of x by another way, which is added.
        saved: by `normalise`.
    """
    x, weight, mean, rstd, lines = saved
    if _has_kernels(x):
        grad = grad.contiguous(memory_format=torch.channels_last)
        if skipped is not None:
            skipped = skipped.contiguous(memory_format=torch.channels_last)
        return kernels.backward(grad, skipped, x, weight, mean, rstd, lines, swish)
    grad_x, grads = _backward(grad, x, weight, mean, rstd, lines, swish)
    return grad_x if skipped is None else grad_x.add_(skipped), grads


def _has_kernels(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[1] % LANES == 0


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


# --- Where there are no kernels, as on a GPU: in few operations, since launching them takes most of the time


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `kernels.forward`. PyTorch's own would rearrange channels-last features twice."""
    n, channels, height, width = x.shape
    grouped = x.permute(0, 2, 3, 1).reshape(n, height * width, groups, channels // groups)
    mean = grouped.mean((1, 3), dtype=torch.float32)
    norm = torch.linalg.vector_norm(grouped, dim=(1, 3), dtype=torch.float32)
    square = (norm * norm).mul_(groups / grouped[0].numel())
    rstd = square.addcmul_(mean, mean, value=-1).clamp_min_(0).add_(eps).rsqrt_()
    weight, bias = weight.view(groups, -1), bias.view(groups, -1)
    lines = torch.empty(n, 2, *weight.shape, dtype=torch.float32, device=x.device)
    torch.mul(rstd[..., None], weight, out=lines[:, 0])
    torch.addcmul(bias, mean[..., None], lines[:, 0], value=-1, out=lines[:, 1])
    lines = lines.flatten(2)
    factor, summand = lines[..., None, None].unbind(1)
    y = torch.empty_like(x)
    torch.addcmul(summand, x, factor, out=y)  # in float32
    return F.silu(y, inplace=True) if swish else y, mean, rstd, lines


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, lines: Tensor, swish: bool
) -> tuple[Tensor, Tensor]:
    """As `kernels.backward`."""
    n, channels, height, width = x.shape
    groups = mean.shape[1]
    factor, summand = lines.to(x.dtype)[..., None, None].unbind(1)
    if swish:
        y = torch.addcmul(summand, x, factor)
        grad = torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=y)
    # With h = (x - mean) * rstd, g = weight * grad, and <> the mean over a group:
    # grad_x = rstd * (g - <g> - h * <g * h>)
    grad_x = grad * x  # as a buffer for now
    grads = torch.stack([each.sum((2, 3), dtype=torch.float32) for each in (grad_x, grad)], 1)
    of_weight, of_bias = grads.view(n, 2, groups, -1).unbind(1)
    of_weight.addcmul_(of_bias, mean[..., None], value=-1).mul_(rstd[..., None])
    sums = (grads * weight).view(n, 2, groups, -1).sum(3) * rstd[:, None]
    slope, offset = sums.mul_(-groups / (channels * height * width)).unbind(1)
    slope.mul_(rstd)
    offset.addcmul_(slope, mean, value=-1)
    sums = sums.to(x.dtype)[..., None].expand(-1, -1, -1, channels // groups).flatten(2)
    slope, offset = sums[..., None, None].unbind(1)
    torch.addcmul(offset, x, slope, out=grad_x)
    return grad_x.addcmul_(grad, factor), grads


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
