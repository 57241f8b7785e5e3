"""Train the demo set's learned start to draw: `python -m training.start`, after `training.vqgan`.

It learns by regression: a draft (see `training.drafts`) says all that a drawing shows, and the drawing's
latents are known. Drawings come in pairs that differ in one choice, so that a small thing counts as much as a
large one. What an embedding says of drafts is learned after that, by `training.odds`. Drawings and their
latents are kept in a pool that grows by a few each step, until the oldest make room for them.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from LatentRevisions.start import LearnedStart
from LatentRevisions.vqgan import VQGAN
from training.drafts import (
    MEASURES,
    OUTCOMES,
    THING_MEASURES,
    THING_OUTCOMES,
    centres,
    counts,
    numbers,
    pair,
)
from training.pictures import pair_loss, tensor
from training.run import DEMO, Average, Run, arguments, autocast, export, take_over
from training.world import Face, draw

EMBED_DIM = 128  # of the demo CLIP
PEAK = 2e-3  # learning rate
ONWARD = 0.5  # of this, from weights that ship
PAIRS = 0.1  # weight of what pairs differ in
FIRST, POOL = 1_536, 20_000  # pairs kept, at first and at most
FRESH = 2  # pairs made at each step
FACES = 0.4  # of the pairs are faces whatever else comes: there is most to decide about them
CHUNK = 16  # of pairs encoded together

Pair = tuple[Tensor, Tensor]
"""Two drafts' numbers [2, n], and the latents [2, c, h, w] of their drawings in half precision."""


def build(channels: int, grid: tuple[int, int]) -> LearnedStart:
    outcomes, measures = (OUTCOMES, THING_OUTCOMES), (len(MEASURES), len(THING_MEASURES))
    network = LearnedStart(channels, EMBED_DIM, 160, 320, 4, grid, outcomes, measures, centres(), counts())
    for name, parameter in network.named_parameters():
        # each block begins as next to nothing (Peebles and Xie 2022, arXiv 2212.09748)
        if name.startswith("blocks.") and ".modulation." in name:
            nn.init.zeros_(parameter)
    return network


@torch.no_grad()
def make(vqgan: VQGAN, rng: np.random.Generator, size: int) -> list[Pair]:
    """`size` fresh pairs."""
    made: list[Pair] = []
    while len(made) < size:
        kinds = [Face if rng.random() < FACES else None for _ in range(min(CHUNK, size - len(made)))]
        several = [one for kind in kinds for one in pair(rng, kind)]
        with autocast():
            latents = vqgan.encode(tensor(draw(one.drawing) for one in several)).half()
        drafts = torch.stack([*map(numbers, several)])
        made += zip(drafts.split(2), latents.split(2), strict=True)
    return made


def main() -> None:
    options = arguments(__doc__, minutes=75, batch=48)
    torch.manual_seed(0)
    vqgan = VQGAN.from_state_dict(load_file(DEMO / "vqgan.safetensors")).requires_grad_(False)
    pool = deque(make(vqgan, np.random.default_rng([9, 0]), 1 if options.export else FIRST), POOL)
    channels, *grid = pool[0][1].shape[1:]
    network = build(channels, (grid[0], grid[1]))
    if options.onward:
        take_over("start", network)
    average = Average(network, decay=0.998)
    drawing = [p for name, p in network.named_parameters() if not name.startswith("odds")]
    optimiser = torch.optim.AdamW(drawing, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("start", options.minutes, {"network": network, "average": average, "optimiser": optimiser})
    deviation = torch.stack([latents.float() for _, latents in [*pool][:256]]).std()
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(PEAK * (ONWARD if options.onward else 1))
        rng = np.random.default_rng([10, step])
        pool.extend(make(vqgan, rng, FRESH))
        several = [pool[int(k)] for k in rng.integers(len(pool), size=options.batch // 2)]
        drafts, latents = (torch.cat(each) for each in zip(*several, strict=True))
        latents = latents.float()
        drawn = network(drafts, (grid[0], grid[1]))  # in float32: in bfloat16 its gradients are mostly noise
        picture = F.smooth_l1_loss(drawn / deviation, latents / deviation, beta=0.3)
        pairs = pair_loss(drawn, latents)
        loss = picture + PAIRS * pairs
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(drawing, 1.0)
        optimiser.step()
        average.update()
        run.log(picture=picture, pairs=pairs, error=F.mse_loss(drawn, latents) / deviation**2)
    export("start", average.weights)


if __name__ == "__main__":
    main()
