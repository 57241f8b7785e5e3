"""Edits of faces: what they change, what they keep, and what the inversion before them keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

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


def edits(bench: Bench) -> None:
    """Drawn faces, judged where the reader reads the drawing itself right; then a girl and a photo."""
    asked = list(cases.edits(bench.options.edits))
    drawn = [draw(edit.face) for edit in asked]
    jobs = [bench.edit(e.prompt, k, bench.file(drawn[k])) for k, e in enumerate(asked)]
    inverted, edited = bench.faces.starts(jobs), bench.faces.pictures(jobs)
    originals, inversions, results = (bench.read(pictures) for pictures in (drawn, inverted, edited))
    targets = bench.read([draw(edit.after) for edit in asked])
    changed: dict[str, list[bool]] = defaultdict(list)
    ceiling: list[bool] = []
    kept: dict[str, list[bool]] = defaultdict(list)
    survived: dict[str, list[bool]] = defaultdict(list)
    tiles = []
    for k, edit in enumerate(asked):
        truth, wanted = labels(edit.face), labels(edit.after)[edit.field]
        known = [field for field in face_fields() if originals[k][field] == truth[field]]
        stay = [field for field in edit.kept if field in known]
        for field in known:
            survived[field].append(inversions[k][field] == truth[field])
        for field in stay:
            kept[field].append(results[k][field] == truth[field])
        changed[edit.field].append(results[k][edit.field] == wanted)
        ceiling.append(targets[k][edit.field] == wanted)
        done = "changed" if changed[edit.field][-1] else f"not changed: {results[k][edit.field]}"
        tiles += [
            Tile(drawn[k], f"{k + 1}"),
            Tile(inverted[k], "inversion", differing(inversions[k], truth, known)),
            Tile(edited[k], f"{edit.prompt} ({done})", differing(results[k], truth, stay)),
        ]
    rows = [
        ["changed", share(hit for hits in changed.values() for hit in hits)],
        ["... read on true drawings of the change", share(ceiling)],
        ["all others kept, mean over attributes", mean(kept)],
        ["kept by inversion alone, mean over attributes", mean(survived)],
    ]
    bench.table(f"{len(asked)} edits of unseen drawn faces", ("", ""), rows)
    rows = [
        [field, share(changed[field]), share(kept[field]), share(survived[field])] for field in face_fields()
    ]
    bench.table("Each attribute", ("", "changed", "kept by edits of others", "kept by inversion"), rows)
    bench.sheets("edits", pages(tiles[: 3 * SHOWN], columns=9, rows=5))
    girl_and_photo(bench)


def mean(hits: Mapping[str, list[bool]]) -> str:
    """The mean over attributes of the shares."""
    return f"{np.mean([np.mean(found) for found in hits.values()]):.1%}"


def differing(reading: Readings, truth: Readings, fields: list[str]) -> str:
    """Which attributes are not read as they should be, and as what."""
    return "; ".join(f"{field}: {reading[field]}" for field in fields if reading[field] != truth[field])


def girl_and_photo(bench: Bench) -> None:
    """A drawn girl with brown eyes gets purple ones; a photo becomes a drawing, and is edited."""
    girl = draw(drawn_girl())
    truth = labels(drawn_girl())
    others = [field for field in face_fields() if field != "eye_colour"]
    jobs = [bench.edit(GIRL, seed, bench.file(girl)) for seed in range(5)]
    pictures, inverted = bench.faces.pictures(jobs), bench.faces.starts(jobs[:1])
    before, *after = bench.read([*inverted, *pictures])
    rows = [
        ["the drawn girl's inversion", "-", share(before[field] == truth[field] for field in others)],
        [
            f'the drawn girl, "{GIRL}", {len(jobs)} seeds',
            share(reading["eye_colour"] == "purple" for reading in after),
            share(reading[field] == truth[field] for reading in after for field in others),
        ],
    ]
    row = [Tile(girl, "a drawn girl"), Tile(inverted[0], "inversion", differing(before, truth, others))]
    for picture, reading in zip(pictures, after, strict=True):
        caption = f"{GIRL} (eyes: {reading['eye_colour']})"
        row.append(Tile(picture, caption, differing(reading, truth, others)))

    jobs = [bench.edit(prompt, 0, PHOTO) for prompt in PHOTO_EDITS]
    pictures, inverted = bench.faces.pictures(jobs), bench.faces.starts(jobs[:1])
    before, *after = bench.read([*inverted, *pictures])
    seen = ", ".join(f"{field} {before[field]}" for field in PHOTO_SHOWS)
    rows.append(
        [
            f"the photo's inversion ({seen})",
            "-",
            share(before[field] in values for field, values in PHOTO_SHOWS.items()),
        ]
    )
    photo = [Tile(bench.style_clip.aligned(PHOTO), "a photo"), Tile(inverted[0], f"inversion: {seen}")]
    done, same = [], []
    for (prompt, (field, value)), picture, reading in zip(PHOTO_EDITS.items(), pictures, after, strict=True):
        rest = [other for other in face_fields() if other != field]
        done.append(reading[field] == value)
        same += [reading[other] == before[other] for other in rest]
        photo.append(Tile(picture, f"{prompt} ({reading[field]})", differing(reading, before, rest)))
    rows.append(["the photo, edited", share(done), f"{share(same)} (as in its inversion)"])
    bench.table("A drawn girl and a photo", ("", "changed", "otherwise the same"), rows)
    bench.sheets("faces", [sheet([row, photo])])
