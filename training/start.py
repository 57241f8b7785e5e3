"""Train the demo set's learned start to draw: `python -m training.start`, after `training.vqgan`.

It learns by regression: a draft (see `training.drafts`) says all that a drawing shows, and the drawing's
latents are known. What an embedding says of drafts is learned after that, by `training.odds`. Drawings and
their latents are kept in a pool that grows by a few each step, until the oldest make room for them.
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
    Drafted,
    centres,
    counts,
    numbers,
)
from training.pictures import tensor
from training.run import DEMO, Average, Run, arguments, autocast, export, take_over
from training.world import draw

EMBED_DIM = 128  # of the demo CLIP
FIRST, POOL = 3_072, 40_000  # examples kept, at first and at most
FRESH = 3  # examples made at each step
CHUNK = 32  # of pictures encoded together

Example = tuple[Tensor, Tensor]
"""A draft's numbers [n], and the latents [c, h, w] of its drawing in half precision."""


def build(channels: int, grid: tuple[int, int]) -> LearnedStart:
    outcomes, measures = (OUTCOMES, THING_OUTCOMES), (len(MEASURES), len(THING_MEASURES))
    network = LearnedStart(channels, EMBED_DIM, 160, 320, 4, grid, outcomes, measures, centres(), counts())
    for name, parameter in network.named_parameters():
        # each block begins as next to nothing (Peebles and Xie 2022, arXiv 2212.09748)
        if name.startswith("blocks.") and ".modulation." in name:
            nn.init.zeros_(parameter)
    return network


@torch.no_grad()
def make(vqgan: VQGAN, rng: np.random.Generator, size: int) -> list[Example]:
    """`size` fresh examples."""
    made: list[Example] = []
    while len(made) < size:
        several = [Drafted.sample(rng) for _ in range(min(CHUNK, size - len(made)))]
        with autocast():
            latents = vqgan.encode(tensor(draw(one.drawing) for one in several)).half()
        made += zip(map(numbers, several), latents, strict=True)
    return made


def main() -> None:
    options = arguments(__doc__, minutes=75, batch=48)
    torch.manual_seed(0)
    vqgan = VQGAN.from_state_dict(load_file(DEMO / "vqgan.safetensors")).requires_grad_(False)
    pool = deque(make(vqgan, np.random.default_rng([9, 0]), 1 if options.export else FIRST), POOL)
    channels, *grid = pool[0][1].shape
    network = build(channels, (grid[0], grid[1]))
    if options.onward:
        take_over("start", network)
    average = Average(network, decay=0.998)
    drawing = [p for name, p in network.named_parameters() if not name.startswith("odds")]
    optimiser = torch.optim.AdamW(drawing, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("start", options.minutes, {"network": network, "average": average, "optimiser": optimiser})
    deviation = torch.stack([latents.float() for _, latents in [*pool][:512]]).std()
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(2e-3)
        rng = np.random.default_rng([10, step])
        pool.extend(make(vqgan, rng, FRESH))
        several = [pool[int(k)] for k in rng.integers(len(pool), size=options.batch)]
        drafts, latents = (torch.stack(each) for each in zip(*several, strict=True))
        latents = latents.float()
        with autocast():
            drawn = network(drafts, (grid[0], grid[1])).float()
        loss = F.smooth_l1_loss(drawn / deviation, latents / deviation, beta=0.3)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(drawing, 1.0)
        optimiser.step()
        average.update()
        run.log(picture=loss, error=F.mse_loss(drawn, latents) / deviation**2)
    export("start", average.weights)


if __name__ == "__main__":
    main()
