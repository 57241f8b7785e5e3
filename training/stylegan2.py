"""Train the demo StyleGAN2 on drawn faces by regression: `python -m training.stylegan2`.

No discriminator is needed where every z has its drawing. It learns at 32x32, 64x64 and 128x128 one after the
other, since small pictures cost little; from the weights that ship it goes `--onward` at the larger two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from StyleCLIP.stylegan2 import Generator
from training.faces import STYLE_DIM, batch
from training.muon import Muon
from training.pictures import pair_loss, picture_loss
from training.run import Average, Run, Stateful, arguments, autocast, export, take_over

WIDTHS = {4: 128, 8: 128, 16: 128, 32: 96, 64: 64, 128: 32}
PEAK = {32: 1e-2, 64: 7e-3, 128: 5e-3}  # learning rates
ONWARD = 0.5  # of these, from weights that ship: the full rates undo what is learned
COLOURS = 3  # channels of a picture
PAIRS = 1.0  # weight of what pairs differ in
LAYERS = 2  # of the mapping network: z says plainly what the face is
SHARES = {32: 0.3, 64: 0.25, 128: 0.45}  # of the minutes, by side


def build(side: int) -> Generator:
    generator = Generator(side, STYLE_DIM, LAYERS, {k: width for k, width in WIDTHS.items() if k <= side})
    for noise in generator.noises.buffers():
        noise.zero_()  # drawings have no grain
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_("noise" not in name)
    return generator


def train(generator: Generator, minutes: float, pictures: int, peak: float) -> Mapping[str, Tensor]:
    """Train mapping and synthesis at the generator's own size; returns the averaged weights.

    `peak` is the largest learning rate.
    """
    average = Average(generator)
    mapping = list(generator.style.parameters())
    synthesis = [
        p for key, p in generator.named_parameters() if not key.startswith("style.") and p.requires_grad
    ]
    convolutions = [p for p in synthesis if p.ndim == 5 and p.shape[1] > COLOURS]
    others = [p for p in synthesis if not any(p is other for other in convolutions)]
    muon = Muon([{"params": convolutions, "share": 10.0}], lr=0.0)
    # The mapping network's weights are stored a hundred times larger than they act.
    adam = torch.optim.Adam(
        [{"params": others, "share": 1.0}, {"params": mapping, "share": 60.0}], betas=(0.9, 0.99)
    )
    parts: dict[str, Stateful] = {"generator": generator, "average": average, "muon": muon, "adam": adam}
    run = Run(f"stylegan2-{generator.size}", minutes, parts)
    for step in run:
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = run.rate(peak, floor=0.05) * group["share"]
        z, drawings = batch(np.random.default_rng([generator.size, step]), pictures)
        drawings = F.interpolate(drawings, (generator.size, generator.size), mode="area")
        w = generator.map(z)
        with autocast():
            drawn = generator.synthesise(generator.broadcast(w))
        picture, small = picture_loss(drawn, drawings), pair_loss(drawn, drawings)
        loss = picture + PAIRS * small
        generator.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
        average.update()
        run.log(picture=picture, pairs=small, w=w.std())
    return average.weights


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=16)
    torch.manual_seed(0)
    weights: Mapping[str, Tensor] = {}
    shares = {side: share for side, share in SHARES.items() if side > 32 or not options.onward}
    for side, share in shares.items():
        generator = build(side)
        if options.onward:
            take_over("stylegan2", generator)
        if weights:
            generator.load_state_dict(weights, strict=False)
        weights = train(
            generator,
            0.0 if options.export else share / sum(shares.values()) * options.minutes,
            options.batch,
            PEAK[side] * (ONWARD if options.onward else 1),
        )
    export("stylegan2", weights)


if __name__ == "__main__":
    main()
