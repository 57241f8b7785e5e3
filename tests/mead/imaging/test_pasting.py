"""Pasting a changed face back: where it lands, what stays as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from mead.imaging.faces import Square, found_faces
from mead.imaging.pasting import change, mask_of, paste, soft_mask
from StyleCLIP.align import cut_out

SIZE = 128


def square(x: float, y: float, side: float, degrees: float = 0) -> Square:
    turned = math.radians(degrees)
    return Square(np.array([x, y]), np.array([math.cos(turned), math.sin(turned)]) * side / 2)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def face(spot: tuple[int, int, int, int] | None = None, levels: int = 90) -> Image.Image:
    """A grey face, with a spot in it that is so much lighter."""
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    if spot is not None:
        left, upper, right, lower = spot
        picture[upper:lower, left:right] += np.uint8(levels)
    return Image.fromarray(picture)


SQUARES = {
    "as large": square(150, 120, SIZE),
    "smaller": square(150, 120, 41.3, 12),
    "larger": square(150, 120, 190.7, -35),
    "upside down": square(150, 120, 100, 180),
    "at the edge": square(10, 230, 120, 20),
    "tiny": square(150, 120, 2),
    "outside": square(-200, -200, 100),
}


@pytest.mark.parametrize("name", SQUARES)
def test_pixels_outside_the_mask_stay_exactly(name: str) -> None:
    before = noise(300, 240)
    after = before.copy()
    paste(after, change(face(), face((0, 0, SIZE, SIZE))), SQUARES[name])
    mask = mask_of(SQUARES[name], 300, 240)
    assert mask.shape == (240, 300) and 0 <= mask.min() <= mask.max() <= 1
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (mask > 0).any() == (after != before).any() or name == "tiny"


@pytest.mark.parametrize("name", SQUARES)
def test_an_unchanged_face_leaves_the_photo_alone(name: str) -> None:
    before = noise(300, 240)
    after = before.copy()
    paste(after, change(face((40, 40, 80, 80)), face((40, 40, 80, 80))), SQUARES[name])
    assert (after == before).all()


@pytest.mark.parametrize("name", ["as large", "smaller", "larger", "upside down"])
def test_a_change_lands_where_the_face_was_cut_out(name: str) -> None:
    """Cut out again, the pasted photo shows the change in its place."""
    photo = np.full((240, 300, 3), 100, np.uint8)
    spot = (30, 50, 60, 80)
    paste(photo, change(face(), face(spot)), SQUARES[name])
    shown = np.asarray(cut_out(Image.fromarray(photo), SQUARES[name], SIZE), float)[..., 0]
    inside, outside = np.zeros((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)
    inside[54:76, 34:56] = True
    outside[44:86, 24:66] = False
    assert abs(shown[inside].mean() - 190) < 3 and abs(shown[outside] - 100).max() < 3


def test_a_smaller_face_is_shrunk_without_aliasing() -> None:
    """Stripes finer than the photo's pixels are averaged."""
    stripes = np.zeros((SIZE, SIZE, 3), np.float32)
    stripes[:, ::2] = 120
    photo = np.full((100, 100, 3), 60, np.uint8)
    paste(photo, stripes, square(50, 50, 31.7, 9))
    middle = photo[44:57, 44:57].astype(int)
    assert abs(middle - 120).max() <= 4


