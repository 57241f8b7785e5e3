"""The Fréchet distance between two sets of pictures, in the features of two networks: it sees blotches.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017
(arXiv 1706.08500). Inception's features are of photos; these are of the reader, and of the trunk of e4e, which
no other training looks at. A few hundred pictures bias a distance upwards: compare those of as many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from StyleCLIP.e4e import Encoder4Editing
from training.reader import Reader


def distance(a: Tensor, b: Tensor) -> float:
    """Between the normal distributions that fit features [N, d] and [M, d]."""
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.mT), torch.cov(b.mT)
    # the trace of the root of a product of two covariances is the sum of the roots of its eigenvalues
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    return float(means + cov_a.trace() + cov_b.trace() - 2 * root)


class Judge:
    """How far pictures are from others, as two networks see them.

    Args:
        reader: gives the first features.
        encoder: gives the second: the mean over places of what its trunk hands to the pyramid.
        others: pictures [N, 3, SIDE, SIDE] in [-1, 1] to compare with.
    """

    def __init__(self, reader: Reader, encoder: Encoder4Editing, others: Tensor) -> None:
        self.reader, self.encoder = reader, encoder
        self.others = self.features(others)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The features of pictures [N, 3, SIDE, SIDE] in [-1, 1], [N, d] each."""
        trunk = [self.encoder.pooled(some) for some in pictures.split(64)]
        return self.reader.features(pictures), torch.cat(trunk)

    def distances(self, pictures: Tensor) -> tuple[float, float]:
        """From the others, in the reader's features and in the encoder's."""
        of_reader, of_encoder = map(distance, self.features(pictures), self.others)
        return of_reader, of_encoder
