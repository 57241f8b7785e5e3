"""Attention, as each device computes it best."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mead.nn.threads import own_threads


def attend(queries: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v, of [..., positions, d] each; if `causal`, of no positions after a query's own.

    On a GPU it is written out: the backward passes of PyTorch's fused attention add up in any order there,
    and a seed would not give the same picture twice.
    """
    if queries.is_cuda:
        similarities = queries @ keys.mT / math.sqrt(queries.shape[-1])
        if causal:
            similarities = similarities + torch.full_like(similarities, -math.inf).triu(1)
        return similarities.float().softmax(-1).to(values.dtype) @ values
    if queries.dtype == torch.bfloat16 and not causal:
        return _Attention.apply(queries, keys, values)
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)


class _Attention(torch.autograd.Function):
    """Written out as products of matrices, which do not depend on the batch or the number of threads.

    In bfloat16 on the CPU, PyTorch's fused attention takes two to six times as long, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scale = 1 / math.sqrt(queries.shape[-1])
        q, k, v = queries.flatten(0, -3) * scale, keys.flatten(0, -3), values.flatten(0, -3)
        ctx.shapes, ctx.scale = (queries.shape, keys.shape, values.shape), scale
        with _threads(queries):
            weights = torch.bmm(q, k.mT).softmax(-1)
            ctx.save_for_backward(q, k, v, weights)
            return torch.bmm(weights, v).view(*queries.shape[:-1], values.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        with _threads(grad):
            grad = grad.flatten(0, -3)
            grad_v = torch.bmm(weights.mT, grad)
            of_weights = torch.bmm(grad, v.mT)
            of_similarities = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            grad_q, grad_k = torch.bmm(of_similarities, k) * ctx.scale, torch.bmm(of_similarities.mT, q)
        grads = (grad_q, grad_k, grad_v)
        return tuple(one.view(shape) for one, shape in zip(grads, ctx.shapes, strict=True))


def _threads(queries: Tensor) -> AbstractContextManager[None]:
    """One thread for a single head of [..., heads, positions, d], all of PyTorch's for several.

    Each thread has heads of its own then. Those that share one may divide its sums, which changes how they
    round.
    """
    return own_threads(1) if queries.shape[-3] == 1 else nullcontext()
