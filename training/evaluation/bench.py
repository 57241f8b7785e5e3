"""What all parts of the evaluation work with: who makes and reads pictures, where tables and sheets go."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from mead.imaging.encoding import write_picture
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIPPipeline
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
from training.evaluation.studio import Studio, digest, origin
from training.pictures import tensor
from training.reader import NONE, Reader, Readings
from training.world import Drawing
from training.world.attributes import labels

Named = Mapping[str, Collection[str]]
"""For each attribute that words speak of, the values that make them true."""


class Bench:
    """The loaded networks, the reader, how much to do, and the report of one part.

    Args:
        options: of `training.evaluate`.
    """

    latent_revisions: LatentRevisionsPipeline
    style_clip: StyleCLIPPipeline

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.reader = Reader.load()
        self.latent_revisions, self.style_clip = load_latent_revisions(), load_style_clip()
        kept = options.out / "pictures"
        self.words: Studio[LatentRevisionsParams] = Studio(self.latent_revisions, kept, options.batch)
        self.faces: Studio[StyleCLIPParams] = Studio(self.style_clip, kept, options.batch)
        self._text = ""

    def read(self, pictures: Sequence[Image.Image]) -> list[Readings]:
        """What the reader sees in each picture."""
        return self.reader.read(tensor(pictures))

    def job(self, prompt: str, seed: int, **given: Any) -> LatentRevisionsParams:
        """A job of LatentRevisions with default settings but for what is given."""
        return LatentRevisionsParams(prompt=prompt, seed=seed, iterations=self.options.iterations, **given)

    def edit(self, prompt: str, seed: int, face: Path, **given: Any) -> StyleCLIPParams:
        """A job of StyleCLIP with default settings but for what is given."""
        steps = {"iterations": self.options.iterations, "refine": self.options.refine}
        return StyleCLIPParams(prompt=prompt, seed=seed, img_path=face, **{**steps, **given})

    def file(self, picture: Image.Image) -> Path:
        """A file that holds the picture, for a job to be given."""
        path = self.options.out / "given" / f"{digest(picture.tobytes())}.png"
        if not path.exists():
            write_picture(picture, path)
        return path

    def table(self, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, and keep it for `write`."""
        lines = [head, ["---"] * len(head), *rows]
        text = f"{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
        print(text, flush=True)
        self._text += f"\n{text}"

    def sheets(self, name: str, images: Iterable[Image.Image]) -> None:
        """Write contact sheets NAME-1.png, NAME-2.png, ..."""
        for number, image in enumerate(images, 1):
            write_picture(image, self.options.out / f"{name}-{number}.png")

    def write(self, part: str) -> None:
        """Write the tables since the last call to PART.md, with what weights and code they are of."""
        path = self.options.out / f"{part}.md"
        partial = path.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(f"Weights and code {digest(origin().encode())[:12]}\n{self._text}", "utf-8")
        partial.replace(path)
        self._text = ""


def right(reading: Readings, named: Named) -> list[bool]:
    """For each attribute that is named, whether it is read so."""
    return [reading[field] in values for field, values in named.items()]


def there(drawing: Drawing) -> Readings:
    """The attributes that a drawing has."""
    return {field: value for field, value in labels(drawing).items() if value != NONE}


def share(hits: Iterable[bool]) -> str:
    """A share and the number it is of, for a table."""
    found = list(hits)
    return f"{sum(found) / len(found):.1%} of {len(found)}" if found else "-"


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of two pictures shrunk to 32x32, in levels of 255."""
    small = [np.asarray(picture.resize((32, 32), Image.Resampling.BOX), float) for picture in (a, b)]
    return float(np.abs(small[0] - small[1]).mean())


def image_of(picture: torch.Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] as a picture."""
    levels = ((picture + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
