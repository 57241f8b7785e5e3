"""Verifying a set of weights: every byte, every key and shape, and one step of each model it can run."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mead.model_spec import ModelSpec
from mead.nn.precision import best_device
from mead.registry import MODELS
from mead.weights import conversion
from mead.weights.fetch import exclusive
from mead.weights.sets import Lock, Record, WeightFile, WeightsError, WeightSet, now


@dataclass(frozen=True)
class Finding:
    """What verifying found of a file or a model.

    Attributes:
        what: the file's path, or the model's name.
        problem: what is wrong with it; None when nothing is.
    """

    what: str
    problem: str | None


def verify(name: str, found: Callable[[Finding], None]) -> bool:
    """Verify a set and the networks lent to it, telling each finding as it is made; whether all is well.

    When a file was verified is noted in the `lock.json` of its set, where that can be written.

    Raises:
        UnknownSetError: when there is no such set.
    """
    weights = WeightSet.find(name)
    well = True
    good: dict[str, WeightFile] = {}
    for network, file in weights.files.items():
        problem = _file_problem(network, file)
        found(Finding(str(file.path), problem))
        if problem is None:
            good[network] = file
        well &= problem is None
    _note(good)
    for spec in MODELS.values():
        if spec.required_networks <= good.keys():
            problem = _model_problem(spec, name)
            found(Finding(spec.name, problem))
            well &= problem is None
    return well


def _file_problem(network: str, file: WeightFile) -> str | None:
    try:
        file.check(thoroughly=True)
        conversion.check(network, file.read())
    except WeightsError as error:
        return str(error)
    except Exception as error:  # StateDictError, or whatever PyTorch raises for a network that cannot be
        return f"{file.path} does not hold a {network}: {error}"
    return None


def _note(good: dict[str, WeightFile]) -> None:
    """Note when these files, by network, were verified."""
    for owner in {file.owner for file in good.values()}:
        folder = WeightSet.find(owner).folder
        with suppress(OSError), exclusive(folder, lambda line: None):  # it may be read-only
            lock = Lock.read(folder)
            for network, file in good.items():
                if file.owner == owner and file.sha256 is not None:
                    status = file.path.stat()
                    lock.files[network] = Record(
                        sha256=file.sha256,
                        size=status.st_size,
                        modified=status.st_mtime_ns,
                        verified=now(),
                        source=file.record.source if file.record else "",
                        trained_with=sorted(file.trained_with),
                    )
            lock.write(folder)


def _model_problem(spec: ModelSpec, weights: str) -> str | None:
    """Run one step; what went wrong, if something did."""
    try:
        loss = spec.trial(weights, best_device())
    except Exception as error:  # whatever a network that does not fit the others may raise
        return f"{spec.name} does not run with these weights: {type(error).__name__}: {error}"
    if not math.isfinite(loss):
        return f"{spec.name} runs with these weights, but its loss is {loss}"
    return None
