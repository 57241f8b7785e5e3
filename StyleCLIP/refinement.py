"""Refining an inversion: what e4e loses of a face comes back by optimising its codes on the photo itself.

As Zhu et al., "In-Domain GAN Inversion for Real Image Editing", ECCV 2020 (arXiv 2004.00049), after an
encoder. Codes that stay near e4e's can still be edited.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from StyleCLIP.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Refinement:
    """What the codes of a face are refined to.

    Attributes:
        picture: the aligned face as the networks see it, [1, 3, S, S] in [-1, 1].
        features: its identity, [1, d], of unit length.
        codes: e4e's, w+ [1, n_latent, style_dim].
        steps: how many it takes.
    """

    picture: Tensor
    features: Tensor
    codes: Tensor
    steps: int

    def loss(self, face: Tensor, features: Tensor, codes: Tensor, own: Hyperparameters) -> Tensor:
        """mean (face - picture)² + identity · (1 - cos(f, f₀)) + l2 · ‖w+ - w+₀‖².

        Args:
            face: [1, 3, S, S] in [-1, 1].
            features: of the face, [1, d].
            codes: w+ [1, n_latent, style_dim].
            own: the weights of the terms.
        """
        pixels = F.mse_loss(face, self.picture)
        identity = 1 - (features * self.features).sum()
        far = (codes - self.codes).square().sum()
        return pixels + own.refine_identity * identity + own.refine_l2 * far
