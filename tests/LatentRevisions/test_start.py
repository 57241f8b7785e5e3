"""The learned start: built from its weights, told what to draw, at home on any grid."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from LatentRevisions.drawing import Square
from LatentRevisions.start import SHARPNESS, LearnedStart
from mead.nn.state_dict import StateDictError

# A draft's numbers: a layout of three outcomes, a choice of two, for each of two things a choice of two; a
# measure of the whole, and two of each thing. The layouts show nothing, one thing, and two things.
WHOLE, THING = [3, 2], [2]
CENTRES = torch.tensor([[[0.0] * 4] * 2, [[0, 0, 0.5, 0.5], [0.0] * 4], [[-0.5, 0, 0, 0], [0.5, 0, 0, 0]]])
COUNTS = torch.tensor(
    [
        [1.0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        [1.0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0],
        [1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
SAID = F.normalize(torch.arange(1.0, 13.0), dim=0)[None]


@pytest.fixture
def network() -> LearnedStart:
    torch.manual_seed(0)
    network = LearnedStart(
        channels=5,
        embed_dim=12,
        width=64,
        condition=32,
        blocks=2,
        grid=(8, 6),
        outcomes=(WHOLE, THING),
        measures=(1, 2),
        centres=CENTRES,
        counts=COUNTS,
    )
    return network.eval().requires_grad_(False)


def drafts(network: LearnedStart, count: int, seed: int = 0) -> torch.Tensor:
    return network.drafts(SAID, count, torch.Generator().manual_seed(seed))


def draft(layout: int) -> torch.Tensor:
    """A draft of a layout: all other choices have their first outcome, all measures are 0.1."""
    chosen = [F.one_hot(torch.tensor(layout), 3), *[torch.tensor([1, 0])] * 3]
    return torch.cat([*chosen, torch.full((5,), 0.1)])[None].float()


def test_it_is_built_from_its_weights_alone(network: LearnedStart) -> None:
    again = LearnedStart.from_state_dict(network.state_dict()).requires_grad_(False)
    two = drafts(network, 2)
    torch.testing.assert_close(again(two, (8, 6)), network(two, (8, 6)))
    torch.testing.assert_close(drafts(again, 3), drafts(network, 3))


@pytest.mark.parametrize("key", ["blocks.1.qkv.bias", "outcomes", "places", "things.what.weight", "counts"])
def test_a_missing_key_is_named(network: LearnedStart, key: str) -> None:
    weights = network.state_dict()
    del weights[key]
    with pytest.raises(StateDictError, match=key.replace(".", r"\.")):
        LearnedStart.from_state_dict(weights)


@pytest.mark.parametrize(
    ("layout", "number", "listens"),
    [
        (0, 3, True),  # the choice of the whole
        (0, 5, False),  # a thing where there is none
        (1, 5, True),
        (1, 7, False),
        (2, 7, True),
        (0, 9, True),  # the measure of the whole
        (0, 10, False),  # where a thing is
        (1, 10, True),
        (1, 12, False),
    ],
)
def test_it_draws_what_counts_in_the_layout(
    network: LearnedStart, layout: int, number: int, listens: bool
) -> None:
    one, other = draft(layout), draft(layout)
    other[:, number] -= 0.8
    assert torch.equal(network(one, (8, 6)), network(other, (8, 6))) != listens


def test_things_are_told_apart_by_where_they_are(network: LearnedStart) -> None:
    left, right = draft(2), draft(2)
    left[:, 5:7] = torch.tensor([0.0, 1.0])
    right[:, 7:9] = torch.tensor([0.0, 1.0])
    assert not torch.allclose(network(left, (8, 6)), network(right, (8, 6)), atol=1e-3)


@pytest.mark.parametrize("grid", [(8, 6), (16, 12), (2, 2), (5, 7)])
def test_it_draws_on_any_grid(network: LearnedStart, grid: tuple[int, int]) -> None:
    two = drafts(network, 2)
    drawn = network(two, grid)
    assert drawn.shape == (2, 5, *grid) and drawn.isfinite().all()
    torch.testing.assert_close(drawn[1:], network(two[1:], grid))


def test_a_draft_has_one_outcome_of_each_choice_by_the_embeddings_odds(network: LearnedStart) -> None:
    many = drafts(network, 3000)
    choices, measures = many[:, :9], many[:, 9:]
    assert ((choices == 0) | (choices == 1)).all()
    assert all((each.sum(1) == 1).all() for each in choices.split([3, 2, 2, 2], 1))
    wanted = torch.cat([(SHARPNESS * logits[0]).softmax(0) for logits in network.odds(SAID)])
    assert wanted[:3].std() > 0.02
    torch.testing.assert_close(choices.mean(0), wanted, atol=0.05, rtol=0)
    assert measures.shape == (3000, 5)
    assert measures.abs().max() <= 1 and abs(measures.mean()) < 0.05 and abs(measures.std() - 0.577) < 0.03
    assert torch.equal(many, drafts(network, 3000)) and not torch.equal(many, drafts(network, 3000, seed=1))
    other = torch.cat([logits[0] for logits in network.odds(-SAID)])
    assert not torch.allclose(other, torch.cat([logits[0] for logits in network.odds(SAID)]), atol=1e-3)


@pytest.mark.parametrize("grid", [(8, 12), (12, 8), (5, 7)])
def test_at_a_size_that_is_not_square_a_square_is_drawn_and_its_border_goes_on(
    network: LearnedStart, grid: tuple[int, int]
) -> None:
    height, width = grid
    side, two = min(grid), drafts(network, 2)
    left, top = (width - side) // 2, (height - side) // 2
    latents = Square.in_grid(grid).drawn(network, two)
    assert latents.shape == (2, 5, *grid)
    square = latents[..., top : top + side, left : left + side]
    assert torch.equal(square, network(two, (side, side)))
    assert torch.equal(latents[..., 0, 0], square[..., 0, 0])
    assert torch.equal(latents[..., -1, -1], square[..., -1, -1])


@pytest.mark.parametrize(
    ("grid", "around", "left", "top", "place"),
    [
        ((8, 16), (0.0, 0.0), 4, 0, (0.0, 0.0)),
        ((8, 16), (0.25, 0.5), 6, 0, (0.0, 0.5)),
        ((8, 16), (0.75, 0.0), 8, 0, (0.5, 0.0)),
        ((8, 16), (-1.0, 0.0), 0, 0, (-1.0, 0.0)),
        ((16, 8), (0.5, 0.25), 0, 6, (0.5, 0.0)),
        ((8, 8), (0.3, -0.7), 0, 0, (0.3, -0.7)),
    ],
)
def test_the_square_lies_around_what_a_mask_lets_change(
    grid: tuple[int, int],
    around: tuple[float, float],
    left: int,
    top: int,
    place: tuple[float, float],
) -> None:
    square = Square.in_grid(grid, around)
    assert (square.left, square.top) == (left, top) and square.place(around) == pytest.approx(place)
