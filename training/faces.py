"""Faces drawn from a generator's z by a fixed rule, so that StyleGAN2 can learn (z, drawing) pairs by regression.

z, scaled to unit mean square as the mapping network scales it first, begins with the numbers a face is made from;
coordinates beyond them mean nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from training.pictures import tensor
from training.world import draw
from training.world.faces import NUMBERS, Face

STYLE_DIM = 96


def face(z: np.ndarray) -> Face:
    """The face that z [STYLE_DIM] stands for."""
    return Face.from_normals(z[:NUMBERS] / np.sqrt(np.mean(z**2)))


def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor, list[Face]]:
    """`size` fresh pairs: z [size, STYLE_DIM], drawings [size, 3, 128, 128] in [-1, 1] and the faces.

    Combinations kept out of training are not among them.
    """
    zs: list[np.ndarray] = []
    faces: list[Face] = []
    while len(zs) < size:
        z = rng.standard_normal(STYLE_DIM)
        drawn = face(z)
        if not drawn.held_out:
            zs.append(z)
            faces.append(drawn)
    return torch.from_numpy(np.stack(zs)).float(), tensor(map(draw, faces)), faces
