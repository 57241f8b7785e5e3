"""Attention, as each device computes it best."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
