"""What the learned start is taught to read: targets as LatentRevisions mixes them, and where they lead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from LatentRevisions.pipeline import load_pipeline
from mead.nn.perceptor import Perceptor
from mead.nn.tokeniser import load_tokeniser
from training.drafts import CHOICES, NOT_SEEN, THING_CHOICES, THINGS, Drafted
from training.odds import UNKNOWN, Example, hearsay, less, lesson, make, part_of
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


def test_hearsay_is_of_combinations_never_drawn_and_of_words_never_learned(perceptor: Perceptor) -> None:
    never = [Drafted.sample(np.random.default_rng(k), held_out=True) for k in range(8)]
    assert all(drafted.drawing.held_out for drafted in never)
    q, wanted = hearsay(perceptor, never, 64, np.random.default_rng(1))
    torch.testing.assert_close(q.norm(dim=1), torch.ones(64))
    assert (wanted[:, 0] >= 0).all()
    tokens = set(load_file(DEMO / "clip.safetensors")["tokens"].tolist())
    tokeniser = load_tokeniser()
    assert not any(token in tokens for word in UNKNOWN for token in tokeniser.encode(word))


@pytest.mark.parametrize(
    "prompt", ["a cat astronaut", "an oil painting of a castle", "ein rotes Haus am Meer"]
)
def test_words_it_does_not_know_make_no_shape(prompt: str) -> None:
    pipeline = load_pipeline("demo", "cpu")
    assert pipeline.learned_start is not None
    with torch.no_grad(), pipeline.precision.autocast():
        drafts = pipeline.learned_start.drafts(
            pipeline.perceptor.embed_text([prompt]), 64, torch.Generator().manual_seed(0)
        )
    layouts = [CHOICES["layout"][k] for k in drafts[:, : len(CHOICES["layout"])].argmax(1).tolist()]
    assert sum(layout.startswith("shapes") for layout in layouts) <= 2


def test_what_a_drawing_shows_is_kept_beside_it(pool: list[Example]) -> None:
    for example in pool[:50]:
        assert isinstance(example.drafted, Drafted)
        names = [values[k] for values, k in zip(FIELDS.values(), example.shown.tolist(), strict=True)]
        assert names == [*labels(example.drafted.drawing).values()]
        assert float(example.embedding.norm()) == pytest.approx(1, abs=0.01)
