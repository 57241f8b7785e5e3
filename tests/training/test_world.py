"""The drawn world: what it draws is what it says, and what is kept out of training stays out."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch

from training import faces
from training.drafts import SMALL, pair
from training.mapper import edited
from training.world import SIDE, Face, Landscape, Shapes, draw, sample
from training.world.attributes import FIELDS, labels
from training.world.captions import COLOUR_WORDS, caption, wrong
from training.world.faces import CHOICES


def test_a_drawing_follows_from_its_attributes_alone() -> None:
    for seed in range(20):
        drawing = sample(np.random.default_rng(seed))
        picture = draw(drawing)
        assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
        assert picture.tobytes() == draw(sample(np.random.default_rng(seed))).tobytes()


@pytest.mark.parametrize("kind", [Face, Landscape, Shapes])
def test_a_drawing_is_the_same_at_any_size(kind: type[Face]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        drawing = kind.sample(rng)
        small, large = draw(drawing), draw(drawing, 4 * SIDE)
        assert large.size == (4 * SIDE, 4 * SIDE)
        off = np.asarray(small).astype(int) - np.asarray(large.reduce(4))
        assert np.abs(off).mean() < 2 and np.abs(off.mean()) < 0.7  # levels; edges are placed more finely


@pytest.mark.parametrize("kind", [Face, Landscape, Shapes])
def test_combinations_kept_for_testing_are_never_drawn_for_training(kind: type[Face]) -> None:
    rng = np.random.default_rng(0)
    assert not any(kind.sample(rng).held_out for _ in range(200))
    assert all(kind.sample(rng, test=True).held_out for _ in range(20))


def test_captions_say_only_what_is_there() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        face = Face.sample(rng)
        text = caption(face, rng).text
        for colour, thing in re.findall(r"(\w+) (eyes|beard|background|hat)\b", text):
            there = {
                "eyes": face.eye_colour,
                "beard": face.hair_colour,
                "background": face.background,
                "hat": face.headwear_colour,
            }
            assert colour in (there[thing], "a"), text
        assert ("with glasses" not in text) or face.glasses
        shapes = Shapes.sample(rng)
        for colour, shape in re.findall(
            r"(\w+) (circle|square|triangle|star|heart)", caption(shapes, rng).text
        ):
            assert (colour, shape) in {(one.colour, one.kind) for one in shapes.shapes}


def test_what_a_caption_names_is_true_of_its_drawing_and_said_in_it() -> None:
    rng = np.random.default_rng(4)
    for _ in range(2000):
        drawing = sample(rng)
        said, shown = caption(drawing, rng), labels(drawing)
        assert said.named
        for name, values in said.named.items():
            assert shown[name] in values, said
            if len(values) == 1 and shown[name] in COLOUR_WORDS and name not in ("sky", "ground"):
                assert shown[name] in said.text


def test_labels_are_values_of_the_listed_attributes_and_each_is_drawn() -> None:
    rng = np.random.default_rng(5)
    drawings = [sample(rng) for _ in range(6000)]
    drawings += [kind.sample(rng, test=True) for kind in (Landscape, Shapes) for _ in range(600)]
    seen: dict[str, set[str]] = {name: set() for name in FIELDS}
    for drawing in drawings:
        for name, value in labels(drawing).items():
            seen[name].add(value)
    assert {name: set(values) for name, values in FIELDS.items()} == seen


def test_a_wrong_caption_differs_by_its_colours_or_glasses_only() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        text = caption(sample(rng), rng).text
        other = wrong(text, rng)
        assert other != text

        def bare(words: str) -> list[str]:
            return [word for word in words.split() if word.strip(",") not in (*COLOUR_WORDS, "a", "an", "no")]

        assert bare(other) == bare(text)
    turned = {wrong("a man with no glasses", rng) for _ in range(20)}
    assert "a man with glasses" in turned and len(turned) > 1


def test_the_faces_of_a_pair_differ_in_one_attribute_that_shows() -> None:
    rng = np.random.default_rng(4)
    differing = Counter[str]()
    for _ in range(300):
        one, other = pair(rng, Face)
        assert one.draft.measures == other.draft.measures
        assert not one.drawing.held_out and not other.drawing.held_out
        before, after = labels(one.drawing), labels(other.drawing)
        differing.update(name for name in before if before[name] != after[name])
    assert {"earrings", "expression", "clothes", "hat", "crown", "eye_colour"} <= differing.keys()
    assert min(differing[name] for name in SMALL) > differing["clothes"] > 0


def test_an_edit_takes_what_a_caption_says_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        face, other = Face.sample(rng), Face.sample(rng)
        said = caption(other, rng)
        before, after = labels(face), labels(edited(face, other, said))
        for name, values in said.named.items():
            # a beard is a man's, earrings are a woman's
            assert after[name] in values or name in ("beard", "earrings")
        sex = {"gender", "age", "beard", "earrings"}  # one may take another along
        follow = {
            "hat": {"crown"},
            "crown": {"hat"},
            "hair_colour": {"hair_style"},
            "gender": sex,
            "age": sex,
        }
        follow["hair_style"] = {"hair_colour"}
        allowed = {*said.named, *(name for one in said.named for name in follow.get(one, ()))}
        assert {name for name in before if before[name] != after[name]} <= allowed


def test_z_says_every_choice_and_measure() -> None:
    rng = np.random.default_rng(3)
    several = [Face.sample(rng) for _ in range(50)]
    zs = torch.stack([faces.z_of(face) for face in several])
    assert zs.shape == (50, faces.STYLE_DIM)
    assert ((zs == faces.ONE).sum(1) == len(CHOICES) - len(SMALL)).all()
    assert ((zs == faces.LOUD).sum(1) == len(SMALL)).all()
    assert len(zs.unique(dim=0)) == len(set(several))
    assert 1 < zs.square().mean() < 1.5
