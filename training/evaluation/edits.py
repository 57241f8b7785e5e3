"""Edits of faces: what they change, what they keep, and what the inversion before them keeps."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision
from training.evaluation import cases
from training.evaluation.bench import Bench, share
from training.evaluation.cases import face_fields
from training.evaluation.sheets import Tile, pages, sheet
from training.reader import Readings
from training.showcase import PHOTO, drawn_girl
from training.world import draw
from training.world.attributes import labels

SHOWN = 100  # edits on sheets
GIRL = "A girl with purple eyes"
# What may be read of the photo's hair and skin, and what is asked of it.
PHOTO_SHOWS = {"hair_colour": {"brown"}, "skin": {"pale", "light"}}
PHOTO_EDITS = {
    GIRL: ("eye_colour", "purple"),
    "a woman with blue hair": ("hair_colour", "blue"),
    "a queen": ("crown", "crown"),
    "a person with glasses": ("glasses", "glasses"),
}


@dataclass
class Tally:
    """For each attribute: whether edits changed it as they should, and whether those of others kept it."""

    changed: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    kept: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def row(self) -> list[str]:
        return [share(hit for hits in self.changed.values() for hit in hits), mean(self.kept)]


class Judge:
    """Judges edits of drawn faces, by what the reader reads right on the drawings themselves.

    Attributes:
        asked: the edits.
        drawn: the faces before.
        files: these pictures.
        known: the attributes of each that are read right.
    """

    def __init__(self, bench: Bench, asked: Sequence[cases.Edit]) -> None:
        self.asked = asked
        self.drawn = [draw(edit.face) for edit in asked]
        self.files = [bench.file(picture) for picture in self.drawn]
        self.known = [
            {name for name in face_fields() if reading[name] == labels(edit.face)[name]}
            for reading, edit in zip(bench.read(self.drawn), asked, strict=True)
        ]

    def tally(self, readings: Sequence[Readings]) -> Tally:
        """What the pictures of the edits show."""
        found = Tally()
        for edit, reading, names in zip(self.asked, readings, self.known, strict=True):
            found.changed[edit.field].append(reading[edit.field] == labels(edit.after)[edit.field])
            for name in names.intersection(edit.kept):
                found.kept[name].append(reading[name] == labels(edit.face)[name])
        return found

    def survived(self, readings: Sequence[Readings]) -> dict[str, list[bool]]:
        """For each attribute, whether the faces' inversions show it."""
        found: dict[str, list[bool]] = defaultdict(list)
        for edit, reading, names in zip(self.asked, readings, self.known, strict=True):
            for name in names:
                found[name].append(reading[name] == labels(edit.face)[name])
        return found


def edits(bench: Bench) -> None:
    """Each of StyleCLIP's methods that the options name."""
    from training.evaluation import edits_by_name  # which uses this module

    ways = {"optimisation": optimisation, **edits_by_name.WAYS}
    for method in bench.options.methods:
        ways[method](bench)


def optimisation(bench: Bench) -> None:
    """Drawn faces, judged where the reader reads the drawing itself right; then a girl and a photo."""
    asked = list(cases.edits(bench.options.edits))
    judge = Judge(bench, asked)
    drawn, files, known, tally = judge.drawn, judge.files, judge.known, judge.tally
    jobs = [bench.edit(edit.prompt, k, files[k]) for k, edit in enumerate(asked)]

    # the first step of an optimisation does not move yet
    def only_mapped(job: StyleCLIPParams) -> StyleCLIPParams:
        return job.model_copy(update={"iterations": 1})

    def only_inverted(job: StyleCLIPParams) -> StyleCLIPParams:
        return job.model_copy(update={"iterations": 1, "start": "inversion"})

    def on_its_way(
        job: StyleCLIPParams, revision: StyleRevision
    ) -> Iterator[tuple[StyleCLIPParams, StyleRevision]]:
        first = copy.copy(revision)
        first.latents = revision.codes
        yield only_mapped(job), first
        unedited = job.model_copy(update={"strength": 0.0})
        yield only_inverted(job), bench.style_clip.resume(unedited, revision.state())

    edited = bench.faces.pictures(jobs, on_its_way)
    mapped = bench.faces.pictures([*map(only_mapped, jobs)])
    inverted = bench.faces.pictures([*map(only_inverted, jobs)])
    targets = bench.read([draw(edit.after) for edit in asked])
    inversions, results = bench.read(inverted), bench.read(edited)
    start, end = tally(bench.read(mapped)), tally(results)
    survived = judge.survived(inversions)
    rows = [
        ["true drawings of the change", tally(targets).row()[0], "-"],
        ["inversion alone", "-", mean(survived)],
        ["learned start alone", *start.row()],
        ["learned start + optimisation", *end.row()],
    ]
    title = f"{len(asked)} edits of unseen drawn faces"
    bench.table(title, ("", "changed", "all others kept, mean over attributes"), rows)
    rows = [
        [name, *map(share, (start.changed[name], end.changed[name], survived[name], end.kept[name]))]
        for name in face_fields()
    ]
    head = ("", "changed by the start", "changed in the end", "kept by inversion", "kept by edits of others")
    bench.table("Each attribute", head, rows)
    tiles = []
    for k, edit in enumerate(asked[:SHOWN]):
        truth = labels(edit.face)
        now, wanted = results[k][edit.field], labels(edit.after)[edit.field]
        done = "changed" if now == wanted else f"not changed: {now}"
        tiles += [
            Tile(drawn[k], f"{k + 1}"),
            Tile(inverted[k], "inversion", differing(inversions[k], truth, known[k])),
            Tile(edited[k], f"{edit.prompt} ({done})", differing(results[k], truth, known[k] & {*edit.kept})),
        ]
    bench.sheets("edits", pages(tiles, columns=9, rows=5))
    girl_and_photo(bench)


