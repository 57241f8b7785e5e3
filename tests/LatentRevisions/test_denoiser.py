"""The denoiser: built from its weights, at home on any grid; the demo set's takes noise off latents."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.denoiser import Denoiser
from mead.nn.state_dict import StateDictError


@pytest.fixture
def network() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(channels=5, hints=7, width=32, condition=16, layers=2, grid=(8, 6), deviation=0.8)
    return network.eval().requires_grad_(False)


def noisy(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_it_is_built_from_its_weights_alone(network: Denoiser) -> None:
    again = Denoiser.from_state_dict(network.state_dict()).requires_grad_(False)
    z, noise, hints = noisy(2, 5, 8, 6), torch.tensor([0.1, 2.0]), noisy(2, 7)
    torch.testing.assert_close(again(z, noise, hints), network(z, noise, hints))


@pytest.mark.parametrize("key", ["deviation", "hints_in.weight", "layers.1.conv.weight", "places"])
def test_a_missing_key_is_named(network: Denoiser, key: str) -> None:
    weights = network.state_dict()
    del weights[key]
    with pytest.raises(StateDictError, match=key):
        Denoiser.from_state_dict(weights)


@pytest.mark.parametrize("grid", [(8, 6), (3, 5), (1, 1), (16, 9)])
def test_it_works_on_any_grid(network: Denoiser, grid: tuple[int, int]) -> None:
    z = noisy(1, 5, *grid)
    assert network(z, torch.tensor([0.5]), torch.zeros(1, 7)).shape == z.shape


def test_without_noise_it_changes_nothing(network: Denoiser) -> None:
    z = noisy(2, 5, 8, 6)
    torch.testing.assert_close(network(z, torch.full((2,), 1e-5), torch.zeros(2, 7)), z, rtol=0, atol=1e-3)


def test_what_it_makes_of_one_does_not_depend_on_others(network: Denoiser) -> None:
    z, noise, hints = noisy(3, 5, 8, 6), torch.tensor([0.1, 1.0, 4.0]), noisy(3, 7)
    alone = torch.cat([network(z[k : k + 1], noise[k : k + 1], hints[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(network(z, noise, hints), alone)
