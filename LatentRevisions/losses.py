"""LatentRevisions' losses."""

from __future__ import annotations

from torch import Tensor, nn


class Similarity(nn.Module):
    """weight · cos(Iᵢ, t) for each i, [N], of embeddings I [N, d] and a target t [d], of unit length"""

    target: Tensor

    def __init__(self, target: Tensor, weight: float) -> None:
        super().__init__()
        self.register_buffer("target", target)
        self.weight = weight

    def forward(self, embeddings: Tensor) -> Tensor:
        # Scaled before the product, not by `Scale` after it: that would round differently, and seeds would
        # no longer give the pictures they have always given.
        return self.weight * embeddings @ self.target


class MeanSquaredDistance(nn.Module):
    """mean (z - z₀)², of latents z and the first ones, [1, embed_dim, h, w]"""

    first: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.register_buffer("first", first)

    def forward(self, latents: Tensor) -> Tensor:
        return (latents - self.first).square().mean()


class TotalVariation(nn.Module):
    """mean |∂ₓ| + mean |∂ᵧ|, of a picture [1, 3, H, W], between neighbouring pixels

    Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992.
    """

    def forward(self, picture: Tensor) -> Tensor:
        return picture.diff(dim=3).abs().mean() + picture.diff(dim=2).abs().mean()
