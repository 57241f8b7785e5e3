"""Drafts as the learned start sees them: all there is to decide about a picture, as numbers.

A drawing follows from a draft of its own kind (see `training.world.draft`), not all of which shows. Here one
row of numbers serves all kinds, and tells what is to be seen: an outcome that rules out another's being seen
stands beside a "no".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from training.world import Drawing, Face, Landscape, Shapes, faces, landscapes, shapes
from training.world.attributes import labels
from training.world.colours import COLOURS
from training.world.draft import Choices, Draft
from training.world.landscapes import Thing
from training.world.shapes import Shape

HALF = faces.CANVAS / 2
THINGS = 2  # at most
NOT_SEEN = -100  # what a choice has for an outcome that nothing shows
SOURCES = {Face: faces, Landscape: landscapes, Shapes: shapes}
# To learn to draw faces, what few of them wear is shown more often than the world draws it: hats, earrings.
WORN = faces.CHOICES | {"headwear": {"none": 5, "hat": 4, "crown": 1}, "earrings": {"no": 1, "yes": 2}}
SMALL = ("earrings", "expression")  # what takes few pixels of a face

# About where a layout's things are, and how far off they may be: x, y and off each, in pixels of the canvas.
ONE_THING, TWO_THINGS = [(128, 158, 22, 0)], [(74, 158, 8, 0), (184, 158, 8, 0)]
ONE_SHAPE, TWO_SHAPES = [(128, 128, 10, 10)], [(74, 128, 5, 10), (182, 128, 5, 10)]
LAYOUTS: dict[str, list[tuple[int, int, int, int]]] = {
    "face": [],
    "landscape": [],
    "landscape, one thing": ONE_THING,
    "landscape, first thing left": TWO_THINGS,
    "landscape, first thing right": TWO_THINGS[::-1],
    "shapes, one": ONE_SHAPE,
    "shapes, first left": TWO_SHAPES,
    "shapes, first right": TWO_SHAPES[::-1],
}

CHOICES: dict[str, Sequence[str]] = {
    "layout": list(LAYOUTS),
    **{name: list(odds) for name, odds in faces.CHOICES.items()},  # the background of shapes, too
    **{
        name: list(landscapes.CHOICES[name])
        for name in ("sky", "ground", "mountains", "sun", "moon", "cloud", "side", "details")
    },
}
MEASURES = [*faces.MEASURES, "horizon", "sun_x", "hue", "light"]
THING_CHOICES: dict[str, Sequence[str]] = {
    "kind": [*landscapes.DRAWERS, *shapes.KINDS],
    "colour": list(COLOURS),
}
THING_MEASURES = ["x", "y", "size", "turn", "hue", "light"]

OUTCOMES = [len(outcomes) for outcomes in CHOICES.values()]
THING_OUTCOMES = [len(outcomes) for outcomes in THING_CHOICES.values()]
# What is to be seen of the choices and measures, by the first word of the layout.
SEEN: dict[str, Collection[str]] = {
    "face": {"layout", *faces.CHOICES, *faces.MEASURES},
    "landscape": {"layout", *landscapes.CHOICES, "horizon", "sun_x"},
    "shapes": {"layout", "background", "hue", "light"},
}
THING_SEEN: dict[str, Collection[str]] = {
    "landscape": {"kind", "colour", "x", "size", "hue", "light"},
    "shapes": {"kind", "colour", *THING_MEASURES},
}


@dataclass(frozen=True)
class Drafted:
    """A drawing and the draft it follows from."""

    drawing: Drawing
    draft: Draft

    @classmethod
    def sample(
        cls,
        rng: np.random.Generator,
        kind: type[Drawing] | None = None,
        odds: Choices = faces.CHOICES,
        held_out: bool = False,
    ) -> Drafted:
        """Unless a kind is given, half landscapes, the hardest, and as many faces as plain shapes.

        `odds` are those of faces. Only what is kept for testing is sampled if `held_out`, else none of it.
        """
        kind = kind or (Face, Landscape, Shapes)[int(np.searchsorted((0.25, 0.75), rng.random()))]
        choices = odds if kind is Face else SOURCES[kind].CHOICES
        while True:
            draft = Draft.sample(rng, choices, SOURCES[kind].MEASURES)
            drawing = kind.of(draft)
            if drawing.held_out == held_out:
                return cls(drawing, draft)

    def things(self, named: Collection[str] = ()) -> list[tuple[str, Thing | Shape]]:
        """What is in the drawing, each with its place in the drawing's own draft ("1" or "2").

        What is named comes first, so that it is plain which place is left to the draft. Two things that are
        both named, or both not, are in the order of their names: which colour goes with which thing must
        follow from the words alone.
        """
        if isinstance(self.drawing, Face):
            return []
        several = self.drawing.things if isinstance(self.drawing, Landscape) else self.drawing.shapes
        placed: list[tuple[str, Thing | Shape]] = list(zip("12", several, strict=False))
        return sorted(placed, key=lambda one: (one[1].kind not in named, one[1].kind))


def pair(rng: np.random.Generator, kind: type[Drawing] | None = None) -> list[Drafted]:
    """Two drawings that differ in one choice that shows: half of the faces in what is small."""
    while True:
        one = Drafted.sample(rng, kind, WORN)
        its_kind = type(one.drawing)
        choices = SOURCES[its_kind].CHOICES
        name = str(rng.choice(SMALL if its_kind is Face and rng.random() < 0.5 else list(choices)))
        chosen = one.draft.chosen | {name: str(rng.choice(list(choices[name])))}
        draft = replace(one.draft, chosen=chosen)
        other = Drafted(its_kind.of(draft), draft)
        if labels(one.drawing) != labels(other.drawing) and not other.drawing.held_out:
            return [one, other]


def layout(drafted: Drafted, named: Collection[str] = ()) -> str:
    """The layout of a drawing whose `named` things come first: one of LAYOUTS."""
    if isinstance(drafted.drawing, Face):
        return "face"
    things = [thing for _, thing in drafted.things(named)]
    scene = isinstance(drafted.drawing, Landscape)
    if len(things) < 2:
        one = "landscape, one thing" if scene else "shapes, one"
        return one if things else "landscape"
    side = "left" if things[0].x < things[1].x else "right"
    return f"landscape, first thing {side}" if scene else f"shapes, first {side}"


def outcomes(drafted: Drafted, named: Collection[str] = ()) -> Tensor:
    """The index of each choice's outcome, NOT_SEEN where none shows: [choices + THINGS * thing choices].

    Args:
        named: what words name; things among it come first.
    """
    drawing, chosen = drafted.drawing, dict(drafted.draft.chosen)
    chosen["layout"] = layout(drafted, named)
    if isinstance(drawing, Face):
        chosen |= {"beard": _no_yes(drawing.beard), "earrings": _no_yes(drawing.earrings)}
    elif isinstance(drawing, Landscape):
        chosen |= {name: _no_yes(getattr(drawing, name)) for name in ("sun", "moon", "cloud")}
    seen = SEEN[_scene(chosen["layout"])]
    found = [names.index(chosen[name]) if name in seen else NOT_SEEN for name, names in CHOICES.items()]
    for _, thing in drafted.things(named):
        found += [names.index(getattr(thing, name)) for name, names in THING_CHOICES.items()]
    return torch.tensor(found + [NOT_SEEN] * (len(OUTCOMES) + THINGS * len(THING_OUTCOMES) - len(found)))


def numbers(drafted: Drafted) -> Tensor:
    """A draft as `LearnedStart` takes them: ones at outcomes, then measures in [-1, 1]."""
    ones = []
    for outcome, number in zip(outcomes(drafted).tolist(), _numbers_of_choices(), strict=True):
        one = torch.zeros(number)
        if outcome != NOT_SEEN:
            one[outcome] = 1
        ones.append(one)
    own = drafted.draft.measures
    measures = [own.get(name, 0.5) for name in MEASURES]
    for place, _ in drafted.things():
        # a shape's size is its radius
        measures += [own.get(f"{name}_{place}", own.get(f"radius_{place}", 0.5)) for name in THING_MEASURES]
    measures += [0.5] * (len(MEASURES) + THINGS * len(THING_MEASURES) - len(measures))
    return torch.cat([*ones, 2 * torch.tensor(measures) - 1])


def centres() -> Tensor:
    """Where each layout has its things: [layouts, THINGS, 4], as `LearnedStart` takes them."""
    table = torch.zeros(len(LAYOUTS), THINGS, 4)
    for k, things in enumerate(LAYOUTS.values()):
        for j, (x, y, off_x, off_y) in enumerate(things):
            table[k, j] = torch.tensor([x - HALF, y - HALF, off_x, off_y]) / HALF
    return table


def counts() -> Tensor:
    """Which numbers count in each layout: [layouts, numbers]."""
    rows = []
    for name, things in LAYOUTS.items():
        seen, of_thing = SEEN[_scene(name)], THING_SEEN.get(_scene(name), ())
        there = [set(of_thing) if k < len(things) else set() for k in range(THINGS)]
        row = [float(choice in seen) for choice, names in CHOICES.items() for _ in names]
        row += [float(choice in t) for t in there for choice, names in THING_CHOICES.items() for _ in names]
        row += [float(measure in seen) for measure in MEASURES]
        row += [float(measure in t) for t in there for measure in THING_MEASURES]
        rows.append(row)
    return torch.tensor(rows)


def _numbers_of_choices() -> list[int]:
    return [*OUTCOMES, *THINGS * THING_OUTCOMES]


def _scene(layout: str) -> str:
    return layout.split(",")[0]


def _no_yes(there: bool) -> str:
    return "yes" if there else "no"
