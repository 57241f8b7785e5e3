"""Faces pasted back into whole pictures: what stays as it was, whether a seam shows, what is read then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mead.imaging.faces import Square
from mead.imaging.pasting import mask_of
from mead.imaging.pictures import PictureError
from mead.revision import result_of
from StyleCLIP.align import cut_out
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision
from training.camera import crop, photograph
from training.evaluation import cases
from training.evaluation.bench import Bench, share
from training.evaluation.cases import Edit
from training.evaluation.sheets import Tile, pages
from training.world import SIDE, draw
from training.world.attributes import labels

SIDES = (600, 1400)  # of the scenes, in pixels
FACES = (0.2, 0.7)  # their sides, in shorter sides of the scene
TURNED = 30.0  # degrees that most faces are turned at most; every fourth stands in any direction
NEAR = 0.15  # a face is found if its centre is no further away, in sides, ...
SIMILAR = math.log(1.25)  # ... and its side no other by more
SEAM = 3.0  # levels of 255
WIDE = ("background", "clothes")
SHOWN = 24  # scenes on sheets


@dataclass(frozen=True)
class Scene:
    """A large picture with a drawn face in it, and the edit that is asked of the face."""

    picture: Image.Image
    square: Square
    edit: Edit


def scenes(number: int) -> Iterator[Scene]:
    """Unseen faces, turned, scaled and placed at random in front of photos, every other one photographed."""
    for k, edit in enumerate(cases.edits(number)):
        rng = np.random.default_rng([38, k])
        width, height = (int(side) for side in rng.integers(*SIDES, 2))
        behind = crop(rng, max(width, height), test=True).crop((0, 0, width, height))
        face = draw(edit.face)
        if k % 2:
            face = photograph(np.asarray(face, np.float32), rng)
        side = round(float(rng.uniform(*FACES)) * min(width, height))
        angle = float(rng.uniform(-180, 180) if k % 4 == 3 else rng.uniform(-TURNED, TURNED))
        large = face.resize((side, side), Image.Resampling.BICUBIC).convert("RGBA")
        turned = large.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        x, y = (
            int(rng.integers(min(0, room), max(1, room + 1)))
            for room in (width - turned.width, height - turned.height)
        )
        behind.paste(turned, (x, y), turned)
        across = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))]) * side / 2
        centre = np.array([x + turned.width / 2, y + turned.height / 2])
        yield Scene(behind, Square(centre, across), edit)


def photos(bench: Bench) -> None:
    """Drawn scenes, each with one face that is edited and pasted back."""
    found: list[bool] = []
    outside: list[bool] = []
    seams: list[float] = []
    edited_seams: list[float] = []
    changed: dict[bool, list[bool]] = {False: [], True: []}
    alone: list[bool] = []
    kept: list[bool] = []
    kept_alone: list[bool] = []
    tiles: list[Tile] = []
    for k, scene in enumerate(scenes(bench.options.photos)):
        job = bench.edit(scene.edit.prompt, k, bench.file(scene.picture), output="photo")
        try:
            revision = bench.style_clip.start(job)
        except PictureError:
            found.append(False)
            tiles += [Tile(scene.picture, scene.edit.prompt), Tile(scene.picture, "", "no face found")]
            continue
        square = chosen_square(revision)
        found.append(is_near(square, scene.square))
        mask = mask_of(square, *scene.picture.size)
        border = ((mask > 0) & (mask < 0.5))[..., None]
        same = pasted_inversion(bench, job)
        while not revision.finished:
            bench.style_clip.step([revision])
        face, result = bench.style_clip.image(revision), result_of(bench.style_clip, revision)
        original, unchanged, after = (np.asarray(one, int) for one in (scene.picture, same, result))
        outside.append(bool((after == original)[mask == 0].all()) and result.size == scene.picture.size)
        seams.append(float(np.abs(unchanged - original).mean(2)[border[..., 0]].mean()))
        edited_seams.append(float(np.abs(after - original).mean(2)[border[..., 0]].mean()))
        if not found[-1]:
            continue
        truth, wanted = labels(scene.edit.face), labels(scene.edit.after)
        first, drawn, last = bench.read(
            [
                cut_out(scene.picture, scene.square, SIDE),
                face,
                cut_out(result, scene.square, SIDE),
            ]
        )
        names = [name for name in scene.edit.kept if first[name] == truth[name]]
        changed[scene.edit.field in WIDE].append(last[scene.edit.field] == wanted[scene.edit.field])
        alone.append(drawn[scene.edit.field] == wanted[scene.edit.field])
        kept += [last[name] == truth[name] for name in names]
        kept_alone += [drawn[name] == truth[name] for name in names]
        off = [name for name in names if last[name] != truth[name]]
        now = last[scene.edit.field]
        done = "changed" if now == wanted[scene.edit.field] else f"not changed: {now}"
        tiles += [
            Tile(scene.picture, f"{k + 1}"),
            Tile(result, f"{scene.edit.prompt} ({done})", "; ".join(f"{name}: {last[name]}" for name in off)),
        ]
    rows = [
        ["the face is found where it is", share(found)],
        ["all pixels outside the mask are the original's", share(outside)],
        [f"seam of an unchanged face at most {SEAM:g} of 255", share(seam <= SEAM for seam in seams)],
        ["... mean, largest", f"{np.mean(seams):.2f}, {max(seams):.2f}"],
        [
            "the same where the face is edited, mean, largest",
            f"{np.mean(edited_seams):.2f}, {max(edited_seams):.2f}",
        ],
        ["changed, read after pasting", share(changed[False])],
        [f"... {' and '.join(WIDE)}, which reach beyond the mask", share(changed[True])],
        ["... of the edited face alone", share(alone)],
        ["all others kept, after pasting", share(kept)],
        ["... of the edited face alone", share(kept_alone)],
    ]
    bench.table(f"{bench.options.photos} scenes with a drawn face in them", ("", ""), rows)
    bench.sheets("photos", pages(tiles[: 2 * SHOWN], columns=6, rows=8))


def chosen_square(revision: StyleRevision) -> Square:
    """Where a job's only face is in its photo."""
    assert revision.photo is not None
    return revision.photo.squares[revision.photo.chosen[0]]


def is_near(square: Square, true: Square) -> bool:
    """Whether a face was found where it is."""
    away = float(np.hypot(*(square.centre - true.centre)))
    turned = (square.angle - true.angle + 180) % 360 - 180
    return (
        away < NEAR * true.side and abs(math.log(square.side / true.side)) < SIMILAR and abs(turned) < TURNED
    )


def pasted_inversion(bench: Bench, job: StyleCLIPParams) -> Image.Image:
    """The scene with its face pasted back as it was inverted."""
    unchanged = job.model_copy(update={"start": "inversion", "iterations": 1})
    return result_of(bench.style_clip, bench.style_clip.start(unchanged))
