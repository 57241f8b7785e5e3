"""A pen that draws what ImageDraw draws, on a canvas some times as large."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

from PIL import Image, ImageDraw

MANY = 20  # corners: a polygon of as many stands for a curve


class Pen(ImageDraw.ImageDraw):
    """Draws on `canvas`, which is `scale` times as large as the coordinates say.

    ImageDraw rounds every coordinate down to a pixel. So does this pen, to a pixel of the small canvas, so
    that the large picture made small is the small picture; only curves made of many corners keep their
    places, or they would look bent.
    """

    def __init__(self, canvas: Image.Image, scale: int = 1) -> None:
        super().__init__(canvas)
        self.scale = scale
        self._large = ImageDraw.Draw(canvas)

    def ellipse(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        self._large.ellipse(self._box(xy), fill, outline, width * self.scale)

    def rectangle(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        self._large.rectangle(self._box(xy), fill, outline, width * self.scale)

    def arc(self, xy: Any, start: float, end: float, fill: Any = None, width: int = 1) -> None:
        self._large.arc(self._box(xy), start, end, fill, width * self.scale)

    def chord(
        self, xy: Any, start: float, end: float, fill: Any = None, outline: Any = None, width: int = 1
    ) -> None:
        self._large.chord(self._box(xy), start, end, fill, outline, width * self.scale)

    def rounded_rectangle(  # type: ignore[override]
        self, xy: Any, radius: float = 0, fill: Any = None, outline: Any = None, width: int = 1
    ) -> None:
        if self.scale > 1:  # ImageDraw rounds these to the nearest pixel
            xy, radius = self._box([round(value) for value in xy]), radius * self.scale
        self._large.rounded_rectangle(xy, radius, fill, outline, width * self.scale)

    def polygon(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        if self.scale == 1:
            self._large.polygon(xy, fill, outline, width)
            return
        corners = [self._place(x, y, exact=len(xy) >= MANY) for x, y in xy]
        self._large.polygon(corners, fill)
        # the pixels on its border count as well: half a pixel of the small canvas all around
        self._large.line([*corners, corners[0]], fill, self.scale // 2 + 1)
        r = self.scale / 4
        for x, y in corners:
            self._large.ellipse((x - r, y - r, x + r, y + r), fill)

    def line(self, xy: Any, fill: Any = None, width: int = 1, joint: str | None = None) -> None:
        if self.scale == 1:
            self._large.line(xy, fill, width, joint)
            return
        aside = 0.0 if width % 2 else 0.5  # where ImageDraw puts lines of an even width
        ends = [
            self._place(floor(x) + 0.5 + aside, floor(y) + 0.5 + aside)
            for x, y in zip(xy[::2], xy[1::2], strict=True)
        ]
        self._large.line(ends, fill, width * self.scale, joint)

    def _box(self, xy: Sequence[float]) -> tuple[float, ...]:
        """The box whose pixels are those that the box `xy` has on the small canvas."""
        if self.scale == 1:
            return tuple(xy)
        x0, y0, x1, y1 = (floor(value) for value in xy)
        s = self.scale
        return x0 * s, y0 * s, (x1 + 1) * s - 1, (y1 + 1) * s - 1

    def _place(self, x: float, y: float, exact: bool = True) -> tuple[float, float]:
        """Where the centre of a pixel of the small canvas lies, or a place between them."""
        if not exact:
            x, y = floor(x), floor(y)
        aside = 0.0 if exact else 0.5
        return (x + aside) * self.scale - 0.5, (y + aside) * self.scale - 0.5
