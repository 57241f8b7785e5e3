"""The upscaler of a weights set, which both models share."""

from __future__ import annotations

import torch

from mead.nn.upscaler import SRVGGNetCompact
from mead.upscaling import Upscaler
from mead.weights.loading import OncePerProcess
from mead.weights.sets import WeightSet


@OncePerProcess
def load_upscaler(weights: str, device: str) -> Upscaler | None:
    """The upscaler of a weights set on a device; None if the set has none.

    Raises:
        WeightsError: naming the file that is not whole.
    """
    chosen = WeightSet.find(weights)
    if "upscaler" not in chosen.files:
        return None
    network = SRVGGNetCompact.from_state_dict(chosen.read("upscaler")).requires_grad_(False)
    return Upscaler(network.to(device), torch.device(device))
