"""Learned starts for a job: of several that the network draws, the one that suits it best."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from LatentRevisions.hyperparameters import Hyperparameters
from LatentRevisions.masking import Masked
from LatentRevisions.start import LearnedStart
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision


class Draughtsman:
    """Draws learned starts.

    Args:
        network: draws them.
        decode: latents [N, embed_dim, h, w] -> pictures [N, 3, H, W] in [0, 1].
        perceptor: CLIP, which chooses.
        hyperparameters: the weights set's.
        device: the networks'.
    """

    def __init__(
        self,
        network: LearnedStart,
        decode: Callable[[Tensor], Tensor],
        perceptor: Perceptor,
        hyperparameters: Hyperparameters,
        device: torch.device,
    ) -> None:
        self.network = network
        self.decode = decode
        self.perceptor = perceptor
        self.hyperparameters = hyperparameters
        self.precision = Precision(device)

    def draw(
        self,
        target: Tensor,
        grid: tuple[int, int],
        generator: torch.Generator,
        scene: Tensor | None = None,
    ) -> Tensor:
        """The learned start that CLIP finds nearest to the target, of several: [1, embed_dim, *grid].

        Args:
            target: what it should show, [d].
            scene: embedding [d] of a picture, which says what the target leaves open.
        """
        seen = None if scene is None else scene[None]
        with self.precision.autocast():
            # one by one: rounding depends on the batch size
            drafts = self.network.drafts(
                target[None], self.hyperparameters.start_candidates, generator, seen
            ).split(1)
            return max(
                (self.network(draft, grid) for draft in drafts),
                key=lambda z: self._similarity(self.decode(z.float()), target),
            ).float()

    def draw_inside(
        self, masked: Masked, kept: Tensor, scene: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The starter's latents, with a learned start where the mask lets them change.

        Many are drawn that show the starter's scene and, where the mask is, what the target says. Those that
        fit best to what is around the mask are tried; the one that CLIP finds nearest to the target is taken.

        Args:
            kept: the starter's latents, [1, embed_dim, h, w].
            scene: the starter's embedding, [d].
            target: [d].
        """
        hyper = self.hyperparameters
        with self.precision.autocast():
            drafts = self.network.drafts(
                target[None], hyper.masked_candidates, generator, scene[None], masked.centre
            )
            latents = self.network(drafts, (kept.shape[2], kept.shape[3])).float()
            misfits = masked.misfits(latents, kept)
            best: tuple[float, Tensor] | None = None
            for k in misfits.argsort()[: hyper.start_candidates].tolist():
                merged = masked.merge(latents[k : k + 1], kept)
                similarity = self._similarity(masked.over(self.decode(merged)), target)
                merit = hyper.towards * similarity - float(misfits[k])
                if best is None or merit > best[0]:
                    best = merit, merged
        return kept if best is None else best[1]

    def _similarity(self, picture: Tensor, target: Tensor) -> float:
        return float(self.perceptor.embed_image(picture)[0].float() @ target)
