"""Train the demo e4e encoder to invert drawn faces: `python -m training.e4e`, after `training.stylegan2`.

The generator's own pairs (z, drawing) give the codes a drawing should get; the generator's picture of the
codes found is compared with the drawing as well. Blurred, noisy and tinted drawings teach it to look past
what photos have.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.stylegan2 import Generator
from training.faces import STYLE_DIM, batch, z_of
from training.muon import Muon
from training.pictures import picture_loss
from training.run import DEMO, Average, Run, Stateful, arguments, autocast, export, take_over
from training.world import Face

PEAK = 3e-3  # learning rate
ONWARD = 0.3  # of that, from weights that ship: the full rate undoes what is learned
PAIRS = 1.0  # weight of what pairs differ in


def build(n_styles: int) -> Encoder4Editing:
    return Encoder4Editing(
        input_size=128,
        n_styles=n_styles,
        style_dim=STYLE_DIM,
        widths=(16, 32, 48, 64),
        blocks=(1, 2, 2, 2),
        coarse=n_styles,  # heads that look at finer features are larger, and these see enough
        middle=0,
    )


def roughen(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures [N, 3, H, W], some blurred, all with some noise, a little off in brightness and colour."""
    n = len(pictures)
    blurred = F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    share = torch.rand((n, 1, 1, 1), generator=generator) ** 2
    pictures = pictures + share * (blurred - pictures)
    pictures = pictures * (1 + 0.08 * torch.randn((n, 3, 1, 1), generator=generator))
    pictures = pictures + 0.05 * torch.randn((n, 3, 1, 1), generator=generator)
    strength = 0.15 * torch.rand((n, 1, 1, 1), generator=generator) ** 2
    return pictures + strength * torch.randn(pictures.shape, generator=generator)


def pair_loss(off: Tensor, codes: Tensor) -> Tensor:
    """How far codes are off along the way from one face of a pair to the other, of that way, squared.

    So a mouth counts as much as a background, which changes codes far more. `off` is [N, n_styles,
    style_dim], codes [N, style_dim]; pairs stand one behind the other.
    """
    way = (codes[::2] - codes[1::2]).repeat_interleave(2, 0)[:, None]
    return ((off * way).sum(2) / way.square().sum(2)).square().mean()


def main() -> None:
    options = arguments(__doc__, minutes=25, batch=16)
    torch.manual_seed(0)
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors")).requires_grad_(False)
    encoder = build(generator.n_latent)
    if options.onward:
        take_over("e4e", encoder)
    average = Average(encoder, decay=0.995)
    matrices = {name: p for name, p in encoder.named_parameters() if p.ndim >= 2}
    last = [p for name, p in matrices.items() if name.endswith(".linear.weight")]
    earlier = [p for name, p in matrices.items() if not name.endswith(".linear.weight")]
    # the last layers' weights are stored larger than they act
    muon = Muon([{"params": earlier, "share": 1.0}, {"params": last, "share": 10.0}], lr=0.0)
    adam = torch.optim.Adam([{"params": [p for p in encoder.parameters() if p.ndim < 2], "share": 1.0}])
    rng = np.random.default_rng(8)
    with torch.no_grad():
        codes = generator.map(torch.stack([z_of(Face.sample(rng)) for _ in range(5000)]))
    mean, spread = codes.mean(0), codes.std(0).mean()
    parts: dict[str, Stateful] = {"encoder": encoder, "average": average, "muon": muon, "adam": adam}
    run = Run("e4e", options.minutes, parts)
    peak = PEAK * (ONWARD if options.onward else 1)
    for step in () if options.export else run:
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = run.rate(peak) * group["share"]
        noise = torch.Generator().manual_seed(step)
        z, drawings = batch(np.random.default_rng([7, step]), options.batch)
        with torch.no_grad():
            wanted = generator.map(z) - mean
        with autocast():
            offsets = encoder(roughen(drawings, noise)).float()
            few = slice(0, max(1, options.batch // 4))  # pictures cost ten times what codes do
            drawn = generator.synthesise(offsets[few] + mean)
        off = offsets - wanted[:, None]
        code_loss = (off / spread).square().mean()
        pairs = pair_loss(off, wanted)
        picture = picture_loss(drawn, drawings[few])
        loss = code_loss + PAIRS * pairs + picture
        encoder.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update()
        run.log(codes=code_loss, pairs=pairs, picture=picture)
    export("e4e", {**average.weights, "latent_avg": mean.expand(generator.n_latent, -1)})


if __name__ == "__main__":
    main()
