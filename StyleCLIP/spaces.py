"""The two spaces in which a face is edited: StyleGAN2's codes w+, and the styles of all its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from StyleCLIP.frozen_generator import FrozenGenerator


@dataclass(frozen=True)
class Spaces:
    """Latents of either space: w+ [N, n_latent, style_dim], or all styles one after another [N, numbers]."""

    generator: FrozenGenerator

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """What latents of one face may be."""
        return [(self.generator.n_latent, self.generator.style_dim), (sum(self.generator.style_sizes),)]

    def styles(self, latents: Tensor) -> Sequence[Tensor]:
        """The styles [N, in] of latents."""
        if latents.ndim == 3:
            return self.generator.styles(latents)
        return latents.split(self.generator.style_sizes, 1)

    def to_styles(self, w_plus: Tensor) -> Tensor:
        """w+ [N, n_latent, style_dim] as styles [N, numbers]."""
        return torch.cat(list(self.generator.styles(w_plus)), 1)

    def synthesise(self, latents: Tensor) -> Tensor:
        """Faces [N, 3, size, size], about [-1, 1]."""
        return self.generator.synthesise_styles(self.styles(latents))


@dataclass(frozen=True)
class StyleRange:
    """The styles that faces usually have.

    An edit that goes on beyond its end soon leaves what the generator has learned: a white hat turns pink,
    and at last the picture falls apart. So each style stops where those of faces usually end.

    Attributes:
        least, most: of each style, [numbers].
    """

    spaces: Spaces
    least: Tensor
    most: Tensor

    def beyond(self, face: Tensor, edited: Tensor, strength: float) -> Tensor:
        """Styles [1, numbers] as far from the face's to the edit's, and further on within the range.

        Args:
            face, edited: latents of one of the spaces; what is outside of the range already goes no further.
            strength: 1 is the edit.
        """
        ends = (face, edited) if face.ndim == 2 else (self.spaces.to_styles(each) for each in (face, edited))
        first, last = ends
        far = first + strength * (last - first)
        least = torch.minimum(torch.minimum(first, last), self.least)
        most = torch.maximum(torch.maximum(first, last), self.most)
        return far.clamp(least, most)
