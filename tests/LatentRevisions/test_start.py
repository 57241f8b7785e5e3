"""The learned start: built from its weights, told what to draw, at home on any grid."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.start import LearnedStart
from mead.state_dict import StateDictError


@pytest.fixture
def network() -> LearnedStart:
    torch.manual_seed(0)
    network = LearnedStart(channels=5, embed_dim=12, width=64, blocks=2, grid=(4, 3))
    for parameter in network.parameters():  # a new network says nothing: its last layer is zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_it_is_built_from_its_weights_alone(network: LearnedStart) -> None:
    again = LearnedStart.from_state_dict(network.state_dict())
    x, time, embedding = torch.randn(2, 5, 4, 3), torch.tensor([0.2, 0.9]), torch.randn(2, 12)
    torch.testing.assert_close(again(x, time, embedding), network(x, time, embedding))


def test_a_missing_key_is_named(network: LearnedStart) -> None:
    weights = network.state_dict()
    del weights["blocks.1.qkv.bias"]
    with pytest.raises(StateDictError, match=r"blocks\.1\.qkv\.bias"):
        LearnedStart.from_state_dict(weights)


def test_it_listens_to_the_embedding_the_time_and_the_place(network: LearnedStart) -> None:
    x, time, embedding = torch.randn(1, 5, 4, 3), torch.tensor([0.5]), torch.randn(1, 12)
    said = network(x, time, embedding)
    assert not torch.allclose(said, network(x, time, -embedding), atol=1e-3)
    assert not torch.allclose(said, network(x, time / 2, embedding), atol=1e-3)
    mirrored = network(x.flip(3), time, embedding).flip(3)
    assert not torch.allclose(said, mirrored, atol=1e-3)


@pytest.mark.parametrize("grid", [(4, 3), (8, 6), (2, 2)])
def test_it_draws_on_any_grid(network: LearnedStart, grid: tuple[int, int]) -> None:
    noise, embedding = torch.randn(2, 5, *grid), torch.randn(2, 12)
    with torch.no_grad():
        drawn = network.draw(embedding, noise, steps=4)
        torch.testing.assert_close(drawn[1:], network.draw(embedding[1:], noise[1:], steps=4))
    assert drawn.shape == noise.shape and drawn.isfinite().all()


def test_guidance_goes_further_the_way_of_the_embedding(network: LearnedStart) -> None:
    noise, embedding = torch.randn(1, 5, 4, 3), torch.randn(1, 12)
    with torch.no_grad():
        none, one, three = (network.draw(embedding, noise, guidance, steps=1) for guidance in (0.0, 1.0, 3.0))
    torch.testing.assert_close(three - none, 3 * (one - none), atol=1e-4, rtol=1e-4)
    anything = torch.zeros_like(embedding)
    torch.testing.assert_close(none, noise + network(noise, torch.zeros(1), anything).detach())
