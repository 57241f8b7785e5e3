"""The drawn world the demo weights learn from: pictures drawn by rule, with exact attributes and captions.

`faces.py`, `shapes.py` and `landscapes.py` each hold one kind of drawing: a frozen dataclass of attributes, a
rule that samples them, and a function that draws them. `attributes.py` lists what there is to see in any
drawing, `captions.py` says a random part of it in words.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from training.world.faces import Face, draw_face
from training.world.landscapes import Landscape, draw_landscape
from training.world.shapes import Shapes, draw_shapes

__all__ = ["SIDE", "Drawing", "Face", "Landscape", "Shapes", "draw", "sample"]

SIDE = 128  # pixels; drawn at twice that and halved, which smooths every edge

Drawing = Face | Landscape | Shapes


def sample(rng: np.random.Generator) -> Drawing:
    """Draw the attributes of a random drawing: half faces, a third landscapes, the rest plain shapes."""
    kind = rng.random()
    if kind < 0.5:
        return Face.sample(rng)
    if kind < 0.83:
        return Landscape.sample(rng)
    return Shapes.sample(rng)


def draw(drawing: Drawing, side: int = SIDE) -> Image.Image:
    """Draw it, [side, side] RGB; `side` is a multiple of SIDE."""
    scale = side // SIDE
    if isinstance(drawing, Face):
        canvas = draw_face(drawing, scale)
    elif isinstance(drawing, Landscape):
        canvas = draw_landscape(drawing, scale)
    else:
        canvas = draw_shapes(drawing, scale)
    return canvas.reduce(canvas.width // side)
