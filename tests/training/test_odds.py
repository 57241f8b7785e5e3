"""What the learned start is taught to read: targets as LatentRevisions mixes them, and where they lead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mead.nn.perceptor import Perceptor
from training.drafts import CHOICES, NOT_SEEN, THING_CHOICES, THINGS, Drafted
from training.odds import Example, less, lesson, make, part_of
from training.run import DEMO
from training.texts import Speaker
from training.world.attributes import FIELDS, labels
from training.world.captions import caption


@pytest.fixture(scope="module")
def perceptor() -> Perceptor:
    return Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))


@pytest.fixture(scope="module")
def pool(perceptor: Perceptor) -> list[Example]:
    return make(perceptor, np.random.default_rng(6), 400)


def test_a_caption_less_a_part_leads_to_drawings_of_its_kind_without_the_part(pool: list[Example]) -> None:
    rng, shown, found = np.random.default_rng(7), torch.stack([one.shown for one in pool]), 0
    for example in pool:
        drawing = example.drafted.drawing
        whole = caption(drawing, rng)
        part = part_of(whole, drawing, rng)
        for k in less(example, whole, part, shown).tolist():
            other = pool[k].drafted.drawing
            seen = labels(other)
            assert type(other) is type(drawing)
            left = {name: values for name, values in whole.telling.items() if name not in part.telling}
            assert all(seen[name] in values for name, values in left.items())
            assert not any(seen[name] in values for name, values in part.telling.items())
            found += 1
    assert found > 1000


def test_a_part_of_a_caption_names_less_than_all_of_it(pool: list[Example]) -> None:
    rng, parts = np.random.default_rng(8), 0
    for example in pool:
        whole = caption(example.drafted.drawing, rng)
        part = part_of(whole, example.drafted.drawing, rng)
        parts += set(part.telling) < set(whole.telling)
        shown = labels(example.drafted.drawing)
        assert all(shown[name] in values for name, values in part.named.items())
    assert parts > len(pool) / 3


def test_a_lesson_has_targets_of_unit_length_and_outcomes_that_can_be(
    perceptor: Perceptor, pool: list[Example]
) -> None:
    q, wanted = lesson(perceptor, pool, Speaker(), 64, np.random.default_rng(9))
    each = [*CHOICES.values(), *THINGS * [*THING_CHOICES.values()]]
    assert wanted.shape == (64, len(each))
    torch.testing.assert_close(q.norm(dim=1), torch.ones(64))
    for outcomes, column in zip(each, wanted.mT, strict=True):
        assert all(outcome == NOT_SEEN or 0 <= outcome < len(outcomes) for outcome in column.tolist())
    assert (wanted[:, 0] >= 0).all()  # the layout always shows


def test_what_a_drawing_shows_is_kept_beside_it(pool: list[Example]) -> None:
    for example in pool[:50]:
        assert isinstance(example.drafted, Drafted)
        names = [values[k] for values, k in zip(FIELDS.values(), example.shown.tolist(), strict=True)]
        assert names == [*labels(example.drafted.drawing).values()]
        assert float(example.embedding.norm()) == pytest.approx(1, abs=0.01)
