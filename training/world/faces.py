"""Drawn faces, framed as FFHQ frames photos: eyes at 47% of the height, mouth at 72%."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from training.world.colours import COLOURS, RGB, darker, held_out, lighter, mix, vary
from training.world.draft import Choices, Draft
from training.world.pen import Pen

CANVAS = 256

SKINS: dict[str, RGB] = {
    "pale": (255, 226, 204),
    "light": (240, 198, 164),
    "tan": (208, 152, 108),
    "brown": (152, 98, 62),
    "dark": (98, 60, 40),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (34, 30, 34),
    "brown": (112, 68, 36),
    "blonde": (246, 212, 96),
    "red": (206, 74, 28),
    "grey": (158, 160, 166),
    "white": (240, 240, 244),
    "blue": COLOURS["blue"],
    "green": COLOURS["green"],
    "purple": COLOURS["purple"],
    "pink": COLOURS["pink"],
}
EYE_COLOURS: dict[str, RGB] = {
    "blue": (40, 120, 240),
    "green": (30, 170, 70),
    "brown": (140, 78, 30),
    "grey": (140, 148, 156),
    "purple": (156, 50, 210),
    "black": (24, 22, 26),
}
CHOICES: dict[str, dict[str, float]] = {
    "gender": {"female": 1, "male": 1},
    "age": {"child": 3, "adult": 5, "old": 2},
    "skin": dict.fromkeys(SKINS, 1),
    "hair_style": {"short": 5, "long": 5, "curly": 4, "spiky": 4, "bald": 2},
    "hair_colour": dict.fromkeys(HAIR_COLOURS, 1),
    "eye_colour": dict.fromkeys(EYE_COLOURS, 1),
    "glasses": {"no": 3, "yes": 1},
    "beard": {"no": 3, "yes": 2},  # of men
    "expression": {"smile": 5, "neutral": 2, "frown": 3},
    "headwear": {"none": 8, "hat": 1, "crown": 1},
    "headwear_colour": dict.fromkeys(COLOURS, 1),
    "earrings": {"no": 3, "yes": 2},  # of women
    "background": dict.fromkeys(COLOURS, 1),
    "clothes": dict.fromkeys(COLOURS, 1),
}
# What differs from face to face beyond that.
MEASURES = [
    "head_width",
    "head_height",
    "eye_spacing",
    "eye_size",
    "brow",
    "mouth_width",
    "shift_x",
    "shift_y",
    "skin_shade",
    "hair_shade",
    "background_hue",
    "background_light",
    "nose",
]


@dataclass(frozen=True)
class Face:
    """A face's attributes and measures."""

    gender: str
    age: str
    skin: str
    hair_style: str
    hair_colour: str  # also of brows and beard; a bald head keeps it there
    eye_colour: str
    glasses: bool
    beard: bool
    expression: str
    headwear: str
    headwear_colour: str
    earrings: bool
    background: str
    clothes: str
    measures: tuple[float, ...]  # in [0, 1], in the order of MEASURES

    @classmethod
    def of(cls, draft: Draft) -> Face:
        """The face that a draft of CHOICES and MEASURES stands for."""
        chosen: dict[str, Any] = dict(draft.chosen)
        female, child = chosen["gender"] == "female", chosen["age"] == "child"
        chosen["glasses"] = chosen["glasses"] == "yes"
        chosen["beard"] = chosen["beard"] == "yes" and not female and not child
        chosen["earrings"] = chosen["earrings"] == "yes" and female
        return cls(**chosen, measures=tuple(draft.measures[name] for name in MEASURES))

    @classmethod
    def sample(cls, rng: np.random.Generator, test: bool = False, odds: Choices = CHOICES) -> Face:
        """A random face; only combinations kept out of training if `test`, else only the others."""
        while True:
            face = cls.of(Draft.sample(rng, odds, MEASURES))
            if face.held_out == test:
                return face

    @property
    def held_out(self) -> bool:
        return held_out("face", self.hair_colour, self.eye_colour)


