"""The Fréchet distance between two sets of pictures, in the features of two networks: it sees blotches.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017
(arXiv 1706.08500). Inception's features are of photos; these are the reader's, and those of a network that
nothing was trained on or by, of random filters, as in Naeem et al., "Reliable Fidelity and Diversity Metrics
for Generative Models", 2020 (arXiv 2002.09797). e4e's trunk is no judge: it learned to look past blur.
A few hundred pictures bias a distance upwards: compare those of as many.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.reader import Reader

WIDTHS = (24, 48, 64)  # channels of the random network's layers


def distance(a: Tensor, b: Tensor) -> float:
    """Between the normal distributions that fit features [N, d] and [M, d]."""
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.mT), torch.cov(b.mT)
    # the trace of the root of a product of two covariances is the sum of the roots of its eigenvalues
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    return float(means + cov_a.trace() + cov_b.trace() - 2 * root)


class Texture(nn.Module):
    """How much each of some random filters varies over a picture: pictures [N, 3, H, W] -> [N, channels].

    Layers of 3x3 filters, orthogonal and always the same, each but the first halving the sides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        rng = torch.Generator().manual_seed(0)
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layer = nn.Conv2d(before, after, 3, stride=1 if before == 3 else 2, padding=1, bias=False)
            nn.init.orthogonal_(layer.weight, gain=2.0, generator=rng)
            self.layers.append(layer.requires_grad_(False))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        deviations, h = [], pictures
        for layer in self.layers:
            h = F.relu(layer(h))
            deviations.append(h.flatten(2).std(2))
        return torch.cat(deviations, 1)


class Judge:
    """How far pictures are from others, as the reader and the random network see them.

    Args:
        reader: gives the first features.
        others: pictures [N, 3, SIDE, SIDE] in [-1, 1] to compare with.
    """

    def __init__(self, reader: Reader, others: Tensor) -> None:
        self.reader, self.texture = reader, Texture()
        self.others = self.features(others)

    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The features of pictures [N, 3, SIDE, SIDE] in [-1, 1], [N, d] each."""
        return self.reader.features(pictures), torch.cat([self.texture(some) for some in pictures.split(64)])

    def distances(self, pictures: Tensor) -> tuple[float, float]:
        """From the others: in the reader's features and in textures."""
        of_reader, of_texture = map(distance, self.features(pictures), self.others)
        return of_reader, of_texture
