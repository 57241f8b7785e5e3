"""Plain shapes in ten colours on plain grounds: one, or two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from training.world.colours import COLOURS, RGB, darker, gradient, held_out, lighter, vary

CANVAS = 256
KINDS = ("circle", "square", "triangle", "star", "heart")


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
    """One or two shapes on a ground of another colour."""

    shapes: tuple[Shape, ...]
    background: str
    hue: float
    light: float

    @classmethod
    def sample(cls, rng: np.random.Generator, test: bool = False) -> Shapes:
        """A random picture; only combinations kept out of training if `test`, else only the others."""
        while True:
            background = str(rng.choice(list(COLOURS)))
            two = rng.random() < 0.4
            shapes = []
            for k in range(1 + two):
                colour = str(rng.choice([name for name in COLOURS if name != background]))
                radius = float(rng.uniform(34, 52) if two else rng.uniform(44, 88))
                x = float(rng.normal(74 + 108 * k, 6) if two else rng.normal(128, 14))
                shapes.append(
                    Shape(
                        kind=str(rng.choice(KINDS)),
                        colour=colour,
                        x=x,
                        y=float(rng.normal(128, 16)),
                        radius=radius,
                        turn=float(rng.uniform(-0.25, 0.25)),
                        hue=float(rng.random()),
                        light=float(rng.random()),
                    )
                )
            drawing = cls(tuple(shapes), background, float(rng.random()), float(rng.random()))
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


def draw_shapes(drawing: Shapes) -> Image.Image:
    """Draw it, [CANVAS, CANVAS] RGB."""
    ground = vary(COLOURS[drawing.background], drawing.hue, drawing.light)
    canvas = gradient(CANVAS, [lighter(ground, 0.06), darker(ground, 0.06)])
    pen = ImageDraw.Draw(canvas)
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
