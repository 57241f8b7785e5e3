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