def draw_face(face: Face, scale: int = 1) -> Image.Image:
    """Draw it, [scale * CANVAS, scale * CANVAS] RGB."""
    u = dict(zip(MEASURES, face.measures, strict=True))
    female, child, old = face.gender == "female", face.age == "child", face.age == "old"

    backdrop = vary(COLOURS[face.background], u["background_hue"], u["background_light"])
    skin = vary(SKINS[face.skin], 0.5, u["skin_shade"])
    hair = vary(HAIR_COLOURS[face.hair_colour], 0.5, u["hair_shade"])
    canvas = Image.new("RGB", (scale * CANVAS, scale * CANVAS), backdrop)
    pen = Pen(canvas, scale)

    cx = 128 + (u["shift_x"] - 0.5) * 14
    eye_y = 121 + (u["shift_y"] - 0.5) * 12
    rx = 58 + u["head_width"] * 10 + (4 if child else 0)
    top, chin = eye_y - 74 - u["head_height"] * 8, eye_y + 84 + u["head_height"] * 12 - (8 if child else 0)
    cy = (top + chin) / 2
    eye_dx = 28 + u["eye_spacing"] * 7
    eye = (17.5 + u["eye_size"] * 3) * (1.14 if child else 1.0)

    def oval(x: float, y: float, w: float, h: float, fill: RGB) -> None:
        pen.ellipse((x - w, y - h, x + w, y + h), fill=fill)

    # a soft light behind the head
    for ring in range(4):
        oval(cx, cy, 124 - ring * 12, 124 - ring * 12, lighter(backdrop, 0.03 * (ring + 1)))

    _hair_behind(pen, face, cx, cy, rx, top, chin, hair)

    # neck and clothes
    pen.rectangle((cx - 24, chin - 24, cx + 24, chin + 40), fill=darker(skin, 0.16))
    clothes = COLOURS[face.clothes]
    oval(cx, 274, 92 if child else 104, 52, clothes)
    oval(cx, 226, 26, 12, darker(skin, 0.16))

    # ears and head, its lower side in shade
    for side in (-1, 1):
        oval(cx + side * (rx - 1), eye_y + 16, 11, 17, darker(skin, 0.1))
    oval(cx, cy, rx, (chin - top) / 2, darker(skin, 0.1))
    oval(cx, cy - 3, rx - 3, (chin - top) / 2 - 5, skin)
    for side in (-1, 1):
        oval(
            cx + side * rx * 0.6,
            eye_y + 34,
            13,
            9,
            mix(skin, (240, 110, 110), 0.22 if female or child else 0.1),
        )
    if old:
        for side in (-1, 1):
            for k in range(2):
                x, y = cx + side * (rx * 0.5 + 2), eye_y + 20 + 7 * k
                pen.arc((x - 16, y - 8, x + 16, y + 6), 30, 150, fill=darker(skin, 0.3), width=2)
        for k in range(2):
            y = eye_y - 46 + 9 * k
            pen.arc((cx - 26, y, cx + 26, y + 12), 205, 335, fill=darker(skin, 0.3), width=3)

    if face.beard:
        box = (cx - rx + 1, chin - 92, cx + rx - 1, chin + 14)
        pen.chord(box, 8, 172, fill=hair)
        oval(cx, eye_y + 46, 30, 9, hair)

    _mouth(pen, face, cx, eye_y + 62, 22 + u["mouth_width"] * 7, skin)

    # nose
    size = 6 + u["nose"] * 4
    oval(cx, eye_y + 32, size, size * 0.8, darker(skin, 0.22))
    oval(cx - 1, eye_y + 29, size * 0.8, size * 0.7, lighter(skin, 0.12))

    for side in (-1, 1):
        _eye(pen, face, cx + side * eye_dx, eye_y, eye, side)
        brow = darker(hair, 0.25) if sum(hair) > 120 else hair
        tilt = (u["brow"] - 0.5) * 6 + (6 if face.expression == "frown" else 0)
        x, y = cx + side * eye_dx, eye_y - eye - 6
        pen.line(
            (x - side * 18, y + tilt, x + side * 18, y - tilt * 0.3), fill=brow, width=4 if female else 7
        )

    _hair_in_front(pen, face, cx, eye_y, rx, top, hair)

    if face.glasses:
        for side in (-1, 1):
            x = cx + side * (eye_dx + 1)
            pen.ellipse((x - 27, eye_y - 24, x + 27, eye_y + 26), outline=(18, 18, 22), width=6)
            pen.line((x + side * 26, eye_y - 4, cx + side * rx, eye_y - 8), fill=(18, 18, 22), width=6)
        pen.line((cx - 6, eye_y - 2, cx + 6, eye_y - 2), fill=(18, 18, 22), width=6)
    if face.earrings:
        for side in (-1, 1):
            oval(cx + side * (rx + 3), eye_y + 42, 8, 8, (250, 206, 52))
            oval(cx + side * (rx + 3) - 2, eye_y + 40, 3, 3, (255, 246, 200))
    _headwear(pen, face, cx, rx, top)
    return canvas


