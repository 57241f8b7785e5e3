"""Train the demo StyleGAN2 on drawn faces by regression: `python -m training.stylegan2`.

No discriminator is needed where every z has its drawing. The first part is trained at 64x64, which costs a quarter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from StyleCLIP.stylegan2 import Generator
from training.faces import STYLE_DIM, batch
from training.pictures import picture_loss
from training.run import Average, Run, arguments, export

WIDTHS = {4: 128, 8: 128, 16: 128, 32: 96, 64: 64, 128: 32}
LAYERS = 4  # of the mapping network
SMALL_SHARE = 0.35  # of the minutes, spent at 64x64


def build(size: int) -> Generator:
    generator = Generator(
        size, STYLE_DIM, LAYERS, {side: width for side, width in WIDTHS.items() if side <= size}
    )
    for noise in generator.noises.buffers():
        noise.zero_()  # drawings have no grain
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_("noise" not in name)
    return generator


def train(generator: Generator, name: str, minutes: float, batch_size: int, seed: int) -> Average:
    average = Average(generator)
    mapping = list(generator.style.parameters())
    others = [
        p for name, p in generator.named_parameters() if not name.startswith("style.") and p.requires_grad
    ]
    # The mapping network's weights are stored a hundred times larger than they act.
    optimiser = torch.optim.Adam(
        [{"params": others, "share": 1.0}, {"params": mapping, "share": 30.0}], betas=(0.5, 0.99)
    )
    run = Run(name, minutes, {"generator": generator, "average": average, "optimiser": optimiser})
    for step in run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(4e-3) * group["share"]
        z, drawings, _ = batch(np.random.default_rng([seed, step]), batch_size)
        drawings = F.interpolate(drawings, (generator.size, generator.size), mode="area")
        w = generator.map(z)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = generator.synthesise(generator.broadcast(w))
        loss = picture_loss(drawn, drawings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        run.log(picture=loss.detach(), w=w.detach().std())
    return average


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=16)
    torch.manual_seed(0)
    generator = build(128)
    small_minutes = 0.0 if options.export else SMALL_SHARE * options.minutes
    small = train(build(64), "stylegan2-64", small_minutes, options.batch, seed=2)
    generator.load_state_dict(small.weights, strict=False)
    minutes = 0.0 if options.export else options.minutes - small_minutes
    average = train(generator, "stylegan2", minutes, options.batch // 2, seed=3)
    export("stylegan2", average.weights)


if __name__ == "__main__":
    main()
