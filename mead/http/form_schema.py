"""The JSON Schema of a model's form: its fields with their ranges and defaults, as they are here.

The parameters' model gives the fields, the settings limit them, and the weights set has defaults of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel

from mead.limits import CUTOUT_PIXELS
from mead.params import JobParams, size_pattern
from mead.registry import spec_of
from mead.settings import Settings
from mead.weights.sets import WeightSet


@functools.cache
def weight_set(name: str) -> WeightSet:
    """The set of weights `name`, as it was first read.

    Raises:
        WeightsError: there is no such set, or its manifest is not valid.
    """
    return WeightSet.find(name)


def form_schema(form: type[BaseModel], required_files: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The schema of a form, an object.

    A parameter `x` is the text field `x`; a parameter `x_path` is the file field `x`.

    Args:
        required_files: file fields that must be sent.

    Raises:
        WeightsError: there is no such weights set as the settings name.
    """
    schema = form.model_json_schema()
    fields: dict[str, dict[str, Any]] = {}
    for name, own in schema["properties"].items():
        field = field_schema(own)
        if name.endswith("_path"):
            name = name.removesuffix("_path")
            required = " Required." if name in required_files else ""
            field = {"type": "string", "format": "binary", "description": own["description"] + required}
        fields[name] = field
    weights = settings.weights
    for changes in (_limits(settings), _defaults(form, weights), _names(form, weights)):
        for name in changes.keys() & fields.keys():
            fields[name] |= changes[name]
    if issubclass(form, JobParams):
        a_cutout = CUTOUT_PIXELS * spec_of(form).own_extent(weight_set(weights)).clips
        fields["iterations"]["description"] += (
            f" Fewer for large pictures: steps × (width × height + {a_cutout} × cutouts), plus width × "
            f"height if the picture is enlarged, may be at most {settings.max_job_pixels:,}."
        )
    alternatives = {"anyOf": schema["anyOf"]} if "anyOf" in schema else {}
    return {
        "type": "object",
        "properties": fields,
        "required": [*schema.get("required", []), *required_files],
        **alternatives,
        "additionalProperties": False,
    }


def field_schema(own: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field that is left out instead of being null."""
    field = {key: value for key, value in own.items() if key not in {"title", "anyOf"} and value is not None}
    if field.get("default") == "":
        del field["default"]
    return field | next((kind for kind in own.get("anyOf", []) if kind != {"type": "null"}), {})


def _limits(settings: Settings) -> dict[str, dict[str, Any]]:
    """What the settings limit, by field."""
    return {
        "iterations": {"maximum": settings.max_iterations},
        "cutouts": {"maximum": settings.max_cutouts},
        "size": {"pattern": size_pattern(settings.max_side)},
    }


def _names(form: type[BaseModel], weights: str) -> dict[str, dict[str, Any]]:
    """The names that the weights set has for parameters that are one, by field."""
    if not issubclass(form, JobParams):
        return {}
    choices = form.offered(weight_set(weights))
    return {
        field: {"enum": list(names)}
        for field, names in choices.items()
        if names and all(allowed is None for allowed in names.values())
    }


def _defaults(form: type[BaseModel], weights: str) -> dict[str, dict[str, Any]]:
    """The weights set's own values of parameters that have no default, by field."""
    if not issubclass(form, JobParams):
        return {}
    spec = spec_of(form)
    if not is_dataclass(spec.hyperparameters):
        return {}
    own = asdict(weight_set(weights).settings(spec.name, spec.hyperparameters))
    return {
        name: {"default": own[name]}
        for name, field in form.model_fields.items()
        if field.default is None and name in own
    }
