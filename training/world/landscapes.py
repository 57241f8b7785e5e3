"""Landscapes: a sky, a ground and a few things in colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from training.world.colours import COLOURS, RGB, darker, gradient, held_out, lighter, mix, vary
from training.world.draft import Draft
from training.world.pen import Pen

CANVAS = 256
SKIES: dict[str, tuple[RGB, ...]] = {
    "day": ((72, 160, 246), (150, 206, 252), (206, 234, 254)),
    "night": ((6, 8, 34), (16, 20, 62), (34, 38, 88)),
    "sunset": ((92, 50, 138), (214, 84, 110), (252, 158, 74), (254, 206, 110)),
}
GROUNDS: dict[str, RGB] = {
    "grass": (74, 176, 66),
    "sand": (236, 208, 140),
    "snow": (240, 244, 252),
    "sea": (22, 102, 184),
}
ON_LAND = ("house", "tree", "car", "flower", "balloon")
ON_SEA = ("boat", "fish", "balloon")
DETAILS = 8  # arrangements of stars, waves, tufts and mountains: few enough to be learned
CHOICES: dict[str, dict[str, float]] = {
    "sky": dict.fromkeys(SKIES, 1),
    "ground": dict.fromkeys(GROUNDS, 1),
    "things": {"0": 1, "1": 5, "2": 3},  # how many
    **{f"on_land_{k}": dict.fromkeys(ON_LAND, 1) for k in "12"},
    **{f"on_sea_{k}": {"boat": 2, "fish": 2, "balloon": 1} for k in "12"},
    **{f"colour_{k}": dict.fromkeys(COLOURS, 1) for k in "12"},
    "order": {"left": 1, "right": 1},  # which side the first of two things is on
    "mountains": {"no": 3, "yes": 1},
    "sun": {"no": 1, "yes": 1},
    "moon": {"no": 1, "yes": 2},  # at night
    "cloud": {"no": 1, "yes": 1},  # by day
    "side": {"left": 1, "right": 1},  # of the sun or the moon
    "details": dict.fromkeys(map(str, range(DETAILS)), 1),
}
MEASURES = ["horizon", "sun_x", *(f"{name}_{k}" for k in "12" for name in ("x", "size", "hue", "light"))]


@dataclass(frozen=True)
class Thing:
    kind: str
    colour: str
    x: float
    size: float
    hue: float
    light: float


@dataclass(frozen=True)
class Landscape:
    """Sky, ground, at most two coloured things, and what the sky and the horizon hold."""

    sky: str
    ground: str
    things: tuple[Thing, ...]
    mountains: bool
    sun: bool
    moon: bool
    cloud: bool
    horizon: float
    sun_x: float
    details: int = field(repr=False)  # below DETAILS; seeds stars, waves, tufts and the mountains' outline

    @classmethod
    def of(cls, draft: Draft) -> Landscape:
        """The landscape that a draft of CHOICES and MEASURES stands for."""
        chosen, u = draft.chosen, draft.measures
        sky, number = chosen["sky"], int(chosen["things"])
        kinds = ON_SEA if chosen["ground"] == "sea" else ON_LAND
        first, second = (chosen[f"on_{'sea' if chosen['ground'] == 'sea' else 'land'}_{k}"] for k in "12")
        if second == first:  # two things are never of a kind
            second = kinds[(kinds.index(first) + 1) % len(kinds)]
        # things vary in place and size only so much as a small network can learn to place them
        centres, spread, small = ((128.0,), 22.0, 1.05) if number == 1 else ((74.0, 184.0), 8.0, 0.85)
        if chosen["order"] == "right":
            centres = centres[::-1]
        things = tuple(
            Thing(
                kind=kind,
                colour=chosen[f"colour_{k}"],
                x=centre + (2 * u[f"x_{k}"] - 1) * spread,
                size=small + u[f"size_{k}"] * (0.2 if number == 1 else 0.1),
                hue=u[f"hue_{k}"],
                light=u[f"light_{k}"],
            )
            for k, kind, centre in list(zip("12", (first, second), centres, strict=False))[:number]
        )
        return cls(
            sky=sky,
            ground=chosen["ground"],
            things=things,
            mountains=chosen["mountains"] == "yes",
            sun=sky != "night" and chosen["sun"] == "yes",
            moon=sky == "night" and chosen["moon"] == "yes",
            cloud=sky == "day" and chosen["cloud"] == "yes",
            horizon=152 + 12 * u["horizon"],
            sun_x=(42 if chosen["side"] == "left" else 194) + 20 * u["sun_x"],
            details=int(chosen["details"]),
        )

    @classmethod
    def sample(cls, rng: np.random.Generator, test: bool = False) -> Landscape:
        """A random landscape; only combinations kept out of training if `test`, else only the others."""
        while True:
            landscape = cls.of(Draft.sample(rng, CHOICES, MEASURES))
            if landscape.held_out == test:
                return landscape

    @property
    def held_out(self) -> bool:
        return any(held_out("thing", thing.kind, thing.colour) for thing in self.things)


def draw_landscape(scene: Landscape, scale: int = 1) -> Image.Image:
    """Draw it, [scale * CANVAS, scale * CANVAS] RGB."""
    rng = np.random.default_rng(scene.details)
    dim = {"day": 0.0, "sunset": 0.22, "night": 0.55}[scene.sky]  # how dark the ground lies
    canvas = gradient(scale * CANVAS, SKIES[scene.sky])
    horizon = int(scene.horizon)
    canvas.paste(canvas.resize((scale * CANVAS, scale * horizon)), (0, 0))
    pen = Pen(canvas, scale)

    if scene.sky == "night":
        for x, y in rng.uniform((6, 6), (250, horizon - 20), (26, 2)):
            r = rng.uniform(1.2, 3)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 252, 230))
    if scene.sun:
        _sun(pen, scene.sun_x, 46 if scene.sky == "day" else horizon - 26, scene.sky == "day")
    if scene.moon:
        x, y = scene.sun_x, 46
        pen.ellipse((x - 25, y - 25, x + 25, y + 25), fill=(250, 246, 214))
        pen.ellipse((x - 12, y - 12, x - 2, y - 2), fill=(228, 222, 188))
        pen.ellipse((x + 2, y + 3, x + 13, y + 14), fill=(228, 222, 188))
    if scene.cloud:
        x = 256 - scene.sun_x
        for dx, dy, r in ((-26, 4, 17), (-6, -8, 23), (18, 0, 20), (36, 8, 13)):
            pen.ellipse((x + dx - r, 50 + dy - r, x + dx + r, 50 + dy + r), fill=(255, 255, 255))
    if scene.mountains:
        rock = mix((112, 106, 124), (20, 20, 44), dim)
        for x, h, w in (
            (rng.uniform(40, 90), 78, 74),
            (rng.uniform(160, 220), 94, 84),
            (rng.uniform(110, 150), 60, 64),
        ):
            pen.polygon([(x - w, horizon), (x, horizon - h), (x + w, horizon)], fill=rock)
            tip = 0.3
            snow = mix((250, 250, 255), (120, 124, 160), dim)
            pen.polygon(
                [
                    (x - w * tip, horizon - h * (1 - tip)),
                    (x, horizon - h),
                    (x + w * tip, horizon - h * (1 - tip)),
                ],
                fill=snow,
            )

    ground = mix(GROUNDS[scene.ground], (16, 18, 44), dim)
    lower = gradient(scale * CANVAS, [lighter(ground, 0.08), darker(ground, 0.14)])
    lower = lower.resize((scale * CANVAS, scale * (CANVAS - horizon)))
    canvas.paste(lower, (0, scale * horizon))
    if scene.ground == "sea":
        for x, y in rng.uniform((10, horizon + 8), (236, 250), (12, 2)):
            pen.arc((x - 12, y - 4, x + 12, y + 6), 200, 340, fill=lighter(ground, 0.35), width=3)
    elif scene.ground == "grass":
        for x, y in rng.uniform((6, horizon + 12), (250, 252), (22, 2)):
            pen.line((x, y, x - 3, y - 9), fill=darker(ground, 0.25), width=3)
            pen.line((x, y, x + 3, y - 8), fill=darker(ground, 0.25), width=3)

    for thing in scene.things:
        colour = vary(COLOURS[thing.colour], thing.hue, thing.light)
        DRAWERS[thing.kind](
            pen, thing.x, horizon, thing.size, mix(colour, (10, 10, 40), dim * 0.35), scene.sky
        )
    return canvas


def _sun(pen: ImageDraw.ImageDraw, x: float, y: float, rays: bool) -> None:
    if rays:
        for k in range(12):
            a = 2 * pi * k / 12
            line = (x + cos(a) * 30, y + sin(a) * 30, x + cos(a) * 42, y + sin(a) * 42)
            pen.line(line, fill=(255, 214, 40), width=5)
    r = 25 if rays else 34
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 222, 66))
    pen.ellipse((x - r + 5, y - r + 5, x + r - 9, y + r - 9), fill=(255, 236, 130))


def _house(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 38
    w, h = 50 * s, 56 * s
    pen.rectangle((x - w, y - h, x + w, y), fill=colour)
    pen.rectangle((x + w * 0.55, y - h, x + w, y), fill=darker(colour, 0.12))
    roof = darker(colour, 0.5) if sum(colour) > 200 else (110, 60, 50)
    pen.polygon([(x - w - 12, y - h), (x, y - h - 46 * s), (x + w + 12, y - h)], fill=roof)
    pane = (255, 236, 120) if sky != "day" else (190, 226, 250)
    for side in (-1, 1):
        wx = x + side * w * 0.58
        pen.rectangle(
            (wx - 11 * s, y - h * 0.78, wx + 11 * s, y - h * 0.4), fill=pane, outline=(70, 50, 40), width=3
        )
    pen.rectangle((x - 10 * s, y - h * 0.56, x + 10 * s, y), fill=(84, 52, 32))


def _tree(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 38
    pen.rectangle((x - 8 * s, y - 56 * s, x + 8 * s, y), fill=(104, 66, 36))
    for dx, dy, radius in ((-24, -64, 28), (24, -64, 28), (0, -94, 34), (0, -66, 30)):
        cx, cy, r = x + dx * s, y + dy * s, radius * s
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)
    r = 14 * s
    pen.ellipse(
        (x - 16 * s - r, y - 100 * s - r, x - 16 * s + r, y - 100 * s + r), fill=lighter(colour, 0.18)
    )


def _car(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 52
    pen.polygon(
        [
            (x - 34 * s, y - 30 * s),
            (x - 20 * s, y - 58 * s),
            (x + 22 * s, y - 58 * s),
            (x + 38 * s, y - 30 * s),
        ],
        fill=colour,
    )
    pane = [
        (x - 24 * s, y - 32 * s),
        (x - 14 * s, y - 51 * s),
        (x + 16 * s, y - 51 * s),
        (x + 27 * s, y - 32 * s),
    ]
    pen.polygon(pane, fill=(196, 228, 248))
    pen.rectangle((x - 2 * s, y - 52 * s, x + 3 * s, y - 31 * s), fill=colour)
    pen.rounded_rectangle((x - 60 * s, y - 34 * s, x + 60 * s, y - 6 * s), int(10 * s), fill=colour)
    pen.rectangle((x - 58 * s, y - 15 * s, x + 58 * s, y - 7 * s), fill=darker(colour, 0.2))
    pen.ellipse((x + 48 * s, y - 30 * s, x + 59 * s, y - 19 * s), fill=(255, 240, 150))
    for side in (-1, 1):
        wx, wy, r = x + side * 33 * s, y - 5 * s, 14 * s
        pen.ellipse((wx - r, wy - r, wx + r, wy + r), fill=(24, 24, 28))
        pen.ellipse((wx - r * 0.45, wy - r * 0.45, wx + r * 0.45, wy + r * 0.45), fill=(190, 190, 196))


def _flower(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 64
    top = y - 92 * s
    pen.line((x, y, x, top), fill=(40, 130, 50), width=int(8 * s))
    for side in (-1, 1):
        lx, ly = x + side * 18 * s, y - 26 * s
        pen.ellipse((lx - 18 * s, ly - 8 * s, lx + 18 * s, ly + 8 * s), fill=(52, 150, 60))
    for k in range(6):
        a = pi * k / 3
        px, py, r = x + cos(a) * 23 * s, top + sin(a) * 23 * s, 17 * s
        pen.ellipse((px - r, py - r, px + r, py + r), fill=colour if k % 2 else darker(colour, 0.08))
    r = 13 * s
    pen.ellipse(
        (x - r, top - r, x + r, top + r),
        fill=(254, 210, 50) if colour[2] > 80 or colour[0] < 200 else (120, 70, 30),
    )


def _boat(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 48
    pen.rectangle((x - 3 * s, y - 100 * s, x + 3 * s, y - 20 * s), fill=(96, 64, 40))
    pen.polygon(
        [(x + 5 * s, y - 98 * s), (x + 5 * s, y - 32 * s), (x + 48 * s, y - 32 * s)], fill=(250, 250, 246)
    )
    pen.polygon(
        [(x - 6 * s, y - 86 * s), (x - 6 * s, y - 32 * s), (x - 38 * s, y - 32 * s)], fill=(226, 228, 232)
    )
    hull = [
        (x - 62 * s, y - 24 * s),
        (x + 62 * s, y - 24 * s),
        (x + 42 * s, y + 6 * s),
        (x - 42 * s, y + 6 * s),
    ]
    pen.polygon(hull, fill=colour)
    pen.line((x - 58 * s, y - 20 * s, x + 58 * s, y - 20 * s), fill=lighter(colour, 0.35), width=4)


def _fish(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y = horizon + 50
    pen.polygon(
        [(x - 36 * s, y), (x - 68 * s, y - 26 * s), (x - 68 * s, y + 26 * s)], fill=darker(colour, 0.15)
    )
    pen.polygon(
        [(x - 10 * s, y - 22 * s), (x + 8 * s, y - 44 * s), (x + 24 * s, y - 20 * s)],
        fill=darker(colour, 0.15),
    )
    pen.ellipse((x - 48 * s, y - 28 * s, x + 56 * s, y + 28 * s), fill=colour)
    pen.ellipse((x - 30 * s, y + 2 * s, x + 34 * s, y + 24 * s), fill=lighter(colour, 0.28))
    pen.ellipse((x + 26 * s, y - 16 * s, x + 42 * s, y), fill=(255, 255, 255))
    pen.ellipse((x + 31 * s, y - 12 * s, x + 40 * s, y - 3 * s), fill=(10, 10, 14))


def _balloon(pen: ImageDraw.ImageDraw, x: float, horizon: int, s: float, colour: RGB, sky: str) -> None:
    y, r = 74.0, 42 * s
    for side in (-1, 1):
        pen.line((x + side * r * 0.5, y + r * 0.8, x + side * 9, y + r * 1.55), fill=(90, 64, 44), width=3)
    pen.polygon(
        [
            (x - r * 0.88, y + r * 0.45),
            (x + r * 0.88, y + r * 0.45),
            (x + 11, y + r * 1.25),
            (x - 11, y + r * 1.25),
        ],
        fill=darker(colour, 0.1),
    )
    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    pen.ellipse((x - r * 0.42, y - r, x + r * 0.42, y + r), fill=lighter(colour, 0.22))
    pen.rectangle((x - 12, y + r * 1.5, x + 12, y + r * 1.5 + 18), fill=(140, 94, 50))


DRAWERS = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "flower": _flower,
    "boat": _boat,
    "fish": _fish,
    "balloon": _balloon,
}
