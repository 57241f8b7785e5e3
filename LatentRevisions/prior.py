"""The prior: after each step the latents move a part of the way to the denoiser's output.

This keeps them near latents of drawings, however many steps follow (regularisation by denoising, Romano et
al. 2017, arXiv 1611.02862), and turns noise into a picture. Classifier-free guidance (Ho and Salimans 2022,
arXiv 2207.12598) strengthens what the denoiser is told about the target.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.denoiser import Denoiser
from LatentRevisions.start import LearnedStart
from mead.nn.graphs import Recorded
from mead.nn.precision import Precision


class Prior:
    """Pulls latents towards those of pictures that match a target.

    Args:
        denoiser: removes noise from latents.
        start: gives the denoiser its hints about a target.
        part: of the way to the denoiser's output that latents move, from 0 to 1.
        sharpen: how much of the difference from their surroundings is added to what the denoiser makes.
        device: of both networks.
    """

    def __init__(
        self, denoiser: Denoiser, start: LearnedStart, part: float, sharpen: float, device: torch.device
    ) -> None:
        self.denoiser = denoiser
        self.start = start
        self.part = part
        self.sharpen = sharpen
        self.precision = Precision(device)
        self._denoised = Recorded(self._pass_denoiser)

    @torch.no_grad()
    def hints(self, target: Tensor) -> Tensor:
        """What the denoiser is told, [1, hints], of a target [d]."""
        with self.precision.autocast():
            return self.start.hints(target[None]).float()

    @torch.no_grad()
    def pull(self, latents: Tensor, hints: Tensor, guidance: float, noise: float, share: float = 1.0) -> None:
        """Move latents [1, embed_dim, h, w] in place.

        Args:
            hints: what the picture should show, [1, hints].
            guidance: how much the hints count: 0 not at all, 1 as the denoiser learned it.
            noise: deviation of the noise to be expected in the latents.
            share: of what they would move, from 0 to 1.
        """
        told, free = self._denoised(latents, torch.full((2,), noise, device=latents.device), hints).split(1)
        denoised = free + guidance * (told - free)
        if self.sharpen:
            around = F.avg_pool2d(denoised, 3, stride=1, padding=1, count_include_pad=False)
            denoised += self.sharpen * (denoised - around)
        latents.lerp_(denoised, self.part * share)

    @torch.no_grad()
    def record_graphs(self, latents: Tensor) -> None:
        """Record CUDA graphs of the pass for latents [1, embed_dim, h, w] of this size."""
        hints = self.hints(torch.ones(self.start.odds_in.in_features, device=latents.device))
        self._denoised.record(latents.detach(), torch.ones(2, device=latents.device), hints)

    def _pass_denoiser(self, latents: Tensor, noise: Tensor, hints: Tensor) -> Tensor:
        """Latents without noise [2, embed_dim, h, w]: as the hints say, and without them."""
        with self.precision.autocast():
            both = torch.cat([hints, torch.zeros_like(hints)])
            return self.denoiser(latents.expand(2, -1, -1, -1), noise, both).float()
