from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mead.nn.state_dict import StateDictError
from StyleCLIP.identity import Identity
from tests import parity


def small(**sizes: int) -> Identity:
    torch.manual_seed(0)
    return Identity(widths=(8, 20, 12), blocks=(1, 2, 1), embed_dim=30, **sizes).eval()


def test_matches_the_published_implementation() -> None:
    fixture = parity.load("ir_se50")
    identity = Identity.from_state_dict(fixture.state_dict)
    assert {key: tuple(tensor.shape) for key, tensor in identity.state_dict().items()} == fixture.shapes
    with torch.inference_mode():
        assert parity.error(identity(fixture["image"]), fixture["features"]) < parity.TOLERANCE
        frozen = identity.freeze(torch.float32)
        assert parity.error(frozen(fixture["image"]), fixture["features"]) < parity.TOLERANCE


@pytest.mark.parametrize("input_size", [112, 64])
def test_from_state_dict_restores_any_hyperparameters(input_size: int) -> None:
    identity = small(input_size=input_size)
    restored = Identity.from_state_dict(identity.state_dict())
    face = torch.rand(2, 3, input_size, input_size) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(identity(face), restored(face))
        assert torch.allclose(restored(face).norm(dim=1), torch.ones(2))


def test_the_counters_of_batch_normalisation_may_be_missing() -> None:
    state_dict = {
        key: value for key, value in small().state_dict().items() if not key.endswith("num_batches_tracked")
    }
    assert Identity.from_state_dict(state_dict).input_size == 112


@pytest.mark.parametrize(
    "key", ["input_layer.0.weight", "body.1.res_layer.5.fc1.weight", "output_layer.3.weight"]
)
def test_a_missing_key_is_named(key: str) -> None:
    state_dict = small().state_dict()
    del state_dict[key]
    with pytest.raises(StateDictError, match=key):
        Identity.from_state_dict(state_dict)


def test_of_face_crops_as_published() -> None:
    identity = small()
    image = torch.rand(1, 3, 512, 512) * 2 - 1
    with torch.inference_mode():
        face = F.adaptive_avg_pool2d(F.avg_pool2d(image, 2)[:, :, 35:223, 32:220], 112)
        assert torch.allclose(identity.of_face(image), identity(face), atol=1e-6)


@pytest.mark.parametrize("side", [64, 128, 256, 300])
def test_of_face_takes_any_side_and_gives_gradients(side: int) -> None:
    image = (torch.rand(2, 3, side, side) * 2 - 1).requires_grad_()
    small().of_face(image)[:, 0].sum().backward()
    assert (
        image.grad is not None
        and image.grad.isfinite().all()
        and (image.grad.flatten(1).abs().sum(1) > 0).all()
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="112 pixels"):
        small()(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="unlike the one before"):
        Identity(widths=(8, 8), blocks=(1, 1))
    with pytest.raises(ValueError, match="input_size"):
        small(input_size=100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_network_has_the_same_features_and_gradients(dtype: torch.dtype) -> None:
    face = torch.rand(2, 3, 112, 112) * 2 - 1
    weight = torch.randn(2, 30)
    results = []
    for network in (small(), small().freeze(dtype)):
        leaf = face.clone().requires_grad_()
        features = network(leaf)
        (features * weight).sum().backward()
        assert leaf.grad is not None
        results.append((features.detach(), leaf.grad))
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for found, expected in zip(*reversed(results), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()