def _eye(pen: ImageDraw.ImageDraw, face: Face, x: float, y: float, r: float, side: int) -> None:
    iris = EYE_COLOURS[face.eye_colour]
    pen.ellipse((x - r * 1.12, y - r * 0.9, x + r * 1.12, y + r * 0.9), fill=(252, 252, 254))
    ring = r * 0.74
    pen.ellipse((x - ring, y - ring, x + ring, y + ring), fill=darker(iris, 0.3))
    pen.ellipse((x - ring + 2, y - ring + 2, x + ring - 2, y + ring - 2), fill=iris)
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(10, 10, 14))
    pen.ellipse((x - 7, y - 8, x - 2, y - 3), fill=(255, 255, 255))
    width = 5 if face.gender == "female" else 3
    pen.arc(
        (x - r * 1.16, y - r * 0.95, x + r * 1.16, y + r * 0.95), 190, 350, fill=(24, 20, 24), width=width
    )
    if face.gender == "female":
        for k in range(3):
            angle = pi * (0.08 + 0.13 * k)
            dx, dy = side * cos(angle) * r * 1.1, -sin(angle) * r * 0.9
            pen.line((x + dx, y + dy, x + dx * 1.32, y + dy * 1.4 - 2), fill=(24, 20, 24), width=3)


def _mouth(pen: ImageDraw.ImageDraw, face: Face, x: float, y: float, w: float, skin: RGB) -> None:
    lips = (206, 40, 62) if face.gender == "female" else mix(skin, (170, 36, 44), 0.8)
    if face.expression == "smile":
        pen.chord((x - w - 4, y - 26, x + w + 4, y + 18), 8, 172, fill=lips)
        pen.chord((x - w + 2, y - 20, x + w - 2, y + 10), 8, 172, fill=(255, 255, 255))
    elif face.expression == "frown":
        pen.arc((x - w, y - 8, x + w, y + 30), 190, 350, fill=lips, width=11)
    else:
        pen.rounded_rectangle((x - w * 0.85, y - 5, x + w * 0.85, y + 6), 5, fill=lips)


def _hair_behind(
    pen: ImageDraw.ImageDraw, face: Face, cx: float, cy: float, rx: float, top: float, chin: float, hair: RGB
) -> None:
    shade = darker(hair, 0.14)
    if face.hair_style == "long":
        pen.rounded_rectangle((cx - rx - 22, top - 14, cx + rx + 22, chin + 26), 70, fill=shade)
        pen.rectangle((cx - rx - 22, cy, cx + rx + 22, chin + 10), fill=shade)
    elif face.hair_style == "curly":
        for k in range(15):
            angle = pi * (1.28 - 1.56 * k / 14)
            x, y = cx + cos(angle) * (rx + 8), cy - 10 - sin(angle) * (cy - top + 4)
            pen.ellipse((x - 25, y - 25, x + 25, y + 25), fill=shade if k % 2 else hair)
    elif face.hair_style == "short":
        pen.ellipse((cx - rx - 9, top - 14, cx + rx + 9, cy + 26), fill=shade)
    elif face.hair_style == "spiky":
        for k in range(9):
            angle = pi * (1.02 - 1.04 * k / 8)
            x, y = cx + cos(angle) * (rx + 32), top + 66 - sin(angle) * 102
            a = angle + 0.2
            b = angle - 0.2
            base = (cx + cos(a) * rx, top + 66 - sin(a) * 62, cx + cos(b) * rx, top + 66 - sin(b) * 62)
            pen.polygon([(base[0], base[1]), (x, y), (base[2], base[3])], fill=shade if k % 2 else hair)
        pen.ellipse((cx - rx - 3, top - 6, cx + rx + 3, cy), fill=hair)


