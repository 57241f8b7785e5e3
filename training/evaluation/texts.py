"""Further texts and stories: whether what they say shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from training.evaluation import cases
from training.evaluation.bench import Bench, Named, right, share
from training.evaluation.sheets import Tile, pages

WEIGHT = 5  # of the further texts; that of the prompt, too
AWAY = -5


def texts(bench: Bench) -> None:
    """Count the attributes that further texts add and remove, and those of a story's texts at its end."""
    weighed = list(cases.weighings(bench.options.cases))
    rows: list[list[str]] = []

    def made(words: Sequence[cases.Case], given: Sequence[dict[str, Any]]) -> list[Image.Image]:
        jobs = [bench.job(c.prompt, k, **g) for k, (c, g) in enumerate(zip(words, given, strict=True))]
        return bench.words.pictures(jobs)

    def row(
        name: str, before: Sequence[Image.Image], after: Sequence[Image.Image], named: Sequence[Named]
    ) -> None:
        counted = []
        for pictures in (before, after):
            readings = zip(bench.read(pictures), named, strict=True)
            counted.append(share(hit for reading, of in readings for hit in right(reading, of)))
        rows.append([name, *counted])

    firsts, boths = [one.first for one in weighed], [one.both for one in weighed]
    plain, whole = made(firsts, [{}] * len(weighed)), made(boths, [{}] * len(weighed))
    added = made(firsts, [{"prompts": f"{one.second.prompt}:{WEIGHT}"} for one in weighed])
    row(f'prompts="...:{WEIGHT}": its attributes', plain, added, [one.second.named for one in weighed])
    row("... the prompt's own", plain, added, [one.first.named for one in weighed])
    less = made(boths, [{"prompts": f"{one.part.prompt}:{AWAY}"} for one in weighed])
    row(
        f'prompts="...:{AWAY}", a part of the prompt: its attributes',
        whole,
        less,
        [o.part.named for o in weighed],
    )

    last = [weighed[k - 1].first for k in range(len(weighed))]
    told = made(firsts, [{"story": case.prompt} for case in last])
    row("story: the last text's attributes", plain, told, [case.named for case in last])
    head = ("", "without", "with")
    bench.table(f"Further texts and stories, {len(weighed)} cases, w0 = {WEIGHT}", head, rows)
    tiles = [
        tile
        for first, case, before, after in zip(firsts, last, plain, told, strict=True)
        for tile in (Tile(before, first.prompt), Tile(after, f"^ {case.prompt}"))
    ]
    bench.sheets("stories", pages(tiles))
