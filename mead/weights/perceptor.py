"""The CLIP of a weights set, which both models share."""

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
