"""Train the demo set's learned start: `python -m training.start`, after `training.vqgan` and `training.clip`.

It learns by regression: an embedding and a draft (see `training.drafts`) say all that a drawing shows, and
its latents are known. Beside that it learns to tell from an embedding how likely each draft is. Drawings,
their latents and their own embeddings are kept in a pool that grows by a few each step, until the oldest make
room for them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from LatentRevisions.start import LearnedStart
from LatentRevisions.vqgan import VQGAN
from mead.perceptor import Perceptor
from training.drafts import MEASURES, OUTCOMES, Drafted, arranged, numbers, withhold
from training.pictures import tensor
from training.run import DEMO, Average, Run, arguments, autocast, export, take_over
from training.world import draw
from training.world.attributes import labels
from training.world.captions import caption

FIRST, POOL = 3_072, 30_000  # examples kept, at first and at most
FRESH = 2  # examples made at each step
WITHHELD = 0.3  # share of drafts that say otherwise than the embedding
CHUNK = 32  # of pictures encoded together


def build(channels: int, embed_dim: int, grid: tuple[int, int]) -> LearnedStart:
    network = LearnedStart(channels, embed_dim, 160, 320, 4, grid, OUTCOMES, MEASURES)
    for name, parameter in network.named_parameters():
        # each block begins as next to nothing (Peebles and Xie 2022, arXiv 2212.09748)
        if ".modulation." in name:
            nn.init.zeros_(parameter)
    return network


@dataclass
class Example:
    """A drawing with its latents [c, h, w] and its embedding [d], both fp16."""

    drafted: Drafted
    latents: Tensor
    seen: Tensor


class Examples:
    """Makes examples with the demo set's VQGAN and CLIP."""

    def __init__(self) -> None:
        self.vqgan = VQGAN.from_state_dict(load_file(DEMO / "vqgan.safetensors")).requires_grad_(False)
        self.perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))

    @torch.no_grad()
    def make(self, rng: np.random.Generator, size: int) -> list[Example]:
        made: list[Example] = []
        while len(made) < size:
            several = [Drafted.sample(rng) for _ in range(min(CHUNK, size - len(made)))]
            pictures = tensor(draw(one.drawing) for one in several)
            with autocast():
                latents = self.vqgan.encode(pictures).half()
                seen = self.perceptor.embed_image(pictures / 2 + 0.5).half()
            made += [Example(*each) for each in zip(several, latents, seen, strict=True)]
        return made

    @torch.no_grad()
    def embeddings(self, texts: list[str]) -> Tensor:
        """Unit-length embeddings [N, d]."""
        with autocast():
            return self.perceptor.embed_text(texts).float()


def lesson(
    examples: Examples, several: list[Example], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What to learn from examples: embeddings [N, d], the drafts [N, ...] they should lead to, drafts to draw
    from, and the latents [N, c, h, w] they mean.

    Embeddings are a caption's, or a mix of two captions', of a caption's and the drawing's own, or a
    caption's less that of another drawing, as LatentRevisions mixes its targets.
    """
    ways = rng.random(len(several))
    first = [caption(one.drafted.drawing, rng) for one in several]
    second = [
        caption(one.drafted.drawing, rng) if 0.55 <= w < 0.7 else None
        for one, w in zip(several, ways, strict=True)
    ]
    said = examples.embeddings([said.text for said in (*first, *second) if said])
    q1, others = said[: len(first)], iter(said[len(first) :])
    seen = torch.stack([one.seen for one in several]).float()
    q, true, drafts = [], [], []
    for i, (one, way, also) in enumerate(zip(several, ways, second, strict=True)):
        named, share = dict(first[i].named), float(rng.uniform(0.2, 1.0))
        target = q1[i]
        if also:
            target = target + share * next(others)
            named |= also.named
        elif 0.7 <= way < 0.85:
            target = seen[i] if way < 0.78 else seen[i] + share * q1[i]
            shown = labels(one.drafted.drawing)
            named = {name: frozenset((value,)) for name, value in shown.items() if value != "none"}
        elif way >= 0.85:
            other = (i + 1) % len(several)
            target = target - 0.6 * share * (seen[other] if way < 0.92 else q1[other])
        q.append(F.normalize(target, dim=0))
        kind = type(one.drafted.drawing)
        true.append(numbers(kind, arranged(one.drafted, named), rng))
        withheld = rng.random() < WITHHELD
        drafts.append(numbers(kind, withhold(one.drafted, named, rng), rng) if withheld else true[-1])
    latents = torch.stack([one.latents for one in several]).float()
    return torch.stack(q), torch.stack(true), torch.stack(drafts), latents


def surprise(odds: list[Tensor], true: Tensor) -> Tensor:
    """The cross entropy of the choices of drafts [N, ...], summed over choices, averaged over drafts."""
    chosen = true[:, : sum(OUTCOMES)].split(OUTCOMES, 1)
    parts = [F.cross_entropy(logits, one.argmax(1)) for logits, one in zip(odds, chosen, strict=True)]
    return torch.stack(parts).sum()


def main() -> None:
    options = arguments(__doc__, minutes=75, batch=48)
    torch.manual_seed(0)
    examples = Examples()
    pool = deque(examples.make(np.random.default_rng([9, 0]), 1 if options.export else FIRST), POOL)
    channels, *grid = pool[0].latents.shape
    network = build(channels, len(pool[0].seen), (grid[0], grid[1]))
    if options.onward:
        take_over("start", network)
    average = Average(network, decay=0.998)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("start", options.minutes, {"network": network, "average": average, "optimiser": optimiser})
    deviation = torch.stack([one.latents.float() for one in [*pool][:512]]).std()
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(2e-3)
        rng = np.random.default_rng([10, step])
        pool.extend(examples.make(rng, FRESH))
        several = [pool[int(k)] for k in rng.integers(len(pool), size=options.batch)]
        q, true, drafts, latents = lesson(examples, several, rng)
        with autocast():
            drawn = network(q, drafts, (grid[0], grid[1]))
        picture = F.smooth_l1_loss(drawn.float() / deviation, latents / deviation, beta=0.3)
        odds = surprise(network.odds(q), true)
        loss = picture + 0.1 * odds
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update()
        error = F.mse_loss(drawn.float(), latents) / deviation**2
        run.log(picture=picture, odds=odds, error=error)
    export("start", average.weights)


if __name__ == "__main__":
    main()
