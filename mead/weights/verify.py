"""Verifying a set of weights: every byte, all keys and shapes, and one step of each model it can run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mead.model_spec import ModelSpec
from mead.nn.precision import best_device
from mead.registry import MODELS
from mead.weights.building import build_network
from mead.weights.errors import WeightsError
from mead.weights.lock import Lock, VerifiedFile
from mead.weights.set_folder import exclusive
from mead.weights.sets import WeightFile, WeightSet


@dataclass(frozen=True)
class CheckResult:
    """The result of checking a file or a model.

    Attributes:
        subject: the file's path, or the model's name.
        problem: what is wrong with it; None if nothing is.
    """

    subject: str
    problem: str | None


def verify(name: str, report: Callable[[CheckResult], None]) -> bool:
    """Verify a set and the files of its base, reporting each result; returns whether all is good.

    The time is recorded in the `lock.json` of each file's set, unless that is read-only.

    Raises:
        UnknownSetError: if there is no such set.
    """
    weights = WeightSet.find(name)
    good: dict[str, WeightFile] = {}
    all_good = True
    for network, file in weights.files.items():
        problem = _file_problem(network, file)
        report(CheckResult(str(file.path), problem))
        if problem is None:
            good[network] = file
        all_good &= problem is None
    _record(good)
    for spec in MODELS.values():
        if spec.networks and spec.required_networks <= good.keys():
            problem = _model_problem(spec, name)
            report(CheckResult(spec.name, problem))
            all_good &= problem is None
    return all_good


def _file_problem(network: str, file: WeightFile) -> str | None:
    try:
        file.check(thoroughly=True)
        build_network(network, file.read())
    except WeightsError as error:
        return str(error)
    except Exception as error:  # StateDictError, or whatever PyTorch raises for impossible networks
        return f"{file.path} does not hold {network}: {error}"
    return None


def _record(files: Mapping[str, WeightFile]) -> None:
    """Record in the locks that these files, by network, have just been verified."""
    for owner in {file.owner for file in files.values()}:
        folder = WeightSet.find(owner).folder
        with suppress(OSError), exclusive(folder, lambda line: None):  # it may be read-only
            lock = Lock.read(folder)
            for network, file in files.items():
                if file.owner == owner:
                    source = file.last_verified.source if file.last_verified else ""
                    lock.files[network] = VerifiedFile.of(file.path, source, file.trained_with, file.sha256)
            lock.write(folder)


def _model_problem(spec: ModelSpec, weights: str) -> str | None:
    """Run one step of a model; what went wrong, if anything."""
    try:
        loss = spec.trial(weights, best_device())
    except Exception as error:  # whatever networks that do not fit together may raise
        return f"{spec.name} does not run with these weights: {type(error).__name__}: {error}"
    if not math.isfinite(loss):
        return f"{spec.name} runs with these weights, but its loss is {loss}"
    return None
