"""Pictures from prompts by each way to start: named attributes right, prompts with all right, how far the
pictures are from drawings; and what more steps do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from PIL import Image

from training.evaluation import cases
from training.evaluation.autoencoder import reconstructions
from training.evaluation.bench import Bench, image_of, right, share
from training.evaluation.frechet import Judge
from training.evaluation.sheets import Tile, pages, sheet
from training.pictures import tensor
from training.reader import Readings
from training.world import draw
from training.world.attributes import FIELDS

TIMES = (0, 0.25, 1, 4, 10)  # the number of steps, in those of the weights set
# From VQGAN's reconstructions of drawings of the same prompts.
DISTANCES = ("Fréchet distance, reader", "texture")


def prompts(bench: Bench) -> None:
    """Beside the ways to start stand the reader's ceilings on true drawings and on their reconstructions."""
    asked = list(cases.prompts(bench.options.prompts))
    drawings = [draw(case.drawing) for case in asked]
    rebuilt, _ = reconstructions(bench.latent_revisions, tensor(drawings))
    ways: dict[str, list[Image.Image]] = {
        "true drawings": drawings,
        "their VQGAN reconstructions": list(map(image_of, rebuilt)),
    }
    learned = [bench.job(case.prompt, seed, start="learned") for seed, case in enumerate(asked)]
    ways["learned start alone"] = bench.words.starts(learned)
    if not bench.options.starts_only:
        ways["learned start + optimisation"] = bench.words.pictures(learned)
        noise = [bench.job(case.prompt, seed, start="noise") for seed, case in enumerate(asked)]
        ways["noise start + optimisation"] = bench.words.pictures(noise)
    readings = {way: bench.read(pictures) for way, pictures in ways.items()}
    hits = {
        way: [right(reading, case.named) for reading, case in zip(found, asked, strict=True)]
        for way, found in readings.items()
    }
    everything = range(len(asked))
    unseen = [k for k in everything if asked[k].unseen]

    def named(way: str, rows: Iterable[int]) -> str:
        return share(hit for k in rows for hit in hits[way][k])

    def all_right(way: str, rows: Iterable[int]) -> str:
        return share(all(hits[way][k]) for k in rows)

    seen = [k for k in everything if k not in unseen]
    judge = Judge(bench.reader, rebuilt)
    bench.table(
        f"{len(asked)} prompts",
        (
            "",
            "named right",
            "all right",
            "named, seen combinations",
            "named, unseen combinations",
            *DISTANCES,
        ),
        [
            [
                way,
                named(way, everything),
                all_right(way, everything),
                named(way, seen),
                named(way, unseen),
                *distances(judge, pictures),
            ]
            for way, pictures in ways.items()
        ],
    )
    groups = {f"{n} named": [k for k in everything if len(asked[k].named) == n] for n in range(1, 5)}
    for k, case in enumerate(asked):
        groups.setdefault(type(case.drawing).__name__, []).append(k)
    rows = [[name, *(all_right(way, group) for way in ways)] for name, group in groups.items()]
    bench.table("Prompts with all right", ("", *ways), rows)
    rows = []
    for field in FIELDS:
        naming = [k for k in everything if field in asked[k].named]
        if naming:
            found = [share(readings[way][k][field] in asked[k].named[field] for k in naming) for way in ways]
            rows.append([field, *found])
    bench.table("Each named attribute", ("", *ways), rows)
    for way, pictures in ways.items():
        tiles = map(judged, pictures, asked, readings[way])
        bench.sheets(f"prompts-{way.replace(' + ', '-').replace(' ', '-')}", pages(list(tiles)))


def steps(bench: Bench) -> None:
    """The same prompts with more and more steps, from the learned start; a sheet of the first twelve."""
    asked = list(cases.prompts(bench.options.step_prompts))
    rebuilt, _ = reconstructions(bench.latent_revisions, tensor([draw(case.drawing) for case in asked]))
    judge = Judge(bench.reader, rebuilt)
    own = bench.options.iterations or bench.latent_revisions.hyperparameters.iterations
    numbers = [math.ceil(times * own) for times in TIMES]
    made: dict[int, list[Image.Image]] = {}
    for number in numbers:
        jobs = [
            bench.job(case.prompt, seed, start="learned").model_copy(update={"iterations": number or 1})
            for seed, case in enumerate(asked)
        ]
        made[number] = bench.words.pictures(jobs) if number else bench.words.starts(jobs)
    rows = []
    for number, pictures in made.items():
        readings = zip(bench.read(pictures), asked, strict=True)
        hits = [right(reading, case.named) for reading, case in readings]
        named = share(hit for row in hits for hit in row)
        rows.append([str(number), named, share(map(all, hits)), *distances(judge, pictures)])
    bench.table(f"More steps, {len(asked)} prompts", ("steps", "named right", "all right", *DISTANCES), rows)
    shown = [
        [
            Tile(made[number][k], f"{number}: {asked[k].prompt}" if not number else str(number))
            for number in numbers
        ]
        for k in range(min(12, len(asked)))
    ]
    bench.sheets("steps", [sheet(shown)])


def distances(judge: Judge, pictures: Sequence[Image.Image]) -> list[str]:
    """Cells of a table, for DISTANCES."""
    return [f"{distance:.2f}" for distance in judge.distances(tensor(pictures))]


def judged(picture: Image.Image, case: cases.Case, reading: Readings) -> Tile:
    """A tile that says which of the named attributes are missed, and what is read instead."""
    missed = [field for field, hit in zip(case.named, right(reading, case.named), strict=True) if not hit]
    if not missed:
        return Tile(picture, case.prompt, "all right", "seagreen")
    return Tile(picture, case.prompt, "; ".join(f"{field}: {reading[field]}" for field in missed))
