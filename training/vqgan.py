"""Train the demo VQGAN on drawings: `python -m training.vqgan`.

It is trained without codes first: a codebook that is there from the start collapses before the encoder has
learned colours. Then codes are taken from the encoder's own latents, and the decoder sees codes, latents and
noisy latents, since LatentRevisions optimises latents that are no codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from LatentRevisions.vqgan import VQGAN, VectorQuantiser
from training.pictures import batch, picture_loss
from training.run import Average, Run, arguments, export

CROPPED_SHARE = 0.6  # of the training, on quarters of pictures, which cost a quarter and teach nearly as much
PLAIN_SHARE = 0.85  # of the training, without codes
NORM_GROUPS = 2
NOISE = 0.3  # strongest noise on latents, in their own deviations


def build() -> VQGAN:
    """The published f16 layout with 32 instead of 128 channels and one residual block a level."""
    vqgan = VQGAN(
        ch=32,
        ch_mult=(1, 1, 2, 4, 4),
        num_res_blocks=1,
        attn_levels=(4,),
        z_channels=64,
        embed_dim=64,
        n_embed=1024,
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
def revive_codes(codes: torch.Tensor, z: torch.Tensor, used: torch.Tensor) -> None:
    """Move codes that nothing uses onto latents of this batch, so that the whole codebook is put to work."""
    idle = (used < 0.02).nonzero().flatten()
    if len(idle):
        latents = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        picks = torch.randint(len(latents), (len(idle),))
        codes[idle] = latents[picks].float()
        used[idle] = 1.0


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=8)
    torch.manual_seed(0)
    vqgan = build().to(memory_format=torch.channels_last)
    assert isinstance(vqgan.quantize, VectorQuantiser)
    codes = vqgan.quantize.embedding.weight
    average = Average(vqgan)
    optimiser = torch.optim.AdamW(vqgan.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("vqgan", options.minutes, {"vqgan": vqgan, "average": average, "optimiser": optimiser})
    used = torch.zeros(len(codes))  # running counts of the codes in use

    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(1e-3)
        rng = np.random.default_rng([1, step])
        pictures, _ = batch(rng, options.batch)
        pictures = crop(pictures, 64 if run.done < CROPPED_SHARE else 128, rng)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = vqgan.encode(pictures)
        z = z.float()
        noise = NOISE * z.detach().std() * torch.rand(len(z), 1, 1, 1)
        latents = z + noise * torch.randn_like(z)
        losses = {"size": 0.1 * (z.square().mean() - 1).square()}  # of unit size, well within the clip at 6
        if run.done > PLAIN_SHARE:
            if step % 50 == 0 or not used.any():
                revive_codes(codes, z, used)
            quantised, indices = vqgan.quantise(z)
            used.mul_(0.98).add_(torch.bincount(indices.flatten(), minlength=len(used)), alpha=0.02)
            losses["codes"] = F.mse_loss(quantised, z.detach()) + 0.25 * F.mse_loss(z, quantised.detach())
            latents = torch.where(torch.rand(len(z), 1, 1, 1) < 0.5, z + (quantised - z).detach(), latents)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = vqgan.decode(latents)
        losses["picture"] = picture_loss(drawn.float(), pictures)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(vqgan.parameters(), 1.0)
        optimiser.step()
        average.update()
        run.log(**losses, used=float((used > 0.02).sum()))
    export("vqgan", {**average.weights, "norm_groups": torch.tensor(NORM_GROUPS)})


if __name__ == "__main__":
    main()
