"""Plain shapes in ten colours on plain grounds: one, or two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image

from training.world.colours import COLOURS, RGB, darker, gradient, held_out, lighter, vary
from training.world.draft import Draft
from training.world.pen import Pen

CANVAS = 256
KINDS = ("circle", "square", "triangle", "star", "heart")
CHOICES: dict[str, dict[str, float]] = {
    "shapes": {"1": 3, "2": 2},  # how many
    **{f"kind_{k}": dict.fromkeys(KINDS, 1) for k in "12"},
    **{f"colour_{k}": dict.fromkeys(COLOURS, 1) for k in "12"},
    "order": {"left": 1, "right": 1},  # which side the first of two shapes is on
    "background": dict.fromkeys(COLOURS, 1),
}
MEASURES = [
    *("hue", "light"),
    *(f"{name}_{k}" for k in "12" for name in ("x", "y", "radius", "turn", "hue", "light")),
]


@dataclass(frozen=True)
class Shape:
    kind: str
    colour: str
    x: float  # of the centre, in pixels of the canvas
    y: float
    radius: float
    turn: float  # radians
    hue: float
    light: float


@dataclass(frozen=True)
class Shapes:
    """One shape, or two of different kinds, on a ground of another colour."""

    shapes: tuple[Shape, ...]
    background: str
    hue: float
    light: float

    @classmethod
    def of(cls, draft: Draft) -> Shapes:
        """The picture that a draft of CHOICES and MEASURES stands for."""
        chosen, u = draft.chosen, draft.measures
        background = chosen["background"]
        number = int(chosen["shapes"])
        first, second = chosen["kind_1"], chosen["kind_2"]
        if second == first:  # two shapes are never of a kind
            second = KINDS[(KINDS.index(first) + 1) % len(KINDS)]
        centres: tuple[float, ...] = (128.0,) if number == 1 else (74.0, 182.0)
        if chosen["order"] == "right":
            centres = centres[::-1]
        shapes = []
        for k, kind, centre in list(zip("12", (first, second), centres, strict=False))[:number]:
            colour = chosen[f"colour_{k}"]
            if colour == background:  # it would not show
                names = list(COLOURS)
                colour = names[(names.index(colour) + 1) % len(names)]
            shapes.append(
                Shape(
                    kind=kind,
                    colour=colour,
                    x=centre + (2 * u[f"x_{k}"] - 1) * (10 if number == 1 else 5),
                    y=128 + (2 * u[f"y_{k}"] - 1) * 10,
                    radius=62 + 22 * u[f"radius_{k}"] if number == 1 else 42 + 8 * u[f"radius_{k}"],
                    turn=(2 * u[f"turn_{k}"] - 1) * 0.15,
                    hue=u[f"hue_{k}"],
                    light=u[f"light_{k}"],
                )
            )
        return cls(tuple(shapes), background, u["hue"], u["light"])

    @classmethod
    def sample(cls, rng: np.random.Generator, test: bool = False) -> Shapes:
        """A random picture; only combinations kept out of training if `test`, else only the others."""
        while True:
            drawing = cls.of(Draft.sample(rng, CHOICES, MEASURES))
            if drawing.held_out == test:
                return drawing

    @property
    def held_out(self) -> bool:
        return any(held_out("shape", shape.kind, shape.colour) for shape in self.shapes)


def outline(kind: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """The polygon of a shape."""
    if kind == "heart":
        angles = [2 * pi * k / 60 for k in range(60)]
        points = [
            (16 * sin(a) ** 3 / 16, -(13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a)) / 16)
            for a in angles
        ]
    elif kind == "circle":
        points = [(cos(2 * pi * k / 72), sin(2 * pi * k / 72)) for k in range(72)]
    elif kind == "square":
        points = [(0.86 * sx, 0.86 * sy) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    elif kind == "triangle":
        points = [(sin(2 * pi * k / 3), 0.18 - cos(2 * pi * k / 3)) for k in range(3)]
    else:  # star
        radii = [1.1, 0.5] * 5
        points = [(r * sin(pi * k / 5), -r * cos(pi * k / 5)) for k, r in enumerate(radii)]
    c, s = cos(turn), sin(turn)
    return [(x + radius * (c * px - s * py), y + radius * (s * px + c * py)) for px, py in points]


def draw_shapes(drawing: Shapes, scale: int = 1) -> Image.Image:
    """Draw it, [scale * CANVAS, scale * CANVAS] RGB."""
    ground = vary(COLOURS[drawing.background], drawing.hue, drawing.light)
    canvas = gradient(scale * CANVAS, [lighter(ground, 0.06), darker(ground, 0.06)])
    pen = Pen(canvas, scale)
    for shape in drawing.shapes:
        colour: RGB = vary(COLOURS[shape.colour], shape.hue, shape.light)
        pen.polygon(
            outline(shape.kind, shape.x + 5, shape.y + 7, shape.radius, shape.turn), fill=darker(ground, 0.22)
        )
        pen.polygon(
            outline(shape.kind, shape.x, shape.y, shape.radius, shape.turn), fill=darker(colour, 0.12)
        )
        pen.polygon(
            outline(shape.kind, shape.x - 2, shape.y - 2, shape.radius * 0.92, shape.turn), fill=colour
        )
    return canvas
