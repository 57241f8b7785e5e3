"""Optional networks: whether a weights set has those that a job asks for, without PyTorch."""

from __future__ import annotations

from mead.params import JobParams, lacking
from mead.weights.sets import WeightSet


def check_optional(params: JobParams, weights: str) -> None:
    """Check that a weights set has the optional networks that a job asks for. Loads no weights.

    Raises:
        ParamsError: naming the parameter, and the command that fetches the network.
        UnknownSetError: if there is no such set.
    """
    needed = params.optional_networks()
    if (getattr(params, "upscale", None) or 1) > 1:
        needed["upscale"] = "upscaler"
    if getattr(params, "method", None) == "global":
        needed["method"] = "directions"
    for field, network in needed.items():
        if network not in WeightSet.find(weights).files:
            raise lacking(field, network)
