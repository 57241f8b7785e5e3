"""The learned start: built from its weights, told what to draw, at home on any grid."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.start import ONE, LearnedStart
from mead.state_dict import StateDictError


@pytest.fixture
def network() -> LearnedStart:
    torch.manual_seed(0)
    network = LearnedStart(
        channels=5, embed_dim=12, width=64, condition=32, blocks=2, grid=(8, 6), outcomes=[3, 2], measures=4
    )
    network.odds.copy_(torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0]))
    return network.eval().requires_grad_(False)


def drafts(network: LearnedStart, count: int, seed: int = 0) -> torch.Tensor:
    return network.drafts(count, torch.Generator().manual_seed(seed))


def test_it_is_built_from_its_weights_alone(network: LearnedStart) -> None:
    again = LearnedStart.from_state_dict(network.state_dict()).requires_grad_(False)
    embedding, draft = torch.randn(2, 12), drafts(network, 2)
    torch.testing.assert_close(again(embedding, draft, (8, 6)), network(embedding, draft, (8, 6)))
    torch.testing.assert_close(drafts(again, 3), drafts(network, 3))


@pytest.mark.parametrize("key", ["blocks.1.qkv.bias", "outcomes", "places"])
def test_a_missing_key_is_named(network: LearnedStart, key: str) -> None:
    weights = network.state_dict()
    del weights[key]
    with pytest.raises(StateDictError, match=key.replace(".", r"\.")):
        LearnedStart.from_state_dict(weights)


def test_it_listens_to_the_embedding_the_draft_and_the_place(network: LearnedStart) -> None:
    embedding, draft = torch.randn(1, 12), drafts(network, 1)
    drawn = network(embedding, draft, (8, 6))
    assert not torch.allclose(drawn, network(-embedding, draft, (8, 6)), atol=1e-3)
    assert not torch.allclose(drawn, network(embedding, drafts(network, 1, seed=1), (8, 6)), atol=1e-3)
    assert not torch.allclose(drawn, drawn.flip(3), atol=1e-3)


@pytest.mark.parametrize("grid", [(8, 6), (16, 12), (2, 2), (5, 7)])
def test_it_draws_on_any_grid(network: LearnedStart, grid: tuple[int, int]) -> None:
    embedding, draft = torch.randn(2, 12), drafts(network, 2)
    drawn = network(embedding, draft, grid)
    assert drawn.shape == (2, 5, *grid) and drawn.isfinite().all()
    torch.testing.assert_close(drawn[1:], network(embedding[1:], draft[1:], grid))


def test_a_draft_has_one_outcome_of_each_choice_as_often_as_the_odds_say(network: LearnedStart) -> None:
    many = drafts(network, 3000)
    choices, measures = many[:, :5], many[:, 5:]
    assert ((choices == 0) | (choices == ONE)).all()
    shares = (choices / ONE).mean(0)
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 0.0, 2 / 3, 0.0, 1.0]), atol=0.05, rtol=0)
    assert measures.shape == (3000, 4) and abs(measures.mean()) < 0.05 and abs(measures.std() - 1) < 0.05
    assert torch.equal(many, drafts(network, 3000)) and not torch.equal(many, drafts(network, 3000, seed=1))
