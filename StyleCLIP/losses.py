"""StyleCLIP's losses."""

from __future__ import annotations

from torch import Tensor, nn

from mead.nn.losses import Apply, Scale, Sum


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


def objective(prompt: Tensor, codes: Tensor, features: Tensor, l2: float, identity: float) -> Sum:
    """1 - cos(E(prompt), I) + l2 · ‖w+ - w+₀‖² + identity · (1 - cos(f, f₀)).

    Args:
        prompt: its embedding [d].
        codes: w+₀ [1, n_latent, style_dim].
        features: f₀ [1, d], the identity of the face as it was.
        l2, identity: weights.
    """
    return Sum(
        [
            Apply(CosineDistance(prompt), "embeddings"),
            Scale(Apply(SquaredDistance(codes), "codes"), l2),
            Scale(Apply(IdentityLoss(features), "features"), identity),
        ]
    )
