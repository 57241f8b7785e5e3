"""StyleCLIP's losses."""

from __future__ import annotations

from torch import Tensor, nn


class CosineDistance(nn.Module):
    """meanᵢ (1 - cos(Iᵢ, t)), of embeddings I [N, d] and a target t [d], of unit length"""

    target: Tensor

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.register_buffer("target", target)

    def forward(self, embeddings: Tensor) -> Tensor:
        return (1 - embeddings @ self.target).mean()


class SquaredDistance(nn.Module):
    """‖w+ - w+₀‖², of codes [1, n_latent, style_dim] and the first ones"""

    first: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.register_buffer("first", first)

    def forward(self, codes: Tensor) -> Tensor:
        return (codes - self.first).square().sum()


class IdentityLoss(nn.Module):
    """1 - cos(f, f₀), of a face's features [1, d] and those it had at first, of unit length"""

    first: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.register_buffer("first", first)

    def forward(self, features: Tensor) -> Tensor:
        return (1 - (features * self.first).sum(-1)).mean()
