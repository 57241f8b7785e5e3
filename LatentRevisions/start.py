"""A learned start: a network that draws VQGAN latents for any CLIP embedding, where the optimisation begins.

Like feed-forward VQGAN-CLIP (mehdidc/feed_forward_vqgan_clip) it maps an embedding to latents in one pass,
but by way of a *draft*: discrete attributes (*choices*, each with its outcomes) and continuous ones
(*measures*, uniformly distributed). A small classifier predicts the odds of each choice from the embedding,
and the draft is sampled from them: it has what the embedding says, and what that leaves open is random. The
rest of the network, a transformer over the grid of latents, renders the draft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, build, count, shape

HEAD = 32  # channels per attention head
PATCH = 2  # side of a patch, in latents; the transformer's positions are patches
LAYERS = 3  # of the condition
SKETCH = 32  # channels of the sketch
ODDS_WIDTH = 256  # of the classifier's hidden layer
THING_WIDTH = 192  # of the layers that render a thing
FREQUENCIES = (0.25, 0.5, 1.0, 2.0)  # of the positional encoding, in cycles per half side of the picture
NEARNESS = 20.0  # how much the distance from a wanted place counts against a layout
KEPT = 8.0  # how much more counts what a picture to be changed shows, where the embedding leaves it open
FIT_STEPS, FIT_RATE = 25, 0.15  # to estimate the measures of a picture
UNLIKE = 0.7  # of a picture's variance: a rendering that is so far from it, squared, is of another picture
SHARPNESS = 4.0  # inverse temperature of sampling drafts: what is nearly certain becomes certain


def _uncertainty(logits: Tensor) -> Tensor:
    """How much the odds [1, outcomes] of a choice leave open, from 0 to 1: their entropy."""
    odds = (SHARPNESS * logits).softmax(1)
    return torch.special.entr(odds).sum(1) / math.log(odds.shape[1])


class Condition(nn.Module):
    """A residual layer of the condition, [N, width] -> [N, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_in = nn.Linear(width, 2 * width)
        self.layer_out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_out(F.gelu(self.layer_in(F.layer_norm(x, x.shape[-1:]))))


class ObjectDecoder(nn.Module):
    """Renders the things (objects) of a picture, from each position's offset from them and what they are.

    Args:
        numbers: length of a thing's part of the draft.
        condition: length of the condition.
        width: channels of the positions.
    """

    def __init__(self, numbers: int, condition: int, width: int) -> None:
        super().__init__()
        self.what = nn.Linear(numbers, condition)
        self.modulation = nn.Linear(condition, 4 * THING_WIDTH)
        self.layer_in = nn.Linear(2 + 4 * len(FREQUENCIES), THING_WIDTH)
        self.layer = nn.Linear(THING_WIDTH, THING_WIDTH)
        self.layer_out = nn.Linear(THING_WIDTH, width)

    def forward(self, things: Tensor, offsets: Tensor, condition: Tensor) -> Tensor:
        """What each thing adds to each position, [N, K, positions, width].

        Args:
            things: their parts of the draft, [N, K, numbers].
            offsets: of each position from each thing, in half sides of the picture, [N, K, positions, 2].
            condition: [N, condition].
        """
        what = F.silu(self.what(things) + condition[:, None])
        parts = self.modulation(what)[:, :, None].chunk(4, -1)
        waves = [math.pi * frequency * offsets for frequency in FREQUENCIES]
        h = torch.cat([offsets, *map(torch.sin, waves), *map(torch.cos, waves)], -1)
        h = F.gelu(self.layer_in(h) * (1 + parts[0]) + parts[1])
        h = F.gelu(self.layer(h) * (1 + parts[2]) + parts[3])
        return self.layer_out(h)


class Block(nn.Module):
    """A transformer block: self-attention and an MLP, both with adaptive layer norm by the condition."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, 3 * width)
        self.mlp_out = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, positions, width], condition [N, condition] -> [N, positions, width]."""
        parts = self.modulation(condition)[:, None].chunk(6, -1)
        n, positions, width = x.shape
        h = F.layer_norm(x, (width,)) * (1 + parts[0]) + parts[1]
        q, k, v = self.qkv(h).view(n, positions, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        # written out: with so few positions, PyTorch's fused attention has a backward pass five times slower
        attention = (q @ k.mT * HEAD**-0.5).softmax(-1).to(v.dtype)
        h = (attention @ v).transpose(1, 2).reshape(n, positions, width)
        x = x + parts[2] * self.out(h)
        h = F.layer_norm(x, (width,)) * (1 + parts[3]) + parts[4]
        return x + parts[5] * self.mlp_out(F.gelu(self.mlp_in(h)))


class LearnedStart(nn.Module):
    """Renders latents of a picture that matches an embedding, by way of a draft.

    A draft is a vector: the outcome of each choice, one-hot, then the measures, each in [-1, 1]. Those of the
    whole picture come before those of its things, which all have the same choices and measures. The first
    choice is the layout: how many things there are, roughly where, and which numbers of the draft are used.

    Args:
        channels: channels of the latents.
        embed_dim: length of the embeddings.
        width: channels inside, a multiple of 32.
        condition: length of the condition, made of the whole picture's part of the draft.
        blocks: number of transformer blocks.
        grid: height and width of the latents it is trained on; positions are interpolated to other sizes.
        outcomes: number of outcomes of each choice, of the whole picture and of a thing.
        measures: number of measures of the whole picture and of a thing; a thing's first two place it.
        centres: of each layout and thing: x, y and their ranges, in half sides from the centre,
            [layouts, things, 4].
        counts: 1 where a layout uses a number of the draft, else 0, [layouts, numbers].
    """

    outcomes: Tensor
    thing_outcomes: Tensor
    centres: Tensor
    counts: Tensor

    def __init__(
        self,
        channels: int,
        embed_dim: int,
        width: int,
        condition: int,
        blocks: int,
        grid: tuple[int, int],
        outcomes: tuple[Sequence[int], Sequence[int]],
        measures: tuple[int, int],
        centres: Tensor,
        counts: Tensor,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.measures = measures
        self.register_buffer("outcomes", torch.tensor(outcomes[0], dtype=torch.int64))
        self.register_buffer("thing_outcomes", torch.tensor(outcomes[1], dtype=torch.int64))
        self.register_buffer("centres", centres)
        self.register_buffer("counts", counts)
        self.things_at_most = centres.shape[1]
        self.sizes = (sum(outcomes[0]), sum(outcomes[1]))
        self.odds_in = nn.Linear(embed_dim, ODDS_WIDTH)
        self.odds_out = nn.Linear(ODDS_WIDTH, self.sizes[0] + self.things_at_most * self.sizes[1])
        self.draft_in = nn.Linear(self.sizes[0] + measures[0], condition)
        self.condition = nn.ModuleList(Condition(condition) for _ in range(LAYERS))
        height, breadth = -(-grid[0] // PATCH), -(-grid[1] // PATCH)
        self.sketch = nn.Linear(condition, SKETCH * height * breadth)
        self.sketch_in = nn.Linear(SKETCH, width)
        self.places = nn.Parameter(torch.randn(1, width, height, breadth))
        self.things = ObjectDecoder(self.sizes[1] + measures[1], condition, width)
        self.blocks = nn.ModuleList(Block(width, condition) for _ in range(blocks))
        self.latents_out = nn.Linear(width, channels * PATCH**2)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> LearnedStart:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        embed_dim = shape(state_dict, "odds_in.weight")[1]
        condition, numbers = shape(state_dict, "draft_in.weight")
        thing_numbers = shape(state_dict, "things.what.weight")[1]
        channels = shape(state_dict, "latents_out.bias")[0] // PATCH**2
        _, width, height, breadth = shape(state_dict, "places")
        for key in ("outcomes", "thing_outcomes", "centres", "counts"):
            shape(state_dict, key)
        outcomes = (state_dict["outcomes"].tolist(), state_dict["thing_outcomes"].tolist())
        measures = (numbers - sum(outcomes[0]), thing_numbers - sum(outcomes[1]))
        blocks = count(state_dict, "blocks.")
        grid = (PATCH * height, PATCH * breadth)
        centres, counts = state_dict["centres"].float(), state_dict["counts"].float()
        return build(
            lambda: cls(
                channels, embed_dim, width, condition, blocks, grid, outcomes, measures, centres, counts
            ),
            state_dict,
        )

    def forward(self, draft: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latents [N, channels, *grid] of drafts [N, numbers], as `drafts` samples them."""
        height, width = -(-grid[0] // PATCH), -(-grid[1] // PATCH)
        layout = draft[:, : len(self.counts)]
        whole, things = self._parts(draft * (layout @ self.counts))
        condition = self.draft_in(whole)
        for layer in self.condition:
            condition = layer(condition)
        condition = F.silu(condition)
        sketch = self.sketch(condition).unflatten(1, (SKETCH, *self.places.shape[2:]))
        sketch, places = (
            F.interpolate(each.float(), (height, width), mode="bilinear", align_corners=False)
            for each in (sketch, self.places)
        )
        h = self.sketch_in(sketch.flatten(2).mT) + places.flatten(2).mT
        x, y, off_x, off_y = torch.tensordot(layout, self.centres, 1).unbind(2)  # [N, things] each
        across, down = things[:, :, self.sizes[1]], things[:, :, self.sizes[1] + 1]
        centres = torch.stack([x + off_x * across, y + off_y * down], -1)
        offsets = self._grid(height, width) - centres[:, :, None]
        present = things[:, :, : self.sizes[1]].amax(2)[:, :, None, None]  # 1, or 0 for an unused thing
        h = h + (present * self.things(things, offsets, condition)).sum(1)
        for block in self.blocks:
            h = block(h, condition)
        latents = self.latents_out(F.layer_norm(h, h.shape[-1:])).mT.unflatten(2, (height, width))
        return F.pixel_shuffle(latents, PATCH)[:, :, : grid[0], : grid[1]]

    def odds(self, embedding: Tensor) -> list[Tensor]:
        """The logits of each choice's outcomes, [N, outcomes] each, given embeddings [N, embed_dim]."""
        h = F.gelu(self.odds_in(embedding * math.sqrt(embedding.shape[1])))
        each = [*self.outcomes.tolist(), *self.things_at_most * self.thing_outcomes.tolist()]
        return list(self.odds_out(h).float().split(each, 1))

    def hints(self, embedding: Tensor) -> Tensor:
        """What embeddings [N, embed_dim] say of a picture: the odds of all outcomes, and themselves.

        [N, outcomes + embed_dim], of about unit size.
        """
        odds = [(SHARPNESS * logits).softmax(1) for logits in self.odds(embedding)]
        return torch.cat([*odds, embedding * math.sqrt(embedding.shape[1])], 1)

    def drafts(
        self,
        embedding: Tensor,
        count: int,
        generator: torch.Generator,
        scene: Tensor | None = None,
        place: tuple[float, float] | None = None,
    ) -> Tensor:
        """Sample drafts for an embedding [1, embed_dim]: [count, numbers].

        Args:
            scene: of a picture [1, embed_dim], which says what the embedding leaves open.
            place: where the first thing should be: x and y in half sides from the centre.
        """
        several = self.odds(embedding)
        if scene is not None:
            (told, seen), *others = zip(several, self.odds(scene), strict=True)
            several = [told + seen, *(told + _uncertainty(told) * seen for told, seen in others)]
        if place is not None:
            several[0] = several[0] - NEARNESS * self._distances(place)
        chosen = []
        for logits in several:
            odds = (SHARPNESS * logits[0]).softmax(0)
            outcome = torch.multinomial(odds, count, replacement=True, generator=generator)
            chosen.append(F.one_hot(outcome, len(odds)).float())
        measures = self.measures[0] + self.things_at_most * self.measures[1]
        uniform = torch.rand((count, measures), generator=generator, device=generator.device)
        return torch.cat([*chosen, 2 * uniform - 1], 1)

    def change(self, latents: Tensor, scene: Tensor, embedding: Tensor) -> Tensor | None:
        """What to add to a picture's latents [1, channels, h, w] so that it shows what an embedding says.

        The picture's draft is estimated: the outcomes that it most likely has, and the measures with which
        its rendering is nearest to the latents. The change is the difference of two renderings: with the
        outcomes that the embedding is sure of in place of the picture's own, and without.

        Args:
            scene: the picture's embedding, [1, embed_dim].
            embedding: [1, embed_dim].

        Returns:
            None for a picture unlike those that the network renders.
        """
        (told, seen), *others = zip(self.odds(embedding), self.odds(scene), strict=True)
        wanted = [told + seen, *(told + KEPT * _uncertainty(told) * seen for told, seen in others)]
        own, new = (
            torch.cat([F.one_hot(logits[0].argmax(), logits.shape[1]).float() for logits in each])[None]
            for each in ([seen, *(seen for _, seen in others)], wanted)
        )
        grid = (latents.shape[2], latents.shape[3])
        number = self.measures[0] + self.things_at_most * self.measures[1]
        measures = torch.zeros((1, number), device=latents.device, requires_grad=True)
        optimiser = torch.optim.Adam([measures], lr=FIT_RATE)
        for _ in range(FIT_STEPS):
            with torch.enable_grad():
                rendered = self(torch.cat([own, measures], 1), grid).float()
                (rendered - latents).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
            measures.data.clamp_(-1, 1)
        before, after = (self(torch.cat([each, measures], 1), grid).float().detach() for each in (own, new))
        if float((before - latents).square().mean() / latents.var()) > UNLIKE:
            return None
        return after - before

    def _distances(self, place: tuple[float, float]) -> Tensor:
        """How far each layout has its first thing from a place, squared, [layouts]; 0 if it has none."""
        of_thing = slice(self.sizes[0], self.sizes[0] + self.sizes[1])
        has_thing = self.counts[:, of_thing].amax(1)
        return has_thing * (self.centres[:, 0, :2] - self.centres.new_tensor(place)).square().sum(1)

    def _parts(self, draft: Tensor) -> tuple[Tensor, Tensor]:
        """Split drafts [N, numbers] into those of pictures [N, ...] and of their things [N, things, ...]."""
        n, things = len(draft), self.things_at_most
        sizes = (self.sizes[0], things * self.sizes[1], self.measures[0], things * self.measures[1])
        choices, of_things, measures, measures_of_things = draft.split(sizes, 1)
        several = [each.view(n, things, -1) for each in (of_things, measures_of_things)]
        return torch.cat([choices, measures], 1), torch.cat(several, 2)

    def _grid(self, height: int, width: int) -> Tensor:
        """Coordinates (x, y) of the positions, in half sides from the centre: [height * width, 2]."""
        down, across = (
            (2 * torch.arange(side, device=self.centres.device) + 1) / side - 1 for side in (height, width)
        )
        return torch.cartesian_prod(down, across).flip(1)
