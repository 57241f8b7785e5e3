from __future__ import annotations

import pytest
import torch

from mead.nn.state_dict import StateDictError
from StyleCLIP.e4e import Encoder4Editing
from tests import parity


def small() -> Encoder4Editing:
    torch.manual_seed(0)
    encoder = Encoder4Editing(
        input_size=64,
        n_styles=7,
        style_dim=10,
        widths=(8, 12, 16, 20),
        blocks=(1, 2, 1, 1),
        coarse=2,
        middle=3,
    )
    return encoder.eval()


@pytest.mark.slow
def test_matches_the_published_implementation() -> None:
    fixture = parity.load("e4e_ffhq_1024")
    encoder = Encoder4Editing.from_state_dict(fixture.state_dict)
    assert encoder.input_size == 256
    assert {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()} == fixture.shapes
    with torch.inference_mode():
        assert parity.error(encoder(fixture["image"]), fixture["codes"]) < parity.TOLERANCE


def test_from_state_dict_restores_any_hyperparameters() -> None:
    encoder = small()
    restored = Encoder4Editing.from_state_dict(encoder.state_dict())
    assert (restored.input_size, restored.coarse, restored.middle) == (64, 2, 3)
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        codes = restored(image)
        assert codes.shape == (2, 7, 10)
        assert torch.equal(codes, encoder(image))


def test_codes_differ_from_the_first_by_their_deltas() -> None:
    encoder = small()
    for style in encoder.styles[1:]:
        torch.nn.init.zeros_(style.linear.weight)
    with torch.inference_mode():
        codes = encoder(torch.rand(1, 3, 64, 64))
    assert torch.equal(codes, codes[:, :1].expand_as(codes))


@pytest.mark.parametrize(
    "key",
    ["body.2.res_layer.4.running_var", "styles.0.linear.weight", "styles.6.convs.0.bias", "latlayer2.weight"],
)
def test_a_missing_key_is_named(key: str) -> None:
    state_dict = small().state_dict()
    del state_dict[key]
    with pytest.raises(StateDictError, match=key):
        Encoder4Editing.from_state_dict(state_dict)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels"):
        small()(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="input_size"):
        Encoder4Editing(input_size=96)
    with pytest.raises(ValueError, match="4 stages"):
        Encoder4Editing(widths=(8, 16), blocks=(1, 1))


def test_gradients_reach_every_parameter() -> None:
    encoder = small().train()
    encoder(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
