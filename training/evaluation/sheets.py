"""Contact sheets: pictures in rows, each with its caption below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE = 144  # pixels, of each picture
GAP = 8
LINE = 14
LETTERS = 23  # in a line below a picture


@dataclass(frozen=True)
class Tile:
    """A picture, what stands below it, and what stands below that in another colour."""

    picture: Image.Image
    caption: str
    remark: str = ""
    colour: str = "crimson"  # of the remark

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines below the picture, each with its colour."""
        caption = [(line, "black") for line in wrapped(self.caption)]
        return caption + [(line, self.colour) for line in wrapped(self.remark)]


def sheet(rows: Sequence[Sequence[Tile]], side: int = SIDE) -> Image.Image:
    """Draw rows of tiles, each `side` pixels wide; each row is as high as its longest caption needs."""
    heights = [side + GAP + LINE * max((len(tile.lines) for tile in row), default=0) for row in rows]
    page = Image.new("RGB", (max(map(len, rows)) * (side + GAP), sum(heights)), "white")
    pen, font, y = ImageDraw.Draw(page), ImageFont.load_default(12), 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            x = column * (side + GAP)
            page.paste(tile.picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x, y))
            for k, (text, colour) in enumerate(tile.lines):
                pen.text((x, y + side + 1 + LINE * k), text, colour, font)
        y += height
    return page


def pages(tiles: Sequence[Tile], columns: int = 8, rows: int = 5) -> Iterable[Image.Image]:
    """Lay tiles out on as many sheets as they need."""
    for first in range(0, len(tiles), columns * rows):
        page = tiles[first : first + columns * rows]
        yield sheet([page[columns * k : columns * (k + 1)] for k in range(math.ceil(len(page) / columns))])


def wrapped(text: str) -> list[str]:
    """`text` in lines short enough for a tile; no line for no text."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= LETTERS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
