"""The world's colours and how they are varied, lightened and shaded."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 40, 36),
    "orange": (250, 140, 24),
    "yellow": (252, 222, 48),
    "green": (44, 166, 60),
    "blue": (38, 92, 222),
    "purple": (140, 52, 190),
    "pink": (250, 128, 190),
    "brown": (130, 80, 44),
    "black": (26, 24, 28),
    "white": (246, 246, 248),
    "grey": (136, 138, 144),
}


def vary(colour: RGB, hue: float, light: float) -> RGB:
    """Shift hue and lightness a little; `hue` and `light` in [0, 1], 0.5 changes nothing."""
    h, lightness, s = colorsys.rgb_to_hls(*(c / 255 for c in colour))
    h = (h + (hue - 0.5) * 0.025) % 1
    lightness = min(1.0, max(0.0, lightness + (light - 0.5) * 0.08))
    r, g, b = colorsys.hls_to_rgb(h, lightness, s)
    return round(r * 255), round(g * 255), round(b * 255)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`share` of b in a."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def lighter(colour: RGB, share: float = 0.3) -> RGB:
    return mix(colour, (255, 255, 255), share)


def darker(colour: RGB, share: float = 0.3) -> RGB:
    return mix(colour, (0, 0, 0), share)


def gradient(side: int, stops: Sequence[RGB]) -> Image.Image:
    """A square of `side` pixels that runs from the first colour at the top to the last at the bottom."""
    rows = np.linspace(0, len(stops) - 1, side)
    channels = [np.interp(rows, range(len(stops)), [stop[c] for stop in stops]) for c in range(3)]
    column = np.stack(channels, -1).round().astype(np.uint8)[:, None]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(column, (side, side, 3))))


def held_out(*words: str) -> bool:
    """Whether this combination is kept out of all training, for testing: a fixed sixteenth of them."""
    return zlib.crc32(" ".join(words).encode()) % 16 == 0
