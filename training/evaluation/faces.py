"""Which pictures StyleCLIP takes for faces: drawings of them in any size, and which others it refuses."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from PIL import Image

from mead.imaging.pictures import PictureError
from training.camera import made, photo, photograph, scene
from training.evaluation.bench import Bench, share
from training.evaluation.inversions import photographs
from training.evaluation.sheets import Tile, pages
from training.face_classifier import words
from training.reader import fresh
from training.showcase import PHOTO
from training.world import Face, draw
from training.world.colours import COLOURS, gradient

SIDES = (64, 90, 128, 256, 400, 640, 1024)
SHOWN = 40  # pictures on sheets, of either kind
WHOLE = ("chelsea.jpg", "coffee.jpg")


def faces_shown(number: int) -> list[tuple[str, Image.Image]]:
    """Unseen drawn faces, half of them photographed, a third with a border, each with a word for its kind."""
    shown = []
    for k, (face, picture) in enumerate(photographs(number)):
        rng = np.random.default_rng([36, k])
        side = SIDES[k % len(SIDES)]
        picture = (picture if k % 2 else draw(face)).resize((side, side), Image.Resampling.LANCZOS)
        kind = "photographed" if k % 2 else "drawn"
        if k % 3 == 0:
            kind += ", with a border"
            wide, high = (round(side * (1 + share)) for share in rng.uniform(0.1, 0.5, 2))
            colour = COLOURS[str(rng.choice(list(COLOURS)))]
            framed = Image.new("RGB", (wide, high), colour)
            framed.paste(picture, ((wide - side) // 2, (high - side) // 2))
            picture = framed
        shown.append((kind, picture))
    return shown


def faceless(number: int) -> list[tuple[str, Image.Image]]:
    """Pictures that show no face, or a cat's, each with a word for its kind."""
    shown = [(name, photo(name)) for name in WHOLE]
    for k in range(number - len(shown)):
        rng = np.random.default_rng([37, k])
        side = SIDES[int(rng.integers(len(SIDES)))]
        match k % 8:
            case 0 | 1:
                drawing = fresh(rng, test=k % 16 > 7)
                while isinstance(drawing, Face):
                    drawing = fresh(rng)
                kind, picture = "a landscape or shapes", draw(drawing).resize((side, side))
            case 2:
                kind, picture = "one colour", Image.new("RGB", (side, side), (int(rng.integers(256)),) * 3)
            case 3:
                stops = [COLOURS[str(name)] for name in rng.choice(list(COLOURS), 3)]
                kind, picture = "a gradient", gradient(side, stops)
            case 4:
                levels = rng.integers(0, 256, (side, side, 3), np.uint8)
                kind, picture = "noise", Image.fromarray(levels)
            case 5:
                name = WHOLE[k // 8 % 2]
                whole = photo(name)
                size = int(rng.integers(100, whole.height + 1))
                x, y = int(rng.integers(whole.width - size + 1)), int(rng.integers(whole.height - size + 1))
                kind, picture = f"a part of {name}", whole.crop((x, y, x + size, y + size))
            case 6:
                kind, picture = "a pattern", made(rng, 128) if k % 3 else scene(rng, 128, test=True)
            case _:
                kind, picture = "words", words(rng, side)
        if k % 5 == 0:
            picture = photograph(np.asarray(picture.resize((128, 128)), np.float32), rng)
        shown.append((kind, picture))
    return shown


def faces(bench: Bench) -> None:
    """How many of either are taken for faces; those that should not, and how faces are cut out."""
    counted: dict[str, dict[str, list[bool]]] = {}
    tiles = []
    for title, pictures in (
        ("faces", faces_shown(bench.options.faces)),
        ("pictures without a face", faceless(bench.options.faces)),
    ):
        kinds = counted.setdefault(title, defaultdict(list))
        wanted = title == "faces"
        for number, (kind, picture) in enumerate(pictures):
            try:
                aligned = bench.style_clip.aligned(bench.file(picture))
            except PictureError:
                aligned = None
            kinds[kind].append(aligned is not None)
            if (aligned is not None) != wanted or number < SHOWN:
                remark = "" if (aligned is not None) == wanted else "taken" if aligned else "refused"
                tiles += [Tile(picture, kind, remark), Tile(aligned or Image.new("RGB", (1, 1), "white"), "")]
    rows = []
    for title, kinds in counted.items():
        rows.append([title, share(hit for hits in kinds.values() for hit in hits)])
        rows += [[f"... {kind}", share(hits)] for kind, hits in kinds.items()]
    for name, picture in (("the photo", photo(PHOTO.name)), ("its face", bench.style_clip.aligned(PHOTO))):
        bench.style_clip.aligned(bench.file(picture))  # or an error
        rows.append([name, "taken"])
    bench.table("Taken for faces", ("", "taken"), rows)
    bench.sheets("faces-found", pages(tiles, columns=12, rows=6))
