"""Make the pictures that README and docs/models.md show: `python -m training.showcase`, into docs/."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from mead.revision import run
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIPPipeline
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
from training.evaluation.sheets import Tile, sheet
from training.run import ROOT
from training.world import Face, draw

PHOTO = ROOT / "tests" / "data" / "face.jpeg"
PROMPTS = (
    "a red circle on a blue background",
    "a yellow star on a purple background",
    "a house in the snow at night",
    "a boat on the sea at sunset",
    "a green tree on grass by day",
    "mountains under a starry sky",
    "A beautiful person",
    "a woman with long blonde hair",
    "a man with glasses and a beard",
    "a girl with green hair",
    "a queen with purple eyes",
    "a blue car on the beach",
)
WAY = 40  # steps of a time-lapse
SIDE = 256  # pixels, of each picture on the sheets
EDITS = ("A girl with purple eyes", "a woman with blue hair", "a queen", "a person with green hair")


def main() -> None:
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    prompts = [Tile(from_words(prompt, seed), prompt) for seed, prompt in enumerate(PROMPTS)]
    noise = [Tile(from_words(prompt, seed, "noise"), prompt) for seed, prompt in enumerate(PROMPTS[:6])]
    shapes = [
        Tile(
            ImageOps.pad(from_words(prompt, seed, size=size), (SIDE, SIDE), color="white"),
            f"{prompt}, {size}",
        )
        for size in ("192x128", "128x192")
        for prompt, seed in (
            ("a boat on the sea at sunset", 3),
            ("a woman with long blonde hair", 4),
            ("a heart", 5),
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        girl = Path(folder) / "girl.png"
        draw(drawn_girl()).save(girl)
        edits = [edited(PHOTO, "photo"), edited(girl, "drawing")]
        photos = pasted(Path(folder))
    lapses = [
        way("a red house at night", 3, start="noise"),
        way("a green tree", 4, story="a red tree ^ a red tree at night"),
    ]
    sheets = {
        "results": [prompts[:6], prompts[6:], *edits],
        "noise-start": [noise],
        "photos": photos,
        "sizes": [shapes],
        "timelapse": lapses,
    }
    for name, rows in sheets.items():
        sheet(rows, side=SIDE).save(docs / f"{name}.jpg", quality=92, optimize=True)


def from_words(prompt: str, seed: int, start: str | None = None, size: str | None = None) -> Image.Image:
    params = LatentRevisionsParams(prompt=prompt, seed=seed, start=start, size=size)
    return run(load_latent_revisions(), params)


def way(prompt: str, seed: int, **given: str) -> list[Tile]:
    """Six frames of a time-lapse."""
    pipeline = load_latent_revisions()
    revision = pipeline.start(LatentRevisionsParams(prompt=prompt, seed=seed, iterations=WAY, **given))
    tiles = [Tile(pipeline.image(revision), f"{prompt}, before the first step")]
    while not revision.finished:
        pipeline.step([revision])
        if revision.step % (WAY // 5) == 0:
            tiles.append(Tile(pipeline.image(revision), f"{revision.step} steps"))
    return tiles


def edited(path: Path, kind: str) -> list[Tile]:
    """A face, its inversion and edits of it."""
    pipeline: StyleCLIPPipeline = load_style_clip()
    inverted = pipeline.image(pipeline.start(StyleCLIPParams(prompt="-", img_path=path, start="inversion")))
    row = [Tile(pipeline.aligned(path), kind), Tile(inverted, "as its codes draw it")]
    for prompt in EDITS:
        row.append(Tile(run(pipeline, StyleCLIPParams(prompt=prompt, seed=1, img_path=path)), prompt))
    return row


def pasted(folder: Path) -> list[list[Tile]]:
    """A photo, and a scene with two drawn faces, before and after edits that are pasted back."""
    scene = Image.open(PHOTO.with_name("coffee.jpg")).convert("RGB").crop((0, 0, 400, 400)).resize((800, 800))
    for picture, x, y, side, degrees in (
        (draw(drawn_girl()), 60, 80, 300, 12),
        (draw(Face.sample(np.random.default_rng(7))), 420, 330, 340, -18),
    ):
        large = picture.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
        turned = large.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        scene.paste(turned, (x, y), turned)
    path = folder / "scene.png"
    scene.save(path)
    jobs: dict[Path, list[tuple[str, str | int]]] = {
        PHOTO: [("a person with glasses", "largest"), ("a queen", "largest"), (EDITS[1], "largest")],
        path: [
            ("a person with glasses", "all"),
            ("a girl with purple hair", 1),
            ("a person with a crown", 2),
        ],
    }
    rows = []
    for photo, edits in jobs.items():
        with Image.open(photo) as picture:
            row = [Tile(picture.convert("RGB"), "before")]
        for prompt, face in edits:
            job = StyleCLIPParams(prompt=prompt, seed=1, img_path=photo, output="photo", face=face)
            row.append(Tile(run(load_style_clip(), job), f"{prompt} (face={face})"))
        rows.append(row)
    return rows


def drawn_girl() -> Face:
    face = Face.sample(np.random.default_rng(1))
    return replace(
        face,
        gender="female",
        age="child",
        skin="light",
        hair_style="long",
        hair_colour="brown",
        eye_colour="brown",
        glasses=False,
        expression="smile",
        headwear="none",
        background="yellow",
    )


if __name__ == "__main__":
    main()
