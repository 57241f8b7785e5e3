"""Drafts as the learned start sees them: they say what a drawing shows, and where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.drafts import (
    CHOICES,
    HALF,
    LAYOUTS,
    MEASURES,
    NOT_SEEN,
    THING_CHOICES,
    THING_MEASURES,
    THINGS,
    Drafted,
    centres,
    counts,
    layout,
    numbers,
    outcomes,
    pair,
)
from training.world import Drawing, Face, Landscape, Shapes
from training.world.attributes import labels
from training.world.shapes import Shape


@pytest.fixture(scope="module")
def several() -> list[Drafted]:
    rng = np.random.default_rng(3)
    return [Drafted.sample(rng) for _ in range(200)]


def said(drafted: Drafted) -> dict[str, str]:
    """What the outcomes say, by the name of the choice; a thing's with its place behind it."""
    names = [*CHOICES, *(f"{name}_{k}" for k in range(THINGS) for name in THING_CHOICES)]
    values = [*CHOICES.values(), *THINGS * [*THING_CHOICES.values()]]
    found = zip(names, values, outcomes(drafted).tolist(), strict=True)
    return {name: value[outcome] for name, value, outcome in found if outcome != NOT_SEEN}


def test_outcomes_say_what_a_drawing_shows(several: list[Drafted]) -> None:
    for drafted in several:
        shown, told = labels(drafted.drawing), said(drafted)
        for k in range(THINGS):
            if f"kind_{k}" in told:
                assert shown[told[f"kind_{k}"]] == told[f"colour_{k}"]
        for name in set(shown) & set(told):
            if told[name] in ("yes", "no"):
                assert (told[name] == "yes") == (shown[name] != "none")
            elif not (name == "hair_colour" and shown["hair_style"] == "bald"):
                assert shown[name] == told[name]


def test_numbers_are_ones_at_outcomes_and_measures_that_count_in_the_layout(several: list[Drafted]) -> None:
    rows = counts()
    width = sum(map(len, CHOICES.values())) + THINGS * sum(map(len, THING_CHOICES.values()))
    assert rows.shape == (len(LAYOUTS), width + len(MEASURES) + THINGS * len(THING_MEASURES))
    for drafted in several:
        row, found = numbers(drafted), outcomes(drafted)
        assert row.shape == rows.shape[1:] and row[width:].abs().max() <= 1
        assert row[:width].sum() == (found != NOT_SEEN).sum()
        seen = rows[list(LAYOUTS).index(layout(drafted))]
        assert (row[:width] * seen[:width]).sum() == (found != NOT_SEEN).sum()


def test_centres_and_measures_say_where_things_are(several: list[Drafted]) -> None:
    for drafted in several:
        table = centres()[list(LAYOUTS).index(layout(drafted))]
        measures = numbers(drafted)[-THINGS * len(THING_MEASURES) :].view(THINGS, -1)
        for k, (_, thing) in enumerate(drafted.things()):
            x, y = (table[k, :2] + table[k, 2:] * measures[k, :2] + 1) * HALF
            assert x == pytest.approx(thing.x, abs=0.01)
            if isinstance(thing, Shape):
                assert y == pytest.approx(thing.y, abs=0.01)


def test_what_is_named_comes_first(several: list[Drafted]) -> None:
    two = [one for one in several if not isinstance(one.drawing, Face) and len(one.things()) == 2]
    assert {type(one.drawing) for one in two} == {Landscape, Shapes}
    for drafted in two:
        kinds = [thing.kind for _, thing in drafted.things()]
        assert kinds == sorted(kinds)
        turned = drafted.things({kinds[1]})
        assert [thing.kind for _, thing in turned] == kinds[::-1]
        left = turned[0][1].x < turned[1][1].x
        assert layout(drafted, {kinds[1]}).endswith("left" if left else "right")
        assert layout(drafted, kinds) == layout(drafted)


@pytest.mark.parametrize("kind", [Face, Landscape, Shapes])
def test_a_pair_is_of_one_kind_and_its_drafts_differ_where_its_drawings_do(kind: type[Drawing]) -> None:
    rng = np.random.default_rng(10)
    for _ in range(50):
        one, other = pair(rng, kind)
        assert type(one.drawing) is type(other.drawing) is kind
        assert labels(one.drawing) != labels(other.drawing)
        assert not torch.equal(numbers(one), numbers(other))
        assert sum(one.draft.chosen[name] != other.draft.chosen[name] for name in one.draft.chosen) == 1


def test_faces_of_pairs_wear_hats_and_earrings_more_often_than_others() -> None:
    rng = np.random.default_rng(11)
    often = [one.draft.chosen for _ in range(150) for one in pair(rng, Face)]
    rarely = [Drafted.sample(rng, Face).draft.chosen for _ in range(300)]
    for name, value in (("headwear", "hat"), ("earrings", "yes")):
        counts = [sum(chosen[name] == value for chosen in several) for several in (often, rarely)]
        assert counts[0] > 1.3 * counts[1]
