"""A learned start: a network that draws VQGAN latents for any CLIP embedding, where the optimisation begins.

As feed-forward VQGAN-CLIP (mehdidc/feed_forward_vqgan_clip) it goes from an embedding to latents in one
pass. All there is to decide about a picture stands in a *draft*: an outcome of each of a list of choices and
some measures, normally distributed. The network first reads off the embedding how likely each outcome is; a
draft is drawn by these odds, so that it holds what the embedding says and settles what it leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.state_dict import StateDict, build, count, shape

HEAD = 32  # channels of an attention head
PATCH = 2  # latents along the side of one place of the transformer
LAYERS = 4  # of the vector
SKETCH = 32  # channels of the sketch
ODDS_WIDTH = 256  # of the layer that reads the embedding
SHARPNESS = 4.0  # power of the odds that drafts are drawn by: what is nearly certain becomes certain
ONE = 2.0  # stands in a draft for a choice's outcome, among zeros for the others


class Condition(nn.Module):
    """A residual layer for the vector that says what to draw, [N, width] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_in = nn.Linear(width, 2 * width)
        self.layer_out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_out(F.gelu(self.layer_in(F.layer_norm(x, x.shape[-1:]))))


class Block(nn.Module):
    """Self-attention over the grid and a layer for each place, both modulated."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, 3 * width)
        self.mlp_out = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, places, width], condition [N, condition] -> [N, places, width]."""
        parts = self.modulation(condition)[:, None].chunk(6, -1)
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
    """Draws the latents of a picture that shows what an embedding says, and for the rest what a draft says.

    Args:
        channels: channels of the latents.
        embed_dim: length of the embeddings.
        width: channels inside, a multiple of 32.
        condition: length of the vector that embedding and draft become.
        blocks: how many.
        grid: height and width of the latents it is trained on; other sizes stretch its sense of place.
        outcomes: how many outcomes each of the draft's choices has.
        measures: how many normally distributed numbers a draft has after its choices.
    """

    outcomes: Tensor

    def __init__(
        self,
        channels: int,
        embed_dim: int,
        width: int,
        condition: int,
        blocks: int,
        grid: tuple[int, int],
        outcomes: Sequence[int],
        measures: int,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.measures = measures
        self.register_buffer("outcomes", torch.tensor(outcomes, dtype=torch.int64))
        self.odds_in = nn.Linear(embed_dim, ODDS_WIDTH)
        self.odds_out = nn.Linear(ODDS_WIDTH, sum(outcomes))
        self.said_in = nn.Linear(embed_dim, condition)
        self.draft_in = nn.Linear(sum(outcomes) + measures, condition)
        self.condition = nn.ModuleList(Condition(condition) for _ in range(LAYERS))
        height, breadth = -(-grid[0] // PATCH), -(-grid[1] // PATCH)
        self.sketch = nn.Linear(condition, SKETCH * height * breadth)
        self.sketch_in = nn.Linear(SKETCH, width)
        self.places = nn.Parameter(torch.randn(1, width, height, breadth))
        self.blocks = nn.ModuleList(Block(width, condition) for _ in range(blocks))
        self.latents_out = nn.Linear(width, channels * PATCH**2)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> LearnedStart:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        condition, embed_dim = shape(state_dict, "said_in.weight")
        channels = shape(state_dict, "latents_out.bias")[0] // PATCH**2
        _, width, height, breadth = shape(state_dict, "places")
        shape(state_dict, "outcomes")
        outcomes = state_dict["outcomes"].tolist()
        measures = shape(state_dict, "draft_in.weight")[1] - sum(outcomes)
        blocks = count(state_dict, "blocks.")
        grid = (PATCH * height, PATCH * breadth)
        return build(
            lambda: cls(channels, embed_dim, width, condition, blocks, grid, outcomes, measures), state_dict
        )

    def forward(self, embedding: Tensor, draft: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latents [N, channels, *grid].

        Args:
            embedding: what they are to show, [N, embed_dim], unit length.
            draft: [N, outcomes + measures], as `drafts` makes them.
            grid: height and width.
        """
        height, width = -(-grid[0] // PATCH), -(-grid[1] // PATCH)
        condition = self.said_in(embedding * math.sqrt(embedding.shape[1])) + self.draft_in(draft)
        for layer in self.condition:
            condition = layer(condition)
        condition = F.silu(condition)
        sketch = self.sketch(condition).unflatten(1, (SKETCH, *self.places.shape[2:]))
        sketch, places = (
            F.interpolate(each.float(), (height, width), mode="bilinear", align_corners=False)
            for each in (sketch, self.places)
        )
        h = self.sketch_in(sketch.flatten(2).mT) + places.flatten(2).mT
        for block in self.blocks:
            h = block(h, condition)
        latents = self.latents_out(F.layer_norm(h, h.shape[-1:])).mT.unflatten(2, (height, width))
        return F.pixel_shuffle(latents, PATCH)[:, :, : grid[0], : grid[1]]

    def odds(self, embedding: Tensor) -> list[Tensor]:
        """How likely each choice's outcomes are, given embeddings [N, embed_dim]: logits [N, ...]."""
        h = F.gelu(self.odds_in(embedding * math.sqrt(embedding.shape[1])))
        return list(self.odds_out(h).float().split(self.outcomes.tolist(), 1))

    def drafts(self, embedding: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Drafts for an embedding [1, embed_dim], by chance: [count, outcomes + measures]."""
        chosen = []
        for logits in self.odds(embedding):
            odds = (SHARPNESS * logits[0]).softmax(0)
            outcome = torch.multinomial(odds, count, replacement=True, generator=generator)
            chosen.append(ONE * F.one_hot(outcome, len(odds)).float())
        measures = torch.randn((count, self.measures), generator=generator, device=generator.device)
        return torch.cat([*chosen, measures], 1)
