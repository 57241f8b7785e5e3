"""Drawn faces as a camera would show them: in front of a photo, in some light, tinted, blurred, grainy.

What lies behind them is cut out of the few photos there are, or made by rule. A part of each photo is kept
for tests.
"""

from __future__ import annotations

import functools
import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from training.run import ROOT
from training.world import SIDE, Face, draw, sample
from training.world.colours import COLOURS
from training.world.faces import CANVAS, draw_face

PHOTOS = ROOT / "tests" / "data"
Box = tuple[int, int, int, int]
# Parts of photos without a human face: file, then left, upper, right and lower edge.
SCENES: list[tuple[str, Box]] = [
    ("face.jpeg", (300, 0, 512, 270)),
    ("face.jpeg", (0, 260, 330, 512)),
    ("chelsea.jpg", (0, 0, 270, 300)),
    ("coffee.jpg", (0, 0, 350, 400)),
]
TEST_SCENES: list[tuple[str, Box]] = [
    ("face.jpeg", (0, 0, 100, 250)),
    ("face.jpeg", (330, 300, 512, 512)),
    ("chelsea.jpg", (270, 0, 451, 300)),
    ("coffee.jpg", (350, 0, 600, 400)),
]
SMALLEST = 60  # pixels of a photo, for a side of a crop
MADE = 0.4  # share of scenes in training that are no photos


def waves(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit deviation, about `cells` / 2 waves a side: [side, side]."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    """From -1 to 1 across the picture, in a random direction: [side, side]."""
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(-0.7, 0.7, side, dtype=np.float32)
    return np.cos(angle) * steps[:, None] + np.sin(angle) * steps


def crop(rng: np.random.Generator, side: int, test: bool = False) -> Image.Image:
    """A random square of the photos, [side, side]; of the parts kept for tests if `test`."""
    name, box = (TEST_SCENES if test else SCENES)[int(rng.integers(len(TEST_SCENES if test else SCENES)))]
    left, upper, right, lower = box
    width = int(rng.integers(SMALLEST, min(right - left, lower - upper) + 1))
    x, y = int(rng.integers(left, right - width + 1)), int(rng.integers(upper, lower - width + 1))
    picture = photo(name).resize((side, side), Image.Resampling.BICUBIC, (x, y, x + width, y + width))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


@functools.cache
def photo(name: str) -> Image.Image:
    with Image.open(PHOTOS / name) as photo:
        return photo.convert("RGB")


def made(rng: np.random.Generator, side: int) -> Image.Image:
    """A backdrop by rule, [side, side]: colours that run into each other, stripes, grain, or a drawing."""
    kind = int(rng.integers(4))
    if kind == 0:
        drawing = sample(rng)
        while isinstance(drawing, Face):
            drawing = sample(rng)
        return draw(drawing).resize((side, side), Image.Resampling.BICUBIC)
    one, other = (rng.uniform(0, 255, 3).astype(np.float32) for _ in range(2))
    if kind == 1:
        share = 0.5 + 0.7 * gradient(rng, side)
    elif kind == 2:
        share = (np.sin(rng.uniform(5, 40) * gradient(rng, side)) > 0).astype(np.float32)
    else:
        cells = int(rng.integers(3, side // 2))
        share = 0.5 + 0.5 * waves(rng, side, cells)
    share = share + rng.uniform(0, 0.1) * rng.standard_normal((side, side), np.float32)
    return _image(one + (other - one) * share.clip(0, 1)[..., None])


def scene(rng: np.random.Generator, side: int, test: bool = False) -> Image.Image:
    """What stands behind a face, [side, side]: in training, also by rule and in other colours."""
    if test:
        return crop(rng, side, test)
    if rng.random() < MADE:
        return made(rng, side)
    picture = np.asarray(crop(rng, side), np.float32)
    if rng.random() < 0.5:
        picture = picture[..., rng.permutation(3)]
        picture = 255 - picture if rng.random() < 0.3 else picture
    return _image(picture)


def colour_of(picture: np.ndarray, seen: np.ndarray) -> str:
    """The name of a picture's mean colour, [H, W, 3], where it is seen, [H, W, 1] in 0 to 1."""
    mean = (picture * seen).sum((0, 1)) / seen.sum()
    return min(COLOURS, key=lambda name: float(np.square(mean - COLOURS[name]).sum()))


def cut_out(face: Face, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The face's drawing on black [side, side, 3] and how much of the background is seen [side, side, 1]."""
    on_black, on_white = (
        np.asarray(draw_face(replace(face, background=name)).reduce(CANVAS // side), np.float32)
        for name in ("black", "white")
    )
    through = (on_white - on_black).mean(2, keepdims=True)
    # a soft light behind the head takes some of the difference
    seen = (through / (0.87 * through[0, 0])).clip(0, 1)
    return (on_black - seen * on_black[0, 0]).clip(0, 255), seen


def before(face: Face, behind: Image.Image) -> tuple[np.ndarray, Face]:
    """The face in front of a picture [side, side], and the face with the background that this is most like.

    Returns:
        [side, side, 3], 0 to 255, and the face.
    """
    subject, seen = cut_out(face, behind.width)
    picture = np.asarray(behind, np.float32)
    measures = (*face.measures[:10], 0.5, 0.5, *face.measures[12:])  # no hue or light of the background
    return subject + seen * picture, replace(face, background=colour_of(picture, seen), measures=measures)


def photograph(picture: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> Image.Image:
    """A picture [side, side, 3], 0 to 255, as a camera would show it: nothing that it shows is lost.

    Args:
        strength: 1 for changes as they are usual, more for stronger ones.
    """
    side = len(picture)
    amount = strength * rng.random(7) ** 2
    light = 0.4 * amount[0] * gradient(rng, side) + 0.12 * amount[1] * waves(
        rng, side, int(rng.integers(3, 7))
    )
    picture = picture * np.exp(light + 0.06 * amount[2] * waves(rng, side, side // 3))[..., None]
    grey = picture.mean(2, keepdims=True)
    picture = grey + (1 - 0.35 * amount[3]) * (picture - grey)
    # drawings are brighter than photos
    cast = strength * (rng.normal(0, 0.05, 3) + rng.normal(-0.06, 0.08))
    gamma = np.exp(strength * rng.normal(0, 0.1))
    picture = 255 * (picture / 255 * np.exp(cast)).clip(0, 1) ** gamma
    radius = float(1.2 * amount[4] * side / SIDE)
    blurred = _image(picture).filter(ImageFilter.GaussianBlur(radius))
    grain = 14 * amount[5] * rng.standard_normal(picture.shape, np.float32)
    if side > SIDE:  # of the same coarseness
        grain = np.stack([waves(rng, side, SIDE) for _ in range(3)], 2) * 14 * amount[5]
    file = io.BytesIO()
    _image(np.asarray(blurred, np.float32) + grain).save(
        file, "JPEG", quality=int(95 - 55 * min(1, amount[6]))
    )
    with Image.open(file) as compressed:
        return compressed.convert("RGB")


def _image(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
