"""Drafts as the learned start sees them: all there is to decide about a picture, as numbers.

The learned start gets an embedding, which says a part of what a picture is to show, and a draft of
everything, drawn by odds that it reads off the embedding. To learn that the embedding overrules a draft that
says otherwise, it is at times shown drafts in which all that the embedding says has been chosen anew, while
the picture shows what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from LatentRevisions.start import ONE
from training.world import Drawing, Face, Landscape, Shapes, faces, landscapes, shapes
from training.world.draft import Choices, Draft, choose
from training.world.landscapes import Thing
from training.world.shapes import Shape

KINDS: dict[type[Face] | type[Landscape] | type[Shapes], tuple[Choices, list[str]]] = {
    Face: (faces.CHOICES, faces.MEASURES),
    Landscape: (landscapes.CHOICES, landscapes.MEASURES),
    Shapes: (shapes.CHOICES, shapes.MEASURES),
}
OUTCOMES = [len(odds) for choices, _ in KINDS.values() for odds in choices.values()]
"""How many outcomes each choice has, in the order of a draft's numbers."""
MEASURES = sum(len(measures) for _, measures in KINDS.values())
# Which choices a face's attributes follow from, where not the one of the same name alone.
FACE_CHOICES = {
    "beard": ("beard", "gender"),
    "earrings": ("earrings", "gender"),
    "hat": ("headwear", "headwear_colour"),
    "crown": ("headwear",),
}


@dataclass(frozen=True)
class Drafted:
    """A drawing and the draft it follows from."""

    drawing: Drawing
    draft: Draft

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Drafted:
        """Half landscapes, the hardest, and as many faces as plain shapes; none kept for testing."""
        kind = (Face, Landscape, Shapes)[int(np.searchsorted((0.25, 0.75), rng.random()))]
        while True:
            draft = Draft.sample(rng, *KINDS[kind])
            drawing = kind.of(draft)
            if not drawing.held_out:
                return cls(drawing, draft)


def numbers(kind: type, draft: Draft, rng: np.random.Generator) -> Tensor:
    """A draft as numbers [sum(OUTCOMES) + MEASURES]; those of other kinds of drawing are random."""
    ones: list[float] = []
    measures: list[float] = []
    for other, (choices, names) in KINDS.items():
        this = draft if other is kind else Draft.sample(rng, choices, names)
        for name, odds in choices.items():
            ones += [ONE * (outcome == this.chosen[name]) for outcome in odds]
        measures += [this.measures[name] for name in names]
    normal = torch.special.ndtri(torch.tensor(measures, dtype=torch.float64).clamp(1e-3, 1 - 1e-3))
    return torch.cat([torch.tensor(ones), normal.float()])


def arranged(drafted: Drafted, named: Collection[str]) -> Draft:
    """The draft as the picture shows it, with what is named in its first places."""
    drawing, chosen = drafted.drawing, dict(drafted.draft.chosen)
    if isinstance(drawing, Face):
        return drafted.draft
    if isinstance(drawing, Landscape):
        things: Sequence[Thing | Shape] = drawing.things
        table = "on_sea" if drawing.ground == "sea" else "on_land"
    else:
        things, table = drawing.shapes, "kind"
    for k, thing in zip("12", things, strict=False):
        chosen[f"colour_{k}"] = thing.colour
    measures = _slots([thing.kind for thing in things], chosen, drafted.draft.measures, table, set(named))
    return Draft(chosen, measures)


def withhold(drafted: Drafted, named: Mapping[str, Collection[str]], rng: np.random.Generator) -> Draft:
    """The draft with all that is named chosen anew, and with it whatever follows from what is named.

    Args:
        named: for each attribute the values that are allowed; several of them name no single one.
    """
    drawing = drafted.drawing
    single = {name for name, values in named.items() if len(values) == 1}
    if isinstance(drawing, Face):
        return _withhold_face(drawing, drafted.draft, set(named), single, rng)
    if isinstance(drawing, Landscape):
        return _withhold_landscape(drawing, drafted.draft, set(named), single, rng)
    return _withhold_shapes(drawing, drafted.draft, set(named), rng)


def _withhold_face(
    face: Face, draft: Draft, named: set[str], single: set[str], rng: np.random.Generator
) -> Draft:
    chosen, fresh = dict(draft.chosen), choose(rng, faces.CHOICES)
    for name in named:
        if name in single:
            forgotten = FACE_CHOICES.get(name, (name,))
        else:
            forgotten = ("headwear",) if name == "hat" else ()
        for choice in forgotten:
            chosen[choice] = fresh[choice]
    # What is named can rule an outcome out; another one then stands for it.
    if "beard" in named and "age" not in named and face.age == "adult" and rng.random() < 3 / 8:
        chosen["age"] = "child"
    coloured = "hair_colour" in named and "hair_style" not in named
    if coloured and face.hair_style == "short" and rng.random() < 2 / 7:
        chosen["hair_style"] = "bald"
    return Draft(chosen, draft.measures)


