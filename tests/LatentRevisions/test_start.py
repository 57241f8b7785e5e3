"""The learned start: built from its weights, told what to draw, at home on any grid."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.start import ONE, SHARPNESS, LearnedStart
from mead.state_dict import StateDictError


@pytest.fixture
def network() -> LearnedStart:
    torch.manual_seed(0)
    network = LearnedStart(
        channels=5, embed_dim=12, width=64, condition=32, blocks=2, grid=(8, 6), outcomes=[3, 2], measures=4
    )
    return network.eval().requires_grad_(False)


SAID = torch.nn.functional.normalize(torch.arange(1.0, 13.0), dim=0)[None]


def drafts(network: LearnedStart, count: int, seed: int = 0) -> torch.Tensor:
    return network.drafts(SAID, count, torch.Generator().manual_seed(seed))


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


def test_a_draft_has_one_outcome_of_each_choice_by_the_embeddings_odds(network: LearnedStart) -> None:
    many = drafts(network, 3000)
    choices, measures = many[:, :5], many[:, 5:]
    assert ((choices == 0) | (choices == ONE)).all()
    wanted = torch.cat([(SHARPNESS * logits[0]).softmax(0) for logits in network.odds(SAID)])
    assert wanted.split([3, 2])[0].std() > 0.02
    torch.testing.assert_close((choices / ONE).mean(0), wanted, atol=0.05, rtol=0)
    assert measures.shape == (3000, 4) and abs(measures.mean()) < 0.05 and abs(measures.std() - 1) < 0.05
    assert torch.equal(many, drafts(network, 3000)) and not torch.equal(many, drafts(network, 3000, seed=1))
    other = torch.cat([logits[0] for logits in network.odds(-SAID)])
    assert not torch.allclose(other, torch.cat([logits[0] for logits in network.odds(SAID)]), atol=1e-3)
