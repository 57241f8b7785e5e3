"""What a drawing shows, as one value of each of a fixed list of attributes, "none" for what is not there."""

from __future__ import annotations

from training.world.colours import COLOURS
from training.world.faces import EYE_COLOURS, HAIR_COLOURS, SKINS, Face
from training.world.landscapes import DRAWERS, GROUNDS, SKIES, Landscape
from training.world.shapes import KINDS, Shapes

FIELDS: dict[str, tuple[str, ...]] = {
    "gender": ("none", "female", "male"),
    "age": ("none", "child", "adult", "old"),
    "skin": ("none", *SKINS),
    "hair_style": ("none", "short", "long", "curly", "spiky", "bald"),
    "hair_colour": ("none", *HAIR_COLOURS),
    "eye_colour": ("none", *EYE_COLOURS),
    "glasses": ("none", "glasses"),
    "beard": ("none", "beard"),
    "expression": ("none", "smile", "neutral", "frown"),
    "hat": ("none", *COLOURS),
    "crown": ("none", "crown"),
    "earrings": ("none", "earrings"),
    "clothes": ("none", *COLOURS),
    "background": ("none", *COLOURS),
    "sky": ("none", *SKIES),
    "ground": ("none", *GROUNDS),
    "mountains": ("none", "mountains"),
    "sun": ("none", "sun"),
    "moon": ("none", "moon"),
    "cloud": ("none", "cloud"),
    **dict.fromkeys(DRAWERS, ("none", *COLOURS)),
    **dict.fromkeys(KINDS, ("none", *COLOURS)),
}
"""Attributes and their values, "none" first. A thing's or shape's value is its colour."""


def labels(drawing: Face | Landscape | Shapes) -> dict[str, str]:
    """The value of every attribute in FIELDS."""
    there: dict[str, str] = {}
    if isinstance(drawing, Face):
        there = {
            name: getattr(drawing, name)
            for name in ("gender", "age", "skin", "hair_style", "eye_colour", "expression", "clothes")
        }
        if drawing.hair_style != "bald":
            there["hair_colour"] = drawing.hair_colour
        if drawing.headwear == "hat":
            there["hat"] = drawing.headwear_colour
        flags = {"crown": drawing.headwear == "crown"}
        flags |= {name: getattr(drawing, name) for name in ("glasses", "beard", "earrings")}
        there["background"] = drawing.background
    elif isinstance(drawing, Landscape):
        there = {"sky": drawing.sky, "ground": drawing.ground}
        there |= {thing.kind: thing.colour for thing in drawing.things}
        flags = {name: getattr(drawing, name) for name in ("mountains", "sun", "moon", "cloud")}
    else:
        there = {"background": drawing.background}
        there |= {shape.kind: shape.colour for shape in drawing.shapes}
        flags = {}
    there |= {name: name for name, shown in flags.items() if shown}
    return {name: there.get(name, "none") for name in FIELDS}
