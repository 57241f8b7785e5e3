"""Faces and the z that stand for them, so that StyleGAN2 can learn (z, drawing) pairs by regression.

z says each choice by a one among zeros, scaled, and each measure by a normally distributed number. Choices
that follow from a z drawn from a normal distribution, as the largest of some numbers, would take the mapping
network hours to learn: it has to make steps of them.
"""

from __future__ import annotations

import numpy as np
import torch

from training.drafts import SMALL, pair
from training.pictures import tensor
from training.world import Face, draw
from training.world.faces import CHOICES, MEASURES

STYLE_DIM = 96
ONE = 2.4  # makes the mean square of z about one, but for what is loud
LOUD = 5.0  # what SMALL attributes have instead: they are told louder than the many pixels others take


def z_of(face: Face) -> torch.Tensor:
    """The z [STYLE_DIM] that stands for a face."""
    z = torch.zeros(STYLE_DIM)
    start = 0
    for attribute, choices in CHOICES.items():
        value = getattr(face, attribute)
        name = ("no", "yes")[value] if isinstance(value, bool) else value
        z[start + list(choices).index(name)] = LOUD if attribute in SMALL else ONE
        start += len(choices)
    measures = torch.tensor(face.measures, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    z[start : start + len(MEASURES)] = torch.special.ndtri(measures)
    return z


def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z [size, STYLE_DIM] of fresh faces and their drawings [size, 3, 128, 128] in [-1, 1], in pairs."""
    drawings = (one.drawing for _ in range(size // 2) for one in pair(rng, Face))
    faces = [drawing for drawing in drawings if isinstance(drawing, Face)]
    return torch.stack([z_of(face) for face in faces]), tensor(map(draw, faces))
