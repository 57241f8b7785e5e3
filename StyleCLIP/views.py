"""What CLIP and the identity network see of faces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mead.nn.cutouts import Cutouts
from mead.nn.resampling import resize
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.identity import WHOLE


class Views:
    """The views of a step.

    Args:
        side: of CLIP's input, in pixels.
        hyperparameters: the weights set's.
    """

    def __init__(self, side: int, hyperparameters: Hyperparameters) -> None:
        self.side = side
        self.hyperparameters = hyperparameters
        self.cutouts = Cutouts(hyperparameters)

    def shrunk(self, faces: Tensor) -> Tensor:
        """Faces [N, 3, H, W], about [-1, 1] -> [N, 3, S, S] in [-1, 1], large ones shrunk, once for all."""
        faces, side = faces.clamp(-1, 1), max(WHOLE, self.side)
        return F.adaptive_avg_pool2d(faces, side) if faces.shape[-1] > side else faces

    def for_clip(self, face: Tensor, generator: torch.Generator) -> Tensor:
        """A face [1, 3, S, S] in [-1, 1] -> [views, 3, side, side] in [0, 1]: all of it, and random crops."""
        picture = (face + 1) / 2
        size = self.side, self.side
        views = resize(picture, size)
        if not self.hyperparameters.cutouts:
            return views
        maps = self.cutouts.draw(*size, generator)
        crops = self.cutouts.cut(picture, maps[None], self.side)
        return torch.cat([views, crops + self.cutouts.noise(self.side, generator)])
