"""A scale and a bias per channel, as normalisation and modulation apply them to feature maps.

It has its own backward pass: PyTorch's reduction of broadcast gradients is slow on the CPU for channels-last
bfloat16 features and sums in bfloat16. Here the sums are always float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def multiply_add(x: Tensor, factor: Tensor, summand: Tensor | None = None) -> Tensor:
    """x [N, C, H, W] times factor [N, C] plus summand [N or 1, C], in the dtype of x."""
    return _MultiplyAdd.apply(x, factor, summand)


def plain_multiply_add(x: Tensor, factor: Tensor, summand: Tensor | None = None) -> Tensor:
    """The same without autograd, for hand-written backward passes."""
    factor = factor[:, :, None, None].to(x.dtype)
    if summand is None:
        return x * factor
    return torch.addcmul(summand[:, :, None, None].to(x.dtype), x, factor)


class _MultiplyAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, summand: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, factor)
        ctx.summands = 0 if summand is None else len(summand)
        return plain_multiply_add(x, factor, summand)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        (grad,) = grads
        grad_x = plain_multiply_add(grad, factor) if ctx.needs_input_grad[0] else None
        grad_factor = (grad * x).sum((2, 3), dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_summand = None
        if ctx.needs_input_grad[2]:
            grad_summand = grad.sum((2, 3), dtype=torch.float32)
            if ctx.summands == 1:
                grad_summand = grad_summand.sum(0, keepdim=True)
        return grad_x, grad_factor, grad_summand
