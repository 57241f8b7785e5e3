"""A learned start: a network that draws VQGAN latents for any CLIP embedding, where the optimisation begins.

A small diffusion transformer (Peebles and Xie, ICCV 2023, arXiv 2212.09748, with one modulation for all its
blocks as in PixArt, arXiv 2310.00426) trained by flow matching (Lipman et al., ICLR 2023, arXiv 2210.02747),
with classifier-free guidance (Ho and Salimans, arXiv 2207.12598).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.state_dict import StateDict, build, count, shape

HEAD = 32  # channels of an attention head
FREQUENCIES = 32  # sines and cosines that tell the time


class Block(nn.Module):
    """Self-attention over the grid and a layer for each place, both modulated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6, width))  # this block's own part of the modulation
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, 3 * width)
        self.mlp_out = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [N, places, width], modulation [N, 6, width] -> [N, places, width]."""
        parts = (modulation + self.shift)[:, :, None].unbind(1)
        n, places, width = x.shape
        h = F.layer_norm(x, (width,)) * (1 + parts[0]) + parts[1]
        q, k, v = self.qkv(h).view(n, places, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        # written out: for so few places PyTorch's fused attention is five times slower backwards on the CPU
        attention = (q @ k.mT * HEAD**-0.5).softmax(-1).to(v.dtype)
        h = (attention @ v).transpose(1, 2).reshape(n, places, width)
        x = x + parts[2] * self.out(h)
        h = F.layer_norm(x, (width,)) * (1 + parts[3]) + parts[4]
        return x + parts[5] * self.mlp_out(F.gelu(self.mlp_in(h)))


class LearnedStart(nn.Module):
    """Tells, for noisy latents, the way to clean ones that fit an embedding.

    Args:
        channels: channels of the latents.
        embed_dim: length of the embeddings.
        width: channels inside, a multiple of 32.
        blocks: how many.
        grid: height and width of the latents it is trained on; other sizes stretch its sense of place.
    """

    def __init__(self, channels: int, embed_dim: int, width: int, blocks: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.latents_in = nn.Linear(channels, width)
        self.places = nn.Parameter(0.1 * torch.randn(1, width, *grid))
        self.embedding_in = nn.Linear(embed_dim, width)
        self.time_in = nn.Linear(2 * FREQUENCIES, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.latents_out = nn.Linear(width, channels)
        nn.init.zeros_(self.latents_out.weight)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> LearnedStart:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        width, channels = shape(state_dict, "latents_in.weight")
        embed_dim = shape(state_dict, "embedding_in.weight")[1]
        height, breadth = shape(state_dict, "places")[2:]
        blocks = count(state_dict, "blocks.")
        return build(lambda: cls(channels, embed_dim, width, blocks, (height, breadth)), state_dict)

    def forward(self, x: Tensor, time: Tensor, embedding: Tensor) -> Tensor:
        """The velocity from noise to latents.

        Args:
            x: latents mixed with noise, [N, channels, h, w].
            time: the share of latents in them, in [0, 1], [N].
            embedding: what they are to show, [N, embed_dim], unit length; zeros for anything.

        Returns:
            Latents minus noise, [N, channels, h, w].
        """
        height, width = x.shape[2:]
        places = F.interpolate(self.places, (height, width), mode="bilinear", align_corners=False)
        frequencies = torch.exp(torch.arange(FREQUENCIES, device=x.device) * (math.log(1000) / FREQUENCIES))
        angles = time[:, None] * frequencies
        condition = self.time_in(torch.cat([angles.sin(), angles.cos()], 1))
        condition = condition + self.embedding_in(embedding * math.sqrt(embedding.shape[1]))
        modulation = self.modulation(F.silu(condition)).unflatten(1, (6, -1))
        h = self.latents_in(x.flatten(2).mT) + places.flatten(2).mT
        for block in self.blocks:
            h = block(h, modulation)
        velocity = self.latents_out(F.layer_norm(h, h.shape[-1:]))
        return velocity.mT.unflatten(2, (height, width))

    def draw(self, embedding: Tensor, noise: Tensor, guidance: float = 3.0, steps: int = 16) -> Tensor:
        """Draw latents [N, channels, h, w] for embeddings [N, embed_dim].

        `noise` is unit normal, of the latents' shape; a `guidance` of 1 is none.
        """
        x = noise
        anything = torch.zeros_like(embedding)
        for step in range(steps):
            time = torch.full((2 * len(x),), step / steps, device=x.device)
            fitting, any_ = self(torch.cat([x, x]), time, torch.cat([embedding, anything])).float().chunk(2)
            x = x + (any_ + guidance * (fitting - any_)) / steps
        return x
