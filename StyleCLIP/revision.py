"""The state of a StyleCLIP job: the face that is being edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from mead.nn.losses import Sum
from mead.revision import Revision


@dataclass(eq=False, kw_only=True)
class StyleRevision(Revision):
    """A face being edited: its latents are the codes w+ [1, n_latent, style_dim]."""

    face: Tensor  # w+ of the face as it was, [1, n_latent, style_dim]
    codes: Tensor  # w+ at the start, [1, n_latent, style_dim]
    features: Tensor  # identity of the face as it was, [1, d]
    learning_rate: float  # at the top of the ramp, see `ramp`
    objective: Sum
    strength: float = 1.0  # how much of the edit the picture shows
    styles: Sequence[Tensor] | None = None  # the edit, [1, in] each, if it was found without optimisation

    @property
    def shown(self) -> Tensor:
        """The codes of the picture, w+ [1, n_latent, style_dim]."""
        if self.strength == 1:  # to the last bit
            return self.latents
        return self.face + self.strength * (self.latents - self.face)

    @classmethod
    def of_styles(cls, styles: Sequence[Tensor], codes: Tensor, seed: int, **upscaling: Any) -> StyleRevision:
        """An edit that needs no optimisation, of a face's codes w+; its one step has nothing to do."""
        return cls(
            latents=codes,
            optimiser=torch.optim.SGD([codes]),
            generator=torch.Generator(codes.device).manual_seed(seed),
            steps=1,
            face=codes,
            codes=codes,
            features=codes.new_empty(1, 0),
            learning_rate=0.0,
            objective=Sum([]),
            styles=styles,
            **upscaling,
        )


def ramp(done: float, up: float = 0.05, down: float = 0.25) -> float:
    """The learning rate's factor once the share `done` of the steps is done: linear up, a cosine down."""
    falling = min(1.0, (1 - done) / down)
    return (1 - cos(pi * falling)) / 2 * min(1.0, done / up)
