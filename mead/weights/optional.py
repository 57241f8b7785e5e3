"""What a job asks of its weights set beside words: optional networks, and what it offers by name.

Checked without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping

from mead.params import JobParams, ParamsError, Range, lacking
from mead.weights.sets import WeightSet


def check_optional(params: JobParams, weights: str) -> None:
    """Check that a weights set has the optional networks that a job asks for, and what it names.

    Raises:
        ParamsError: naming the parameter, and the command that fetches the network or what there is.
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
    if params.chosen():
        _check_chosen(params, WeightSet.find(weights))


def _check_chosen(params: JobParams, weights: WeightSet) -> None:
    choices = params.offered(weights)
    for field, chosen in params.chosen().items():
        offered = choices[field]
        for name, number in chosen.items():
            if name not in offered:
                raise _no_number(field, name, offered) or _unknown(field, name, sorted(offered), weights)
            allowed = offered[name]
            if allowed is not None and number is not None and not allowed.least <= number <= allowed.most:
                raise ParamsError(
                    field,
                    f"{name} goes from {allowed.least:g} to {allowed.most:g} with these weights, not to "
                    f"{number:g}",
                    out_of_range=True,
                )


def _no_number(field: str, name: str, offered: Mapping[str, Range | None]) -> ParamsError | None:
    """What is wrong with a name that is offered, with something other than a number behind its colon."""
    name, colon, value = (part.strip() for part in name.partition(":"))
    allowed = offered.get(name) if colon else None
    if allowed is None:
        return None
    return ParamsError(
        field,
        f'{name} is given "{value}", which is not a number; it goes from {allowed.least:g} to '
        f"{allowed.most:g} with these weights",
        out_of_range=True,
    )


def _unknown(field: str, name: str, offered: list[str], weights: WeightSet) -> ParamsError:
    """What is wrong with a name that the weights set does not have."""
    network = next((each for each in (field, f"{field}_{name}") if each in weights.absent), None)
    if network is not None:
        return lacking(field, network)
    fetched = [each for each in sorted(weights.absent) if each.startswith(f"{field}_")]
    there = f"there are {', '.join(offered)}" if offered else "these weights have none"
    if fetched:
        there += f"; `python -m mead weights fetch {weights.name} --with` takes {', '.join(fetched)}"
    wrong = f'there is no "{name}"' if name else "must be named"
    return ParamsError(field, f"{wrong}; {there}", out_of_range=True)
