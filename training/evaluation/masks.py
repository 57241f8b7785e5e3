"""Masks: whether a scene's object becomes the one that the prompt names, and everything else stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from training.evaluation.bench import Bench, share
from training.evaluation.sheets import Tile, sheet
from training.reader import NONE, Readings
from training.world import SIDE, Landscape, Shapes, draw
from training.world.colours import COLOURS, held_out
from training.world.landscapes import ON_LAND, ON_SEA
from training.world.shapes import KINDS

MARGIN = 4  # pixels of a mask around the objects
VISIBLE = 8  # levels by which an object's pixels differ from what is behind it, at least
COLUMNS = 10  # of the sheets

Scene = Landscape | Shapes


@dataclass(frozen=True)
class Replacement:
    """An object of a scene, and what should stand in its place.

    Attributes:
        place: which of the scene's objects it is.
        kind, colour: of what should be there.
    """

    scene: Scene
    place: int
    kind: str
    colour: str

    @property
    def prompt(self) -> str:
        """The words that name it."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.kind}"

    @property
    def after(self) -> Scene:
        """The scene with it in place of the object."""
        objects = list(objects_of(self.scene))
        objects[self.place] = replace(objects[self.place], kind=self.kind, colour=self.colour)
        return with_objects(self.scene, objects)

    @property
    def mask(self) -> Image.Image:
        """White where there is room for either object, [SIDE, SIDE]."""
        objects = objects_of(self.scene)
        without = with_objects(self.scene, [*objects[: self.place], *objects[self.place + 1 :]])
        here, there, bare = (np.asarray(draw(scene), int) for scene in (self.scene, self.after, without))
        differs = np.maximum(np.abs(here - bare), np.abs(there - bare)).max(2) > VISIBLE
        rows, columns = np.nonzero(differs)
        mask = Image.new("L", (SIDE, SIDE))
        left, top = max(0, columns.min() - MARGIN), max(0, rows.min() - MARGIN)
        right, bottom = min(SIDE, columns.max() + 1 + MARGIN), min(SIDE, rows.max() + 1 + MARGIN)
        mask.paste(255, (int(left), int(top), int(right), int(bottom)))
        return mask


def objects_of(scene: Scene) -> Sequence[Any]:
    return scene.things if isinstance(scene, Landscape) else scene.shapes


def with_objects(scene: Scene, objects: Iterable[Any]) -> Scene:
    if isinstance(scene, Landscape):
        return replace(scene, things=tuple(objects))
    return replace(scene, shapes=tuple(objects))


def replacements(number: int, key: int = 36) -> Iterator[Replacement]:
    """Scenes, two of three landscapes, each with an object and another one that may be there as well.

    Args:
        key: other ones for another key.
    """
    for k in range(number):
        rng = np.random.default_rng([key, k])
        scene: Scene = Shapes.sample(rng)
        while k % 3 and not objects_of(scene := Landscape.sample(rng)):
            pass
        objects = objects_of(scene)
        kinds: Sequence[str] = KINDS
        word = "shape"
        if isinstance(scene, Landscape):
            kinds, word = (ON_SEA if scene.ground == "sea" else ON_LAND), "thing"
        kinds = [kind for kind in kinds if kind not in {one.kind for one in objects}]
        kind = str(rng.choice(kinds))
        behind = scene.background if isinstance(scene, Shapes) else ""
        colours = [name for name in COLOURS if name != behind and not held_out(word, kind, name)]
        yield Replacement(scene, int(rng.integers(len(objects))), kind, str(rng.choice(colours)))


def masks(bench: Bench) -> None:
    """Count what the reader sees of both objects, and what changed outside of the masks."""
    asked = list(replacements(bench.options.masks))
    drawn, regions = [draw(one.scene) for one in asked], [one.mask for one in asked]
    jobs = [
        bench.job(one.prompt, k, img_path=bench.file(picture), mask_path=bench.file(region))
        for k, (one, picture, region) in enumerate(zip(asked, drawn, regions, strict=True))
    ]
    made = bench.words.pictures(jobs)

    rows = []
    for name, pictures in (
        ("the scenes", drawn),
        ("true drawings of the change", [draw(one.after) for one in asked]),
        ("masked revisions", made),
    ):
        readings = bench.read(pictures)
        rows.append(
            [
                name,
                share(reading[one.kind] != NONE for reading, one in zip(readings, asked, strict=True)),
                share(reading[one.kind] == one.colour for reading, one in zip(readings, asked, strict=True)),
                share(
                    reading[kind_before(one)] == NONE for reading, one in zip(readings, asked, strict=True)
                ),
                share(
                    untouched(before, after, region)
                    for before, after, region in zip(drawn, pictures, regions, strict=True)
                ),
                f"{np.mean([seam(p, region) for p, region in zip(pictures, regions, strict=True)]):.1f}",
            ]
        )
    head = (
        f"{len(asked)} scenes, one object masked",
        "the named object is there",
        "... in its colour",
        "the other one is gone",
        "every pixel outside is as it was",
        "step across the border, of 255",
    )
    bench.table("Masks", head, rows)
    readings = bench.read(made)
    tiles = [tile(*each) for each in zip(asked, made, readings, strict=True)]
    starters = [Tile(picture, "") for picture in drawn]
    bench.sheets("masks", pages(starters, tiles))


def kind_before(one: Replacement) -> str:
    return str(objects_of(one.scene)[one.place].kind)


def untouched(before: Image.Image, after: Image.Image, mask: Image.Image) -> bool:
    """Whether all pixels where the mask is black are the same."""
    outside = np.asarray(mask) == 0
    return bool((np.asarray(before)[outside] == np.asarray(after)[outside]).all())


def seam(picture: Image.Image, mask: Image.Image) -> float:
    """Mean absolute difference of neighbouring pixels on both sides of the mask's border."""
    levels, inside = np.asarray(picture, float), np.asarray(mask) > 0
    steps = [np.abs(np.diff(levels, axis=axis))[np.diff(inside, axis=axis)].ravel() for axis in (0, 1)]
    return float(np.concatenate(steps).mean())


def tile(one: Replacement, picture: Image.Image, reading: Readings) -> Tile:
    read = reading[one.kind]
    return Tile(picture, one.prompt, "" if read == one.colour else f"{read} {one.kind}")


def pages(before: Sequence[Tile], after: Sequence[Tile]) -> Iterator[Image.Image]:
    """Sheets with each scene above what was made of it."""
    rows = []
    for first in range(0, len(before), COLUMNS):
        rows += [before[first : first + COLUMNS], after[first : first + COLUMNS]]
    for first in range(0, len(rows), 10):
        yield sheet(rows[first : first + 10])
