"""Verifying a set of weights: every byte, every key and shape, and one step of each model it can run."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mead.nn.precision import best_device
from mead.weights import conversion
from mead.weights.fetch import exclusive
from mead.weights.sets import Lock, Record, WeightFile, WeightsError, WeightSet, now

NETWORKS_OF = {
    "LatentRevisions": {"clip", "vqgan"},
    "StyleCLIP": {"clip", "stylegan2", "e4e", "identity"},
}


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
    for model, networks in NETWORKS_OF.items():
        if networks <= good.keys():
            problem = _model_problem(model, name)
            found(Finding(model, problem))
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
                    )
            lock.write(folder)


def _model_problem(model: str, name: str) -> str | None:
    """Run one step; what went wrong, if something did."""
    run = {"LatentRevisions": _run_latent_revisions, "StyleCLIP": _run_styleclip}[model]
    try:
        loss = run(name)
    except Exception as error:  # whatever a network that does not fit the others may raise
        return f"{model} does not run with these weights: {type(error).__name__}: {error}"
    if not math.isfinite(loss):
        return f"{model} runs with these weights, but its loss is {loss}"
    return None


def _run_latent_revisions(name: str) -> float:
    from LatentRevisions.LatentRevisions import load_pipeline
    from LatentRevisions.params import LatentRevisionsParams

    pipeline = load_pipeline(name, best_device())
    params = LatentRevisionsParams(prompt="a red circle", seed=0, iterations=1, cutouts=2, size=(128, 128))
    return _one_step(pipeline, params)[0]


def _run_styleclip(name: str) -> float:
    from StyleCLIP.params import StyleCLIPParams
    from StyleCLIP.StyleCLIP import load_pipeline

    pipeline = load_pipeline(name, best_device())
    loss, picture = _one_step(pipeline, StyleCLIPParams(prompt="a smiling face", seed=0, iterations=1))
    codes = pipeline.invert(picture)
    return loss + float(codes.abs().sum())


def _one_step(pipeline: Any, params: Any) -> tuple[float, Any]:
    """The loss of a first step, and the picture after it."""
    revision = pipeline.start(params)
    pipeline.step([revision])
    return revision.loss, pipeline.image(revision)
