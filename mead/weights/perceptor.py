"""The CLIP of a weights set, or its several ones, which the models share."""

from __future__ import annotations

import torch

from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.weights.loading import OncePerProcess
from mead.weights.sets import WeightSet


@OncePerProcess
def load_perceptor(weights: str, device: str) -> Perceptor:
    """The CLIP of a weights set on a device.

    Raises:
        WeightsError: naming the file that is missing or not whole.
    """
    perceptor = Perceptor.from_state_dict(WeightSet.find(weights).read("clip"))
    return perceptor.freeze(Precision(torch.device(device)).dtype).to(device)


@OncePerProcess
def load_perceptors(weights: str, device: str) -> tuple[Perceptor, ...]:
    """All CLIPs of a weights set on a device, `load_perceptor`'s first.

    Raises:
        WeightsError: naming the file that is missing or not whole.
    """
    chosen = WeightSet.find(weights)
    dtype = Precision(torch.device(device)).dtype
    others = (Perceptor.from_state_dict(chosen.read(name)) for name in chosen.perceptors[1:])
    return load_perceptor(weights, device), *(each.freeze(dtype).to(device) for each in others)
