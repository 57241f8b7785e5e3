"""Drafts: the choices and measures that a drawing follows from, each drawn on its own."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

Choices = Mapping[str, Mapping[str, float]]
"""For each choice to be made its possible outcomes and how often, relatively, each is taken."""


@dataclass(frozen=True)
class Draft:
    """What was chosen, and measures in [0, 1]. Not all of it need show: nobody's beard shows on a child."""

    chosen: dict[str, str]
    measures: dict[str, float]

    @classmethod
    def sample(cls, rng: np.random.Generator, choices: Choices, measures: Iterable[str]) -> Draft:
        """Choose at random, as often as `choices` says; measures are uniformly distributed."""
        return cls(choose(rng, choices), {name: float(rng.random()) for name in measures})


def choose(rng: np.random.Generator, choices: Choices) -> dict[str, str]:
    """An outcome of each choice."""
    chosen = {}
    for name, odds in choices.items():
        sums = list(accumulate(odds.values()))
        chosen[name] = list(odds)[bisect(sums, rng.random() * sums[-1])]
    return chosen