def test_what_is_hardly_to_be_seen_is_no_change() -> None:
    assert not change(face(), face((0, 0, SIZE, SIZE), levels=5)).any()
    assert (change(face(), face((0, 0, SIZE, SIZE), levels=40)) == 40).all()
    partly = change(face(), face((0, 0, SIZE // 2, SIZE)))
    assert (partly[:, 70:] == 0).all() and (partly[:, :56] == 90).all()


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.5])
def test_what_is_hardly_to_be_seen_is_measured_in_the_strength(strength: float) -> None:
    whole = change(face(), face((20, 20, 60, 60), levels=16))
    part = change(face(), face((20, 20, 60, 60), levels=round(16 * strength)), strength)
    assert 4 < whole.max() < 16  # a small change, of which a part is pasted
    np.testing.assert_allclose(part, strength * whole, atol=1e-4)


@pytest.mark.parametrize("replaces", [False, True])
def test_of_no_strength_there_is_no_change(replaces: bool) -> None:
    assert not change(face(), face((20, 20, 60, 60)), 0.0, replaces).any()


HAIR = (30, 30, 70, 70)


def with_hair_missed() -> np.ndarray:
    """A photo whose hair goes a little further than that of HAIR, with something else that is not there."""
    photo = np.asarray(face(HAIR)).copy()
    photo[40:60, 70:72] = 190
    photo[100:110, 100:110] = 150
    return photo


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_an_edit_replaces_is_pasted_as_the_edit_shows_it(strength: float) -> None:
    """What the inversion has missed goes with it, in proportion to the strength, and stays anywhere else."""
    before, after = with_hair_missed(), with_hair_missed()
    edit = Image.blend(face(HAIR), face(), strength)
    paste(after, change(face(HAIR), edit, strength, replaces=True), square(64, 64, SIZE))
    np.testing.assert_allclose(after[45:55, 35:70], 190 - 90 * strength, atol=1)
    np.testing.assert_allclose(after[45:55, 70:72], 190 - 90 * strength, atol=30 * strength)
    assert (after[80:] == before[80:]).all()
    rim = with_hair_missed()
    paste(rim, change(face(HAIR), edit, strength), square(64, 64, SIZE))
    assert (rim[50, 70:72] > 190 - 45 * strength).all()


def test_another_shade_keeps_what_the_inversion_has_missed() -> None:
    photos = with_hair_missed(), with_hair_missed()
    for photo, replaces in zip(photos, (False, True), strict=True):
        paste(photo, change(face(HAIR), face(HAIR, levels=60), 1.0, replaces), square(64, 64, SIZE))
    np.testing.assert_array_equal(*photos)


@pytest.mark.parametrize("name", SQUARES)
def test_of_an_unchanged_face_nothing_is_replaced(name: str) -> None:
    before, after = noise(300, 240), noise(300, 240)
    paste(after, change(face(HAIR), face(HAIR), 1.0, replaces=True), SQUARES[name])
    assert (after == before).all()


def test_colours_neither_wrap_around_nor_shift() -> None:
    photo = np.full((200, 200, 3), 250, np.uint8)
    paste(photo, np.full((SIZE, SIZE, 3), 80, np.float32), square(100, 100, 150))
    assert photo.min() == 250 and photo[100, 100].tolist() == [255] * 3


def test_a_large_face_is_pasted_in_bands() -> None:
    """As if it were pasted at once."""
    photo = np.full((1500, 1500, 3), 100, np.uint8)
    paste(photo, np.full((SIZE, SIZE, 3), 60, np.float32), square(750, 750, 1400))
    assert (photo[200:1300, 200:1300] == 160).all() and (photo[:40] == 100).all()
    assert np.abs(np.diff(photo[:, 750, 0].astype(int))).max() <= 2


def test_the_mask_is_soft_and_ends_within_the_square() -> None:
    mask = soft_mask(200, square(0, 0, 200))
    assert (mask[[0, -1]] == 0).all() and (mask[:, [0, -1]] == 0).all()
    assert mask[100, 100] == 1 and mask[100, 11] == pytest.approx(0.5, abs=0.1)  # w = 10 inside, and the edge
    assert np.abs(np.diff(mask, axis=1)).max() < 0.1


def test_a_neighbour_keeps_what_is_nearer_to_it() -> None:
    photo = np.full((200, 400, 3), 100, np.uint8)
    mine, other = square(150, 100, 180), square(240, 100, 180)
    paste(photo, np.full((SIZE, SIZE, 3), 60, np.float32), mine, [other])
    assert photo[100, 130, 0] == 160 and photo[100, 220, 0] == 100
    assert 100 < photo[100, 195, 0] < 160  # half way


def test_squares() -> None:
    turned = square(100, 50, 40, 90)
    assert turned.side == pytest.approx(40) and turned.angle == pytest.approx(90)
    np.testing.assert_allclose(turned.corner, (120, 30), atol=1e-9)
    assert square(100, 50, 40).bounds(110, 60) == (80, 30, 110, 60)
    box = Square.of_box(10, 20, 30, 40)
    assert box.bounds(100, 100) == (10, 20, 30, 40) and box.angle == 0
    told = found_faces([box, turned], (1000, 1000))
    assert [(face.number, face.angle) for face in told] == [(1, 0), (2, 90)]
    assert told[1].box == (80, 30, 120, 70)
