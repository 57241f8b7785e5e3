"""Faces and the z that stand for them, so that StyleGAN2 can learn (z, drawing) pairs by regression.

z says each choice by a one among zeros, scaled, and each measure by a normally distributed number. Choices
that follow from a z drawn from a normal distribution, as the largest of some numbers, would take the mapping
network hours to learn: it has to make steps of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from training.pictures import tensor
from training.world import Face, draw
from training.world.attributes import labels
from training.world.draft import Draft
from training.world.faces import CHOICES, MEASURES

STYLE_DIM = 96
ONE = 2.4  # makes the mean square of z about one, but for what is loud
LOUD = 5.0  # what SMALL attributes have instead: they are told louder than the many pixels others take
# What few faces wear is shown more often than the world draws it: colours of hats, and earrings.
ODDS = CHOICES | {"headwear": {"none": 5, "hat": 4, "crown": 1}, "earrings": {"no": 1, "yes": 2}}
SMALL = ("earrings", "expression")  # what takes few pixels: half of the pairs differ in one of these


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


def pair(rng: np.random.Generator) -> list[Face]:
    """Two faces that differ in one attribute that shows: what is small counts, too."""
    while True:
        draft = Draft.sample(rng, ODDS, MEASURES)
        name = str(rng.choice(SMALL if rng.random() < 0.5 else list(CHOICES)))
        value = str(rng.choice(list(CHOICES[name])))
        faces = [Face.of(draft), Face.of(replace(draft, chosen={**draft.chosen, name: value}))]
        if labels(faces[0]) != labels(faces[1]) and not any(face.held_out for face in faces):
            return faces


def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z [size, STYLE_DIM] of fresh faces and their drawings [size, 3, 128, 128] in [-1, 1], in pairs."""
    faces = [face for _ in range(size // 2) for face in pair(rng)]
    return torch.stack([z_of(face) for face in faces]), tensor(map(draw, faces))
