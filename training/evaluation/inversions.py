"""Inversions of faces as a camera shows them: what they wear that is not there, and what else they keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from training.camera import before, photograph, scene
from training.evaluation.bench import Bench, share
from training.evaluation.sheets import Tile, pages
from training.reader import NONE, Readings
from training.showcase import PHOTO
from training.world import Face, draw
from training.world.attributes import labels
from training.world.faces import CANVAS

SHOWN = 72  # inversions on sheets
PROMPT = "a face"  # which an inversion does not look at
# What may be read of the photo; nothing else may be seen on it.
PHOTO_SHOWS = {
    **{name: {NONE} for name in ("hat", "crown", "glasses", "earrings")},
    "hair_colour": {"brown"},
    "hair_style": {"short"},
    "skin": {"pale", "light"},
    "expression": {"smile"},
}
WORN = {"a hat or crown": ("hat", "crown"), "glasses": ("glasses",), "earrings": ("earrings",)}
KEPT = ("hair_colour", "eye_colour", "hair_style", "skin", "expression", "beard", "gender", "age", "clothes")


def photographs(number: int) -> Iterator[tuple[Face, Image.Image]]:
    """Unseen faces in front of photos that no training saw, as a camera shows them, [CANVAS, CANVAS]."""
    for k in range(number):
        rng = np.random.default_rng([35, k])
        face = Face.sample(rng, test=k % 2 == 1)
        picture, face = before(face, scene(rng, CANVAS, test=True))
        yield face, photograph(picture, rng)


def inversions(bench: Bench) -> None:
    """Drawings and photographs of the same faces, by e4e, and as edits start from them; then a real photo."""
    shown, pictures = zip(*photographs(bench.options.inversions), strict=True)
    drawn = [draw(face) for face in shown]

    def inverted(several: Sequence[Image.Image]) -> list[list[Image.Image]]:
        """By e4e, and as edits start from them: what is drawn nearly is refined, and no more is worn."""
        pipeline, files = bench.style_clip, [bench.file(picture) for picture in several]
        found = [pipeline.picture(pipeline.invert(pipeline.aligned(file))) for file in files]
        jobs = [
            bench.edit(PROMPT, 0, file, start="inversion").model_copy(update={"iterations": 1})
            for file in files
        ]
        return [found, bench.faces.pictures(jobs)]  # the first step does not move yet

    results = inverted(pictures)
    found = [bench.read(several) for several in (drawn, *inverted(drawn), *results)]
    truths = [labels(face) for face in shown]
    tallies = [tally(truths, readings) for readings in found]
    rows = [[name, *(share(one[name]) for one in tallies)] for name in tallies[0]]
    started = "as edits start from them"
    head = ("", "true drawings", "drawings, by e4e", started, "photographs, by e4e", started)
    bench.table(f"{len(shown)} unseen faces", head, rows)

    photo = bench.faces.starts([bench.edit(PROMPT, 0, PHOTO, start="inversion")])[0]
    (seen,) = bench.read([photo])
    right = [seen[name] in values for name, values in PHOTO_SHOWS.items()]
    told = ", ".join(f"{name} {seen[name]}" for name in PHOTO_SHOWS)
    bench.table("A photo", ("inversion", "right"), [[told, share(right)]])
    tiles = [Tile(bench.style_clip.aligned(PHOTO), "a photo"), Tile(photo, "inversion", told)]
    for picture, result, truth, reading in zip(pictures, results[1], truths, found[4], strict=True):
        off = (
            name for name in ("hat", "crown", "glasses", "earrings", *KEPT) if reading[name] != truth[name]
        )
        remark = "; ".join(f"{name}: {reading[name]}" for name in off)
        tiles += [Tile(picture, ""), Tile(result, "", remark)]
    bench.sheets("inversions", pages(tiles[: 2 * SHOWN], columns=12, rows=6))


def tally(truths: Sequence[Readings], readings: Sequence[Readings]) -> dict[str, list[bool]]:
    """For each row of the table, which of the faces it is about count, by what is read and what is true."""
    pairs = list(zip(truths, readings, strict=True))
    seen = [{name for name in WORN if there(reading, name)} for _, reading in pairs]
    worn = [{name for name in WORN if there(truth, name)} for truth, _ in pairs]
    rows = {
        f"{name} not there, but seen": [name in s for s, w in zip(seen, worn, strict=True) if name not in w]
        for name in WORN
    }
    rows["any of these"] = [bool(s - w) for s, w in zip(seen, worn, strict=True)]
    rows |= {
        f"{name} there and seen": [name in s for s, w in zip(seen, worn, strict=True) if name in w]
        for name in WORN
    }
    rows |= {
        f"{name.replace('_', ' ')} right": [r[name] == t[name] for t, r in pairs if t[name] != NONE]
        for name in KEPT
    }
    return rows


def there(reading: Readings, name: str) -> bool:
    """Whether one of WORN is read."""
    return any(reading[field] != NONE for field in WORN[name])
