"""Train the demo VQGAN on drawings: `python -m training.vqgan`.

It is trained without codes first: a codebook that is there from the start collapses before the encoder has
learned colours. Then the encoder is left as it is, its latents are clustered into codes, and the decoder sees
codes, latents and noisy latents, since LatentRevisions optimises latents that are no codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from LatentRevisions.quantisers import VectorQuantiser
from LatentRevisions.vqgan import VQGAN
from training.pictures import batch, picture_loss
from training.run import Average, Run, arguments, autocast, export, take_over

CROPPED_SHARE = (
    0.85  # of the training, on quarters of pictures, which cost a quarter and teach nearly as much
)
PLAIN_SHARE = 0.85  # of the training, without codes
NORM_GROUPS = 2
NOISE = 0.1  # strongest noise on latents, in their own deviations


def build() -> VQGAN:
    """The published layout, f8, with 32 instead of 128 channels and one residual block a level."""
    vqgan = VQGAN(
        ch=32,
        ch_mult=(1, 1, 2, 4),
        num_res_blocks=1,
        attn_levels=(3,),
        z_channels=16,
        embed_dim=16,
        n_embed=4096,
        norm_groups=NORM_GROUPS,
    )
    for name, module in vqgan.named_modules():
        if isinstance(module, nn.Conv2d):
            # features keep their size through the layers, and residual blocks begin as next to nothing
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("conv2", "proj_out")):
                module.weight.data.mul_(0.1)
    return vqgan


def crop(pictures: torch.Tensor, side: int, rng: np.random.Generator) -> torch.Tensor:
    """A random square of the pictures [N, 3, H, W], the same of all: [N, 3, side, side]."""
    top, left = rng.integers(0, pictures.shape[-1] - side + 1, 2)
    return pictures[:, :, top : top + side, left : left + side]


@torch.no_grad()
def cluster(vqgan: VQGAN, codes: torch.Tensor, pictures: int = 640, rounds: int = 12) -> None:
    """Set the codes [K, d] to the centres of clusters of latents (k-means)."""
    rng = np.random.default_rng(2)
    several = torch.cat([vqgan.encode(batch(rng, 32)[0]) for _ in range(pictures // 32)])
    latents = several.float().permute(0, 2, 3, 1).flatten(0, 2)
    codes.copy_(latents[torch.randperm(len(latents))[: len(codes)]])
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, codes).argmin(1) for part in latents.split(4096)])
        sizes = torch.bincount(nearest, minlength=len(codes))
        sums = torch.zeros_like(codes).index_add_(0, nearest, latents)
        # a code that nothing is near begins anew at some latent
        elsewhere = latents[torch.randint(len(latents), (len(codes),))]
        codes.copy_(torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp_min(1), elsewhere))


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=8)
    torch.manual_seed(0)
    vqgan = build().to(memory_format=torch.channels_last)
    if options.onward:
        take_over("vqgan", vqgan)
    assert isinstance(vqgan.quantize, VectorQuantiser)
    codes = vqgan.quantize.embedding.weight
    average = Average(vqgan)
    optimiser = torch.optim.AdamW(vqgan.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("vqgan", options.minutes, {"vqgan": vqgan, "average": average, "optimiser": optimiser})
    clustered = False

    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(1e-3)
        rng = np.random.default_rng([1, step])
        pictures, _ = batch(rng, options.batch)
        pictures = crop(pictures, 64 if run.done < CROPPED_SHARE else 128, rng)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        plain = run.done <= PLAIN_SHARE
        with autocast(), torch.set_grad_enabled(plain):
            z = vqgan.encode(pictures)
        z = z.float()
        noise = NOISE * z.detach().std() * torch.rand(len(z), 1, 1, 1)
        latents = z + noise * torch.randn_like(z)
        losses = {}
        if plain:
            losses["size"] = 0.1 * (z.square().mean() - 1).square()  # of unit size, well within the clip at 6
        else:
            if not clustered:
                vqgan.load_state_dict(average.weights)  # the encoder that stays is the averaged one
                with torch.no_grad():
                    z = vqgan.encode(pictures).float()
                cluster(vqgan, codes.data)
                clustered = True
            quantised, _ = vqgan.quantise(z)
            losses["codes"] = F.mse_loss(quantised, z).detach()
            latents = torch.where(torch.rand(len(z), 1, 1, 1) < 0.5, quantised.detach(), latents)
        with autocast():
            drawn = vqgan.decode(latents)
        losses["picture"] = picture_loss(drawn.float(), pictures)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(vqgan.parameters(), 1.0)
        optimiser.step()
        average.update()
        run.log(**losses)
    export("vqgan", {**average.weights, "norm_groups": torch.tensor(NORM_GROUPS)})


if __name__ == "__main__":
    main()
