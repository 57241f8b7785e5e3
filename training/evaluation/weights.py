"""Whether each weight, w0 to w3, and the starter picture do what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.evaluation import cases
from training.evaluation.bench import Bench, Named, distance, right, share, there
from training.evaluation.sheets import Tile, sheet
from training.world import Drawing, draw

# What the cases are counted at, beside w0 = 5.
W1, W1_AWAY, W2, W3 = 5.0, -5.0, 5.0, 2.5
# What the rows show.
VALUES: dict[str, tuple[float, ...]] = {
    "w0": (0, 1, 2.5, 5, 10),
    "w1": (-5, 0, 2.5, 5, 10),
    "w2": (0, 1, 2.5, 5, 10),
    "w3": (0, 1, 2.5, 4),
}

Pictures = Sequence[Image.Image]


def weights(bench: Bench) -> None:
    """Count over many cases what each weight changes; show some of them as rows."""
    weighed = list(cases.weighings(bench.options.cases))
    drawn = [draw(one.first.drawing) for one in weighed]
    others = [draw(one.other) for one in weighed]
    first = [one.first.named for one in weighed]
    rows: list[list[str]] = []

    def attributes(name: str, before: Pictures, after: Pictures, named: Sequence[Named]) -> None:
        """A row: the share of the attributes that are read in the pictures before and after."""
        found = []
        for pictures in (before, after):
            readings = zip(bench.read(pictures), named, strict=True)
            found.append(share(hit for reading, of in readings for hit in right(reading, of)))
        rows.append([name, *found, "-"])

    def distances(before: Pictures, after: Pictures, to: Pictures) -> None:
        """A row: how far the pictures are from others, before and after."""
        a = [distance(x, y) for x, y in zip(before, to, strict=True)]
        b = [distance(x, y) for x, y in zip(after, to, strict=True)]
        nearer = share(y < x for x, y in zip(a, b, strict=True))
        rows.append(["... distance to the picture", f"{np.mean(a):.1f}", f"{np.mean(b):.1f}", nearer])

    def made(words: Sequence[cases.Case], given: Sequence[dict[str, Any]]) -> Pictures:
        jobs = [bench.job(c.prompt, k, **g) for k, (c, g) in enumerate(zip(words, given, strict=True))]
        return bench.words.pictures(jobs)

    firsts = [one.first for one in weighed]
    plain = made(firsts, [{}] * len(weighed))

    with_text = made(firsts, [{"text_to_add": one.second.prompt, "w1": W1} for one in weighed])
    attributes(f"text_to_add, w1 = {W1}: its attributes", plain, with_text, [o.second.named for o in weighed])
    attributes("... the prompt's own", plain, with_text, first)

    boths = [one.both for one in weighed]
    whole = made(boths, [{}] * len(weighed))
    less = made(boths, [{"text_to_add": one.part.prompt, "w1": W1_AWAY} for one in weighed])
    left = [{f: v for f, v in o.both.named.items() if f not in o.part.named} for o in weighed]
    attributes(f"text_to_add, w1 = {W1_AWAY}: its attributes", whole, less, [o.part.named for o in weighed])
    attributes("... the prompt's others", whole, less, left)

    begun = made(firsts, [{"img_path": bench.file(picture)} for picture in others])
    attributes("img: its attributes", plain, begun, [rest(o.other, o.first.named) for o in weighed])
    distances(plain, begun, others)
    attributes("... the prompt's own", plain, begun, first)

    towards = made(firsts, [{"img_enc_path": bench.file(picture), "w2": W2} for picture in others])
    attributes(
        f"img_enc, w2 = {W2}: its attributes", plain, towards, [rest(o.other, o.first.named) for o in weighed]
    )
    distances(plain, towards, others)
    attributes("... the prompt's own", plain, towards, first)

    away = made(firsts, [{"ne_img_enc_path": bench.file(picture), "w3": W3} for picture in drawn])
    of_drawing = [rest(one.first.drawing, one.first.named) for one in weighed]
    attributes(f"ne_img_enc, w3 = {W3}: its attributes", plain, away, of_drawing)
    distances(plain, away, drawn)
    attributes("... the prompt's own", plain, away, first)

    head = ("", "without", "with", "cases that come nearer")
    bench.table(f"Each weight, {len(weighed)} cases, w0 = 5", head, rows)
    few = weighed[: bench.options.rows]
    bench.sheets("weights", (sheet(effects(bench, seed, one)) for seed, one in enumerate(few)))


def rest(drawing: Drawing, named: Named) -> Named:
    """What a drawing shows that words do not name."""
    return {field: {value} for field, value in there(drawing).items() if field not in named}


def effects(bench: Bench, seed: int, one: cases.Weighing) -> list[list[Tile]]:
    """A row of pictures for each weight, at several values, and one for the starter picture."""
    drawing, other = draw(one.first.drawing), draw(one.other)
    prompt, text = one.first.prompt, one.second.prompt
    given: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "w0": (drawing, f"text_to_add: {text}, w1 = 5", {"text_to_add": text, "w1": 5.0}),
        "w1": (drawing, f"text_to_add: {text}", {"text_to_add": text}),
        "w2": (other, "img_enc: this picture", {"img_enc_path": bench.file(other)}),
        "w3": (drawing, "ne_img_enc: this picture", {"ne_img_enc_path": bench.file(drawing)}),
    }
    rows = []
    for weight, (picture, words, fields) in given.items():
        jobs = [bench.job(prompt, seed, **{**fields, weight: value}) for value in VALUES[weight]]
        tiles = [
            Tile(made, f"{weight} = {value}")
            for made, value in zip(bench.words.pictures(jobs), VALUES[weight], strict=True)
        ]
        rows.append([Tile(picture, f"prompt: {prompt}; {words}"), *tiles])
    job = bench.job(prompt, seed, img_path=bench.file(other))
    rows.append(
        [
            Tile(other, f"prompt: {prompt}; img: this picture"),
            Tile(bench.words.starts([job])[0], "where it starts"),
            Tile(bench.words.pictures([job])[0], "what becomes of it"),
        ]
    )
    return rows
