"""Golden inputs and outputs of the published networks, on weights made from their key names alone.

tests/data/parity/NAME.json holds hyperparameters and the shape of every key of the published state dict;
NAME.npz holds inputs and the outputs of the published implementation (float32, CPU, eval mode) with the
weights that `fill` makes.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "data" / "parity"
TOLERANCE = 1e-4  # relative to the largest absolute value expected


@dataclass(frozen=True)
class Fixture:
    shapes: dict[str, tuple[int, ...]]
    state_dict: dict[str, Tensor]
    arrays: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]


def load(name: str, with_weights: bool = True) -> Fixture:
    """Return the fixture, its state dict filled, or empty: filling takes seconds at full size."""
    description = json.loads((FOLDER / f"{name}.json").read_text())
    shapes = {key: tuple(shape) for key, shape in description["shapes"].items()}
    with np.load(FOLDER / f"{name}.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    state_dict = fill(shapes, description["matrix"]) if with_weights else {}
    return Fixture(shapes, state_dict, tensors)


def fill(shapes: dict[str, tuple[int, ...]], matrix: str) -> dict[str, Tensor]:
    """Make float32 tensors of these shapes.

    Tensors of two or more axes are unit normals, divided by the root of their fan-in where `matrix` is
    "fan_in". Of one axis: 1 + 0.1|n| for variances, 1 + 0.1n for weights, 0.1n for the rest. Of none
    (counters): 0.
    """
    return {key: _fill(key, shape, matrix) for key, shape in shapes.items()}


def _fill(key: str, shape: tuple[int, ...], matrix: str) -> Tensor:
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    value: np.ndarray
    if len(shape) == 0:
        value = np.zeros(shape)
    elif len(shape) == 1 and key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(normal)
    elif len(shape) == 1:
        value = 0.1 * normal + (1 if key.endswith("weight") else 0)
    elif matrix == "fan_in":
        # in place: at full size, copies would take longer than the numbers do
        value = np.divide(normal, np.sqrt(np.prod(shape[1:])), out=normal, casting="same_kind")
    else:
        value = normal
    return torch.from_numpy(np.asarray(value, np.float32))


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value expected."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()
