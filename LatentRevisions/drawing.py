"""Learned starts for a job: of several that the network draws, the one that suits it best."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
        square = Square.in_grid(grid)
        with self.precision.autocast():
            # one by one: rounding depends on the batch size
            drafts = self.network.drafts(
                target[None], self.hyperparameters.start_candidates, generator, seen
            ).split(1)
            return max(
                (square.drawn(self.network, draft) for draft in drafts),
                key=lambda z: self._similarity(self.decode(z.float()), target),
            ).float()

    def changed(self, kept: Tensor, scene: Tensor, target: Tensor) -> Tensor | None:
        """A picture's latents [1, embed_dim, h, w] with what the target says drawn into them.

        Args:
            kept: the picture's latents.
            scene: the embedding of the square in its middle, [d].
            target: [d].

        Returns:
            None for a picture unlike those that the network draws.
        """
        square = Square.in_grid((kept.shape[2], kept.shape[3]))
        with self.precision.autocast():
            change = self.network.change(square.part(kept), scene[None], target[None])
        return None if change is None else kept + square.spread(change)

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
        square = Square.in_grid((kept.shape[2], kept.shape[3]), masked.centre)
        with self.precision.autocast():
            drafts = self.network.drafts(
                target[None], hyper.masked_candidates, generator, scene[None], square.place(masked.centre)
            )
            latents = square.drawn(self.network, drafts).float()
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


class Square(NamedTuple):
    """The square of a grid of latents that is drawn, as the network has learned it; its border goes on to the
    grid's edges, so that nothing is stretched.

    Attributes:
        grid: height and width, in latents.
        left, top: from the grid's edges.
    """

    grid: tuple[int, int]
    left: int
    top: int

    @classmethod
    def in_grid(cls, grid: tuple[int, int], around: tuple[float, float] = (0.0, 0.0)) -> Square:
        """The largest square, as near as it can be around a place: x and y in half sides from the centre."""
        height, width = grid
        side = min(grid)
        left, top = (
            min(max(0, int((place + 1) / 2 * length - side / 2)), length - side)
            for place, length in zip(around, (width, height), strict=True)
        )
        return cls(grid, left, top)

    def place(self, place: tuple[float, float]) -> tuple[float, float]:
        """A place in the grid, x and y in half sides from its centre, in half sides from the square's."""
        height, width = self.grid
        if height == width:
            return place
        side = min(self.grid)
        x, y = (place[0] + 1) / 2 * width - self.left, (place[1] + 1) / 2 * height - self.top
        return 2 * x / side - 1, 2 * y / side - 1

    def drawn(self, network: LearnedStart, drafts: Tensor) -> Tensor:
        """Latents [N, embed_dim, *grid] of drafts [N, numbers]."""
        side = min(self.grid)
        return self.spread(network(drafts, (side, side)))

    def part(self, latents: Tensor) -> Tensor:
        """The square of latents [N, embed_dim, *grid]."""
        side = min(self.grid)
        return latents[:, :, self.top : self.top + side, self.left : self.left + side]

    def spread(self, latents: Tensor) -> Tensor:
        """Latents [N, embed_dim, *grid] of those of the square."""
        height, width = self.grid
        right, bottom = width - latents.shape[3] - self.left, height - latents.shape[2] - self.top
        return F.pad(latents, (self.left, right, self.top, bottom), mode="replicate")
