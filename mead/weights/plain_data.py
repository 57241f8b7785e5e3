"""The settings in a weight file, as plain data for JSON."""

from __future__ import annotations

import math
from typing import Any

from mead.weights.inert_data import Budget, Name, Placeholder, in_words

MAX_SETTINGS = 100_000  # characters and entries


def training_settings(content: Any) -> Any:
    """The settings a network was trained with, if its file holds them, as plain data."""
    if isinstance(content, Placeholder):  # a whole module, whose attributes they are
        content = content.state
    if not isinstance(content, dict):
        return {}
    names = ("opts", "args", "hyper_parameters", "hparams", "config", "epoch", "global_step")
    return {name: plain(content[name]) for name in names if name in content}


def plain(value: Any) -> Any:
    """Settings as JSON can hold them; anything else, or too much, becomes the name of its type."""
    budget = Budget(MAX_SETTINGS)

    def of(value: Any, depth: int) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if value is None or isinstance(value, (bool, int)):
            return value if not isinstance(value, int) or value.bit_length() <= 64 else "int"
        if isinstance(value, Name):
            return value.path
        if isinstance(value, Placeholder):
            inside = value.state if isinstance(value.state, dict) else value.entries
            if value.name.startswith("omegaconf.") and depth:  # a node, which leads back to its parent
                for content in ("_content", "_val"):
                    if content in inside:
                        return of(inside[content], depth - 1)
            return of(inside, depth) if inside else value.name
        if isinstance(value, (str, dict, list, tuple)) and depth and len(value) < budget.left:
            budget.spend(len(value) + 1)
            if isinstance(value, str):
                return value
            if isinstance(value, dict):
                return {
                    key[:80] if isinstance(key, str) else in_words(key): of(each, depth - 1)
                    for key, each in value.items()
                }
            return [of(each, depth - 1) for each in value]
        return type(value).__name__

    return of(value, depth=12)
