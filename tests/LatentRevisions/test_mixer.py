"""The published learned start's network: the published numbers, and built from its weights alone."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.mixer import Mixer
from mead.nn.frozen import freeze
from mead.nn.state_dict import StateDictError
from tests import parity


@pytest.mark.parametrize("name", ["mixer_small", pytest.param("mixer_32x1024", marks=pytest.mark.slow)])
def test_matches_the_published_implementation(name: str) -> None:
    fixture = parity.load(name)
    mixer = Mixer.from_state_dict(fixture.state_dict)
    assert {key: tuple(tensor.shape) for key, tensor in mixer.state_dict().items()} == fixture.shapes
    with torch.inference_mode():
        assert parity.error(mixer(fixture["embedding"]), fixture["z"]) < parity.TOLERANCE


def test_frozen_it_computes_nearly_the_same() -> None:
    fixture = parity.load("mixer_small")
    mixer = freeze(Mixer.from_state_dict(fixture.state_dict), torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        latents = mixer(fixture["embedding"])
    assert parity.error(latents.float(), fixture["z"]) < 0.03


@pytest.mark.parametrize("key", ["proj.weight", "mixer.1.weight", "mixer.3.0.fn.3.bias", "final_proj.bias"])
def test_a_missing_key_is_named(key: str) -> None:
    weights = parity.load("mixer_small").state_dict
    del weights[key]
    with pytest.raises(StateDictError, match=key.replace(".", r"\.")):
        Mixer.from_state_dict(weights)


def test_latents_that_are_no_square_are_refused() -> None:
    weights = parity.load("mixer_small").state_dict
    weights["proj.weight"] = weights["proj.weight"][:-16]
    with pytest.raises(StateDictError, match="no square of 16"):
        Mixer.from_state_dict(weights)