def _withhold_landscape(
    scene: Landscape, draft: Draft, named: set[str], single: set[str], rng: np.random.Generator
) -> Draft:
    chosen, fresh = dict(draft.chosen), choose(rng, landscapes.CHOICES)
    for name in named & {"sky", "ground", "mountains", "sun", "moon", "cloud"}:
        if name in single:
            chosen[name] = fresh[name]
    if "sky" not in named and named & {"moon", "cloud"}:
        chosen["sky"] = fresh["sky"]
    elif "sky" not in named and "sun" in named and scene.sky == "day" and rng.random() < 0.5:
        chosen["sky"] = "night"
    if named & {"boat", "fish"}:
        chosen["ground"] = fresh["ground"]
    elif named & set(landscapes.ON_LAND[:4]) and scene.ground == "grass" and rng.random() < 0.5:
        chosen["ground"] = "sea"

    kinds = [thing.kind for thing in scene.things]
    tables, table = ("on_land", "on_sea"), "on_sea" if scene.ground == "sea" else "on_land"
    all_kinds = landscapes.ON_SEA if scene.ground == "sea" else landscapes.ON_LAND
    measures = _slots(kinds, chosen, draft.measures, table, named)
    for k, kind in zip("12", _named_first(kinds, named), strict=False):
        if kind in named:
            for each in tables:
                chosen[f"{each}_{k}"] = fresh[f"{each}_{k}"]
            if kind in single:
                chosen[f"colour_{k}"] = fresh[f"colour_{k}"]
        elif k == "2" and rng.random() < 0.5:
            first = _named_first(kinds, named)[0]
            if kind == all_kinds[(all_kinds.index(first) + 1) % len(all_kinds)]:
                chosen[f"{table}_2"] = first  # which is never drawn twice: it stands for the next kind
    count = len(named & set(kinds))
    if count == 2 or (count == 1 and len(kinds) == 1 and fresh["things"] == "0"):
        chosen["things"] = fresh["things"]
    return Draft(chosen, measures)


def _withhold_shapes(drawing: Shapes, draft: Draft, named: set[str], rng: np.random.Generator) -> Draft:
    chosen, fresh = dict(draft.chosen), choose(rng, shapes.CHOICES)
    if "background" in named:
        chosen["background"] = fresh["background"]
    kinds = [shape.kind for shape in drawing.shapes]
    measures = _slots(kinds, chosen, draft.measures, "kind", named)
    for k, kind in zip("12", _named_first(kinds, named), strict=False):
        if kind in named:
            chosen[f"kind_{k}"], chosen[f"colour_{k}"] = fresh[f"kind_{k}"], fresh[f"colour_{k}"]
        elif k == "2" and rng.random() < 0.5:
            first = _named_first(kinds, named)[0]
            if kind == shapes.KINDS[(shapes.KINDS.index(first) + 1) % len(shapes.KINDS)]:
                chosen["kind_2"] = first
    if len(named & set(kinds)) == 2:
        chosen["shapes"] = fresh["shapes"]
    return Draft(chosen, measures)


def _named_first(kinds: list[str], named: set[str]) -> list[str]:
    """What is named takes the draft's first place, so that it is plain which place is left to the draft.

    Two things that are both named, or both not, have their places by name: which colour goes with which thing
    must follow from the words alone.
    """
    return sorted(kinds, key=lambda kind: (kind not in named, kind))


def _slots(
    kinds: list[str], chosen: dict[str, str], measures: dict[str, float], table: str, named: set[str]
) -> dict[str, float]:
    """Put into the draft's places what is drawn there, what is named first; returns the measures."""
    for k, kind in zip("12", kinds, strict=False):
        chosen[f"{table}_{k}"] = kind
    if _named_first(kinds, named) == kinds:
        return measures
    swapped = dict(measures)
    for name in [name for name in measures if name.endswith("_1")]:
        other = f"{name[:-1]}2"
        swapped[name], swapped[other] = measures[other], measures[name]
    for name in [name for name in chosen if name.endswith("_1")]:
        other = f"{name[:-1]}2"
        chosen[name], chosen[other] = chosen[other], chosen[name]
    chosen["order"] = {"left": "right", "right": "left"}[chosen["order"]]
    return swapped
