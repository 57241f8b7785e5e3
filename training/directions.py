"""Fit the demo set's global directions: `python -m training.directions`, after CLIP and StyleGAN2.

The published table says where each channel of StyleGAN2's styles, changed alone, moves CLIP's embedding of a
picture. In the demo generator a channel alone does nothing in particular: many together draw glasses. And
hair, clothes and backgrounds have their colours from colour layers, which the published table leaves out.

So the table is fitted instead, to the channels of all layers: what it makes of words should be how the styles
of a face with what the words say differ from those of the same face without. It is a linear map, fitted to
edits as the mapper learns from; the words without are found as they are for a job, see `StyleCLIP.neutral`.
The table is of low rank, which takes less space.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mead.nn.perceptor import Perceptor
from mead.weights.sets import WeightSet
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.neutral import Alternatives, neutral_words
from StyleCLIP.stylegan2 import Generator
from training.drafts import WORN
from training.evaluation.studio import chunks
from training.faces import z_of
from training.mapper import edited
from training.pictures import tensor
from training.run import DEMO, export
from training.texts import SEVERAL, Speaker, embed
from training.world import Face, draw
from training.world.attributes import labels
from training.world.captions import Caption
from training.world.colours import COLOURS

EDITS = 10_000
RANK = 72
RIDGE = 3e-4  # against what few edits say
RELEVANT = 0.5  # how relevant the most relevant channel is, on average, so that a beta means something


def styles_of(generator: Generator, faces: Sequence[Face]) -> Tensor:
    """The styles of faces, one after another, [N, numbers].

    A face without a hat has the mean styles of all colours that it might have: its picture does not tell.
    """
    shown = [
        [face] if face.headwear == "hat" else [replace(face, headwear_colour=colour) for colour in COLOURS]
        for face in faces
    ]
    codes = generator.map(torch.stack([z_of(face) for several in shown for face in several]))
    styles = torch.cat(generator.styles(generator.broadcast(codes)), 1)
    return torch.stack([several.mean(0) for several in styles.split(list(map(len, shown)))])


def edits(number: int, rng: np.random.Generator) -> tuple[list[Face], list[Face], list[str]]:
    """Faces, the same with what captions of others say, and these; all that a caption says is new."""
    speaker = Speaker()
    before: list[Face] = []
    after: list[Face] = []
    texts: list[str] = []
    while len(texts) < number:
        face, *others = (Face.sample(rng, odds=WORN) for _ in range(SEVERAL + 1))
        chosen, caption = speaker.choose(others, rng)
        result = edited(face, others[chosen], caption)
        if result != face and not result.held_out and _is_new(caption, face):
            before.append(face)
            after.append(result)
            texts.append(caption.text)
    return before, after, texts


def fit(directions: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
    """A table [channels, RANK] and its basis [RANK, d], which turn directions [N, d] into [N, channels].

    A ridge regression, and of its table what tells most about such directions. Changes are [N, channels].
    """
    ridge = RIDGE * torch.eye(directions.shape[1])
    covariance = directions.T @ directions / len(directions) + ridge
    table = torch.linalg.solve(covariance, directions.T @ changes / len(directions)).T
    root = torch.linalg.cholesky(covariance)
    left, weights, right = torch.linalg.svd(table @ root, full_matrices=False)
    return left[:, :RANK] * weights[:RANK], torch.linalg.solve(root.T, right[:RANK].T).T


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=EDITS, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default %(default)s)")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for the result (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors"))
    own = WeightSet.find("demo").settings("StyleCLIP", Hyperparameters)
    kinds = [Alternatives(words) for words in own.alternatives.strip().splitlines()]

    before, after, texts = edits(options.edits, np.random.default_rng(3))
    pictures = torch.cat([embed(perceptor, tensor(map(draw, some))) for some in chunks(before, 64)])
    neutral = [
        neutral_words(text, picture, kinds, perceptor.embed_text) or own.neutral
        for text, picture in zip(texts, pictures, strict=True)
    ]
    neutral_ends, ends = (
        torch.cat([perceptor.embed_text(some) for some in chunks(said, 256)]) for said in (neutral, texts)
    )
    directions = ends - neutral_ends  # of their own lengths, so that those of several words add up
    styles, goals = (
        torch.cat([styles_of(generator, some) for some in chunks(faces, 64)]) for faces in (before, after)
    )
    deviation = styles.std(0)
    table, basis = fit(directions, (goals - styles) / deviation)
    most_relevant = (F.normalize(directions, dim=1) @ basis.T @ table.T).abs().amax(1)
    table *= RELEVANT / most_relevant.mean()
    export("directions", {"table": table, "basis": basis, "deviation": deviation}, options.out)


def _is_new(caption: Caption, face: Face) -> bool:
    """Whether a face has nothing yet of what a caption says, but for who the person is."""
    shown = labels(face)
    said = {name: values for name, values in caption.telling.items() if name not in ("gender", "age")}
    return not any(shown[name] in values for name, values in said.items())


if __name__ == "__main__":
    main()
