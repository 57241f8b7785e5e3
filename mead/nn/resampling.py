"""Resampling pictures, with backward passes that add up in the same order each time.

PyTorch's own add up in any order on a GPU. The optimisation amplifies the rounding errors, and a seed would
not give the same picture twice.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PIECES = 8  # of a grid
FIXED_BITS = 30  # of the largest gradient as an integer; 2^33 of them can be added up


def sample(pictures: Tensor, grid: Tensor) -> Tensor:
    """Sample grid [N, h, w, 2] from pictures [N, C, H, W], bilinearly, as `F.grid_sample`; zeros around them.

    Coordinates are (x, y) in [-1, 1], from edge to edge. No gradients reach the grid.
    """
    if pictures.is_cuda:
        return _Sample.apply(pictures, grid)
    # one thread samples from one picture: pieces of the grid have one each, always as many, so that their
    # gradients add up in the same way by however many threads
    n, height = grid.shape[:2]
    pieces = math.gcd(PIECES, height)
    copies = pictures[:, None].expand(-1, pieces, -1, -1, -1).flatten(0, 1)
    samples = F.grid_sample(copies, grid.unflatten(1, (pieces, -1)).flatten(0, 1), align_corners=False)
    return samples.unflatten(0, (n, pieces)).transpose(1, 2).flatten(2, 3)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = pictures.shape
        return F.grid_sample(pictures, grid, align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return gradient_of_sampling(grad, grid, ctx.shape), None


def gradient_of_sampling(grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of `sample`'s pictures, of this shape, for the gradient of its result.

    It is added up in integers, whose sum does not depend on the order.
    """
    n, channels, height, width = shape
    scale = torch.exp2(FIXED_BITS - grad.abs().amax().clamp_min(1e-30).log2().ceil())
    scaled = (grad * scale).flatten(2)  # [N, C, h * w]
    x = ((grid[..., 0].flatten(1) + 1) * width - 1) / 2
    y = ((grid[..., 1].flatten(1) + 1) * height - 1) / 2
    left, top = x.floor(), y.floor()
    total = torch.zeros((n, channels, height * width), dtype=torch.int64, device=grad.device)
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            part = (scaled * (weight * inside)[:, None]).round().long()
            for picture in range(n):
                total[picture].index_add_(1, index[picture], part[picture])
    return (total.to(grad.dtype) / scale).view(shape)


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize pictures [N, C, H, W] to [N, C, *size]: bicubic, and with antialiasing where they shrink."""
    if not pictures.is_cuda:
        return F.interpolate(pictures, size, mode="bicubic", align_corners=False, antialias=True)
    down, across = (
        _weights(before, after, pictures.device)
        for before, after in zip(pictures.shape[2:], size, strict=True)
    )
    return down @ pictures.float() @ across.mT


@lru_cache(maxsize=64)
def _weights(before: int, after: int, device: torch.device) -> Tensor:
    """What each of the pixels of a row counts for each one after resizing, [after, before]."""
    rows = torch.eye(before)[None, None]
    weights = F.interpolate(rows, (after, before), mode="bicubic", align_corners=False, antialias=True)
    return weights[0, 0].to(device)
