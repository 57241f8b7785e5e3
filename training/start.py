"""Train the demo set's learned start: `python -m training.start`, after `training.vqgan` and `training.clip`.

It learns by regression: an embedding and a draft (see `training.drafts`) say all that a drawing shows, and
its latents are known. Drawings, their latents and their own embeddings are kept in a pool that grows by a few
each step, until the oldest make room for them.
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
from training.drafts import MEASURES, ODDS, OUTCOMES, Drafted, numbers, withhold
from training.muon import Muon
from training.pictures import tensor
from training.run import DEMO, Average, Run, arguments, autocast, export, take_over
from training.world import draw
from training.world.attributes import labels
from training.world.captions import caption

FIRST, POOL = 3_072, 30_000  # examples kept, at first and at most
FRESH = 2  # examples made at each step
CHUNK = 32  # of pictures encoded together


def build(channels: int, embed_dim: int, grid: tuple[int, int]) -> LearnedStart:
    network = LearnedStart(channels, embed_dim, 160, 320, 4, grid, OUTCOMES, MEASURES)
    for block in network.blocks:  # each begins as next to nothing (Peebles and Xie 2022, arXiv 2212.09748)
        nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(block.modulation.bias)
    network.odds.copy_(torch.tensor(ODDS))
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
) -> tuple[Tensor, Tensor, Tensor]:
    """What to learn from examples: embeddings [N, d], drafts [N, ...] and the latents [N, c, h, w] they mean.

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
    q, drafts = [], []
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
        draft = withhold(one.drafted, named, rng)
        drafts.append(numbers(type(one.drafted.drawing), draft, rng))
    return torch.stack(q), torch.stack(drafts), torch.stack([one.latents for one in several]).float()


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
    hidden = [p for p in (*network.condition.parameters(), *network.blocks.parameters()) if p.ndim == 2]
    others = [p for p in network.parameters() if not any(p is other for other in hidden)]
    muon = Muon(hidden, lr=0.0, weight_decay=0.01)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01)
    parts = {"network": network, "average": average, "muon": muon, "adam": adam}
    run = Run("start", options.minutes, parts)
    deviation = torch.stack([one.latents.float() for one in [*pool][:512]]).std()
    for step in () if options.export else run:
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = run.rate(2e-3)
        rng = np.random.default_rng([10, step])
        pool.extend(examples.make(rng, FRESH))
        several = [pool[int(k)] for k in rng.integers(len(pool), size=options.batch)]
        q, drafts, latents = lesson(examples, several, rng)
        with autocast():
            drawn = network(q, drafts, (grid[0], grid[1]))
        loss = F.smooth_l1_loss(drawn.float() / deviation, latents / deviation, beta=0.3)
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update()
        error = F.mse_loss(drawn.float(), latents) / deviation**2
        run.log(loss=loss, error=error)
    export("start", average.weights)


if __name__ == "__main__":
    main()
