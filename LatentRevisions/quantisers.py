"""VQGAN's two quantisers: z [N, embed_dim, h, w] -> (codes [N, embed_dim, h, w], their indices [N, h, w])."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VectorQuantiser(nn.Module):
    """The nearest code, by Euclidean distance."""

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.embedding.weight
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            # |z - e|^2 without |z|^2, which is the same for all codes
            dots = z.float().permute(0, 2, 3, 1) @ codes.mT
            indices = (codes.square().sum(1) - 2 * dots).argmin(-1)
        return self.embedding(indices).permute(0, 3, 1, 2), indices


class GumbelQuantiser(nn.Module):
    """The code of the largest logit, computed by a 1x1 convolution of z."""

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(embed_dim, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embed_dim)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.proj(z).argmax(1)
        return self.embed(indices).permute(0, 3, 1, 2), indices
