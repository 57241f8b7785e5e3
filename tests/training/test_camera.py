"""Drawn faces as a camera shows them: cut out exactly, in front of other things, still the same faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.camera import SCENES, TEST_SCENES, before, crop, cut_out, made, photo, photograph, scene
from training.e4e import FALSE, OUTCOME_WEIGHTS, reading_loss, readout
from training.face_classifier import batch, faceless, words
from training.faces import z_of
from training.world import Face, draw
from training.world.attributes import labels


def some_face(seed: int) -> Face:
    return Face.sample(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_a_face_in_front_of_its_own_background_is_its_drawing(seed: int) -> None:
    face = replace(some_face(seed), background="green")
    backdrop = draw(face).getpixel((0, 0))
    assert isinstance(backdrop, tuple)
    picture, again = before(face, Image.new("RGB", (128, 128), backdrop))
    assert labels(again) == labels(face)
    off = np.abs(picture - np.asarray(draw(face), float))
    # but for the soft light behind the head
    assert np.percentile(off, 50) < 3 and off.max() < 45
    middle = off[50:75, 50:75]
    assert middle.max() < 3


def test_what_is_behind_a_face_is_seen_around_it_and_named_as_its_background() -> None:
    face = replace(some_face(1), background="blue", hair_style="short", headwear="none")
    for name, colour in (("red", (222, 40, 36)), ("white", (246, 246, 248))):
        picture, again = before(face, Image.new("RGB", (128, 128), colour))
        np.testing.assert_allclose(picture[3, 3], colour, atol=2)
        assert again.background == name and replace(again, background="blue", measures=face.measures) == face
    _, seen = cut_out(face, 128)
    assert seen[0, 0] == 1 and seen[64, 64] == 0


def test_a_photograph_is_another_every_time_and_the_same_for_the_same_numbers() -> None:
    drawing = np.asarray(draw(some_face(2)), np.float32)
    one, again, other = (photograph(drawing, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.size == (128, 128) and one.mode == "RGB"
    assert one == again and one != other
    assert np.abs(np.asarray(one, float) - drawing).mean() < 60
    large = np.asarray(draw(some_face(2)).resize((256, 256)), np.float32)
    assert photograph(large, np.random.default_rng(0)).size == (256, 256)


def test_parts_of_photos_for_tests_are_kept_out_of_training() -> None:
    for name, (left, upper, right, lower) in SCENES:
        for other, box in TEST_SCENES:
            apart = right <= box[0] or box[2] <= left or lower <= box[1] or box[3] <= upper
            assert name != other or apart, (name, other)
        assert photo(name).width >= right and photo(name).height >= lower
    rng = np.random.default_rng(0)
    for make in (crop, made, scene):
        assert {make(rng, 64).size for _ in range(8)} == {(64, 64)}


def test_choices_are_read_from_codes_that_mix_them() -> None:
    rng = np.random.default_rng(0)
    z = torch.stack([z_of(Face.sample(rng)) for _ in range(2000)])
    codes = z @ torch.from_numpy(rng.standard_normal((96, 96))).float() + 3
    read = readout(z, codes)
    found, chosen = (codes - codes.mean(0)) @ read, (z[:, : read.shape[1]] > 0).float()
    off = found - (chosen - chosen.mean(0))
    assert off.square().mean() < 0.1 * chosen.var(0).mean()


def test_seeing_what_is_not_there_costs_more_than_missing_it() -> None:
    z = torch.stack([z_of(replace(some_face(0), gender="female", earrings=there)) for there in (False, True)])
    outcomes = len(OUTCOME_WEIGHTS)
    read = torch.eye(96)[:, :outcomes]  # each outcome has an axis of its own
    of_earrings = (z[0, :outcomes] != z[1, :outcomes]).nonzero().flatten()
    off = torch.zeros(2, 3, 96)
    off[:, :, of_earrings[1]] = torch.tensor([0.5, -0.5])[:, None]  # seen where not there, and the reverse
    put_on, missed = (reading_loss(off[k : k + 1], read, z[k : k + 1]) for k in range(2))
    assert put_on == pytest.approx(FALSE * missed) and missed > 0
    assert reading_loss(0 * off, read, z) == 0


def test_the_classifier_sees_faces_and_others() -> None:
    pictures, wanted = batch(np.random.default_rng(0), 40, 64)
    assert pictures.shape == (40, 3, 64, 64) and pictures.abs().max() <= 1
    assert 8 <= wanted.sum() <= 24
    rng = np.random.default_rng(1)
    assert {faceless(rng, 64).size for _ in range(40)} == {(64, 64)}
    assert words(rng, 100).size == (100, 100)