def mean(hits: Mapping[str, list[bool]]) -> str:
    """The mean over attributes of the shares."""
    return f"{np.mean([np.mean(found) for found in hits.values()]):.1%}"


def differing(reading: Readings, truth: Readings, names: Collection[str]) -> str:
    """Which attributes are not read as they should be, and as what."""
    off = (name for name in face_fields() if name in names and reading[name] != truth[name])
    return "; ".join(f"{name}: {reading[name]}" for name in off)


def girl_and_photo(bench: Bench) -> None:
    """A drawn girl with brown eyes gets purple ones; a photo becomes a drawing, and is edited."""

    def inversion_of(job: StyleCLIPParams) -> Image.Image:
        return bench.faces.pictures([job.model_copy(update={"iterations": 1, "start": "inversion"})])[0]

    girl = draw(drawn_girl())
    truth = labels(drawn_girl())
    others = [name for name in face_fields() if name != "eye_colour"]
    jobs = [bench.edit(GIRL, seed, bench.file(girl)) for seed in range(5)]
    pictures, inverted = bench.faces.pictures(jobs), inversion_of(jobs[0])
    before, *after = bench.read([inverted, *pictures])
    rows = [
        ["the drawn girl's inversion", "-", share(before[name] == truth[name] for name in others)],
        [
            f'the drawn girl, "{GIRL}", {len(jobs)} seeds',
            share(reading["eye_colour"] == "purple" for reading in after),
            share(reading[name] == truth[name] for reading in after for name in others),
        ],
    ]
    row = [Tile(girl, "a drawn girl"), Tile(inverted, "inversion", differing(before, truth, others))]
    for picture, reading in zip(pictures, after, strict=True):
        caption = f"{GIRL} (eyes: {reading['eye_colour']})"
        row.append(Tile(picture, caption, differing(reading, truth, others)))

    jobs = [bench.edit(prompt, 0, PHOTO) for prompt in PHOTO_EDITS]
    pictures, inverted = bench.faces.pictures(jobs), inversion_of(jobs[0])
    before, *after = bench.read([inverted, *pictures])
    seen = ", ".join(f"{name} {before[name]}" for name in PHOTO_SHOWS)
    rows.append(
        [
            f"the photo's inversion ({seen})",
            "-",
            share(before[name] in values for name, values in PHOTO_SHOWS.items()),
        ]
    )
    photo = [Tile(bench.style_clip.aligned(PHOTO), "a photo"), Tile(inverted, f"inversion: {seen}")]
    done, same = [], []
    for (prompt, (changed, value)), picture, reading in zip(
        PHOTO_EDITS.items(), pictures, after, strict=True
    ):
        rest = [name for name in face_fields() if name != changed]
        done.append(reading[changed] == value)
        same += [reading[name] == before[name] for name in rest]
        photo.append(Tile(picture, f"{prompt} ({reading[changed]})", differing(reading, before, rest)))
    rows.append(["the photo, edited", share(done), f"{share(same)} (as in its inversion)"])
    bench.table("A drawn girl and a photo", ("", "changed", "otherwise the same"), rows)
    bench.sheets("faces", [sheet([row, photo])])