def _hair_in_front(
    pen: ImageDraw.ImageDraw, face: Face, cx: float, eye_y: float, rx: float, top: float, hair: RGB
) -> None:
    light = lighter(hair, 0.16)
    if face.hair_style == "bald":
        return
    if face.hair_style == "long":
        pen.chord((cx - rx - 14, top - 12, cx + rx + 14, eye_y + 60), 196, 344, fill=hair)
        for side in (-1, 1):
            x0, x1 = sorted((cx + side * (rx - 8), cx + side * (rx + 20)))
            pen.rounded_rectangle((x0, eye_y - 50, x1, eye_y + 118), 14, fill=hair)
        pen.arc((cx - rx + 6, top - 2, cx + rx - 6, eye_y + 40), 215, 300, fill=light, width=7)
    elif face.hair_style == "curly":
        for k in range(7):
            x = cx - rx + 10 + k * (2 * rx - 20) / 6
            y = top + 16 + abs(k - 3) * 5
            pen.ellipse((x - 20, y - 20, x + 20, y + 20), fill=hair)
            pen.arc((x - 13, y - 13, x + 13, y + 13), 180, 300, fill=light, width=4)
    elif face.hair_style == "short":
        pen.chord((cx - rx - 7, top - 13, cx + rx + 7, eye_y + 34), 200, 340, fill=hair)
        pen.arc((cx - rx + 8, top - 4, cx + rx - 8, eye_y + 20), 220, 290, fill=light, width=7)
    else:  # spiky
        for k in range(6):
            x = cx - rx + 8 + k * (2 * rx - 16) / 5
            pen.polygon([(x - 15, top + 14), (x + 15, top + 14), (x + 3, top + 42)], fill=hair)


def _headwear(pen: ImageDraw.ImageDraw, face: Face, cx: float, rx: float, top: float) -> None:
    if face.headwear == "hat":
        colour = COLOURS[face.headwear_colour]
        y = top + 20
        pen.rounded_rectangle((cx - rx * 0.82, y - 62, cx + rx * 0.82, y), 16, fill=colour)
        pen.rectangle((cx - rx * 0.82, y - 16, cx + rx * 0.82, y - 2), fill=darker(colour, 0.4))
        pen.rounded_rectangle((cx - rx - 24, y - 4, cx + rx + 24, y + 12), 8, fill=darker(colour, 0.14))
    elif face.headwear == "crown":
        gold, y = (250, 200, 40), top + 18
        w = rx * 0.84
        points = [(cx - w, y), (cx - w - 4, y - 46), (cx - w / 2, y - 20), (cx, y - 54)]
        points += [(cx + w / 2, y - 20), (cx + w + 4, y - 46), (cx + w, y)]
        pen.polygon(points, fill=gold)
        pen.rectangle((cx - w, y - 12, cx + w, y), fill=(222, 160, 24))
        jewels = (("red", -0.6), ("blue", 0.0), ("green", 0.6))
        for name, place in jewels:
            x = cx + place * w
            pen.ellipse((x - 5, y - 11, x + 5, y - 1), fill=COLOURS[name])
        for px, py in points[1:6:2]:
            pen.ellipse((px - 5, py - 5, px + 5, py + 5), fill=(255, 240, 150))
