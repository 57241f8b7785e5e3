"""Loading StyleCLIP's pipeline with a weights set, and trying it."""

from __future__ import annotations

from typing import Any

import torch

from mead.revision import result_of
from mead.weights.errors import WeightsError
from mead.weights.loading import OncePerProcess
from mead.weights.perceptor import load_perceptor
from mead.weights.sets import WeightSet
from mead.weights.upscaler import load_upscaler
from StyleCLIP.choices import MAPPER, choices
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.faces import load_classifier
from StyleCLIP.global_directions import GlobalDirections
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.identity import Identity
from StyleCLIP.levels_mapper import LevelsMapper
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.pipeline import StyleCLIPPipeline
from StyleCLIP.sliders import Sliders
from StyleCLIP.stylegan2 import Generator


@OncePerProcess
def load_pipeline(weights: str, device: str) -> StyleCLIPPipeline:
    """The pipeline of a weights set on a device, loaded once per process and shared.

    Raises:
        WeightsError: naming the file that is missing or damaged, or networks that do not fit together.
    """
    chosen = WeightSet.find(weights)
    generator = Generator.from_state_dict(chosen.read("stylegan2")).requires_grad_(False).to(device)
    inversion = chosen.read("e4e")
    average = inversion.pop("latent_avg").float().to(device)
    if average.shape != (generator.n_latent, generator.style_dim):
        raise WeightsError(
            f"weights: in the set {weights!r}, e4e finds codes of shape {tuple(average.shape)} and stylegan2 "
            f"takes {(generator.n_latent, generator.style_dim)}; give the set an e4e made for its stylegan2"
        )
    encoder = Encoder4Editing.from_state_dict(inversion).requires_grad_(False).to(device)
    identity = Identity.from_state_dict(chosen.read("identity")).requires_grad_(False).to(device)
    perceptor = load_perceptor(weights, device)

    def optional(network: str, kind: Any) -> Any:
        if network not in chosen.files:
            return None
        return kind.from_state_dict(chosen.read(network)).requires_grad_(False).to(device)

    return StyleCLIPPipeline(
        generator,
        encoder,
        average,
        identity,
        perceptor,
        optional("mapper", LatentMapper),
        load_classifier(weights, device),
        chosen.settings("StyleCLIP", Hyperparameters),
        torch.device(device),
        load_upscaler(weights, device),
        optional("directions", GlobalDirections),
        {name: optional(f"{MAPPER}{name}", LevelsMapper) for name in choices(chosen)["mapper"]},
        optional("sliders", Sliders),
    )


def trial(pipeline: StyleCLIPPipeline) -> float:
    """The loss of a first step on the average face; its picture is made and inverted too."""
    revision = pipeline.start(StyleCLIPParams(prompt="a smiling face", seed=0, iterations=1))
    pipeline.step([revision])
    ways: list[dict[str, Any]] = [{"method": "mapper", "mapper": name} for name in pipeline.edits.mappers]
    if pipeline.edits.directions is not None:
        ways.append({"prompt": "a smiling face", "method": "global", "beta": 0.0})
    if pipeline.edits.sliders is not None:
        ways += [{"sliders": f"{name}:1"} for name in pipeline.edits.sliders.codes]
    for way in ways:
        pipeline.image(pipeline.start(StyleCLIPParams(seed=0, **way)))
    codes = pipeline.invert(result_of(pipeline, revision))
    return revision.loss + float(codes.abs().sum())
