"""The guides of a picture: the CLIPs of a weights set, each of which says how near it is to its target."""

from __future__ import annotations

import torch
from torch import Tensor

from LatentRevisions.aims import Aims
from LatentRevisions.hyperparameters import Hyperparameters
from LatentRevisions.losses import Similarity
from mead.nn.cutouts import Cutouts
from mead.nn.graphs import Recorded
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision

AWAY_FROM = "incoherent, confusing, cropped, watermarks"  # a text no picture should look like, as published


class Guide:
    """One CLIP, with its part of the objective.

    Args:
        perceptor: the CLIP.
        device: its device.
    """

    def __init__(self, perceptor: Perceptor, device: torch.device) -> None:
        self.perceptor = perceptor
        self.device = device
        self.precision = Precision(device)
        self.aims = Aims(perceptor, device)
        self._embed = Recorded(self._pass_perceptor)
        with torch.no_grad():
            self.away_from = perceptor.embed_text([AWAY_FROM])[0]

    def losses(self, target: Tensor, hyper: Hyperparameters, guides: int) -> tuple[Similarity, Similarity]:
        """Its share of -towards · cos(Iᵢ, target) and of away · cos(Iᵢ, E(AWAY_FROM)), for each cutout i.

        Args:
            target: of unit length, [d].
            guides: how many there are, which all count the same.
        """
        return Similarity(target, -hyper.towards / guides), Similarity(self.away_from, hyper.away / guides)

    def embed(self, picture: Tensor, maps: Tensor, cutouts: Cutouts, generator: torch.Generator) -> Tensor:
        """Embeddings [cutouts, d] of a picture's cutouts, with noise that is drawn for them.

        Args:
            picture: [1, 3, H, W] in [0, 1].
            maps: where the cutouts lie, [cutouts, 2, 3].
        """
        return self._embed(picture, maps, cutouts.noise(self.perceptor.input_size, generator))

    def record_graph(self, picture: Tensor, cutouts: int) -> None:
        """Record a CUDA graph of the pass for a picture like this, which requires gradients."""
        side = self.perceptor.input_size
        maps, noise = (torch.zeros(cutouts, *rest, device=self.device) for rest in ((2, 3), (3, side, side)))
        self._embed.record(picture, maps, noise)

    def _pass_perceptor(self, picture: Tensor, maps: Tensor, noise: Tensor) -> Tensor:
        """A picture [1, 3, H, W] in [0, 1] -> CLIP's embeddings of its cutouts, [cutouts, d].

        Args:
            maps: where they lie, [cutouts, 2, 3].
            noise: added to them, [cutouts, 3, S, S].
        """
        crops = [Cutouts.cut(picture, maps[None], self.perceptor.input_size).add_(noise)]
        with self.precision.autocast():
            return self.perceptor.embed_image(crops.pop())  # nothing here keeps them while CLIP computes
