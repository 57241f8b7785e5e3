"""The upscaler's network: the published one, and built from its weights whatever its size."""

from __future__ import annotations

import pytest
import torch

from mead.nn.state_dict import StateDictError
from mead.nn.upscaler import SRVGGNetCompact
from tests import parity


def test_matches_the_published_implementation() -> None:
    fixture = parity.load("srvgg_general_x4v3")
    network = SRVGGNetCompact.from_state_dict(fixture.state_dict)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == fixture.shapes
    assert network.scale == 4
    with torch.inference_mode():
        assert parity.error(network(fixture["image"]), fixture["upscaled"]) < parity.TOLERANCE


def test_from_state_dict_restores_any_size() -> None:
    torch.manual_seed(0)
    network = SRVGGNetCompact(num_feat=8, num_conv=3, scale=2).eval()
    restored = SRVGGNetCompact.from_state_dict(network.state_dict())
    picture = torch.rand(2, 3, 9, 14)
    assert torch.equal(network(picture), restored(picture))
    assert restored(picture).shape == (2, 3, 18, 28)
    assert restored.reach == 5


@pytest.mark.parametrize("key", ["body.0.weight", "body.3.weight", "body.6.bias"])
def test_a_missing_key_is_named(key: str) -> None:
    state_dict = SRVGGNetCompact(num_feat=8, num_conv=2, scale=4).state_dict()
    del state_dict[key]
    with pytest.raises(StateDictError, match=key):
        SRVGGNetCompact.from_state_dict(state_dict)


def test_keys_of_another_network_are_named() -> None:
    with pytest.raises(StateDictError, match=r"body\.0\.weight"):
        SRVGGNetCompact.from_state_dict({"conv_first.weight": torch.zeros(64, 3, 3, 3)})
