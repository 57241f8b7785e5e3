"""Measure the demo set's global directions: `python -m training.directions`, after CLIP, StyleGAN2 and e4e.

How CLIP's embedding of a picture changes when a channel of StyleGAN2's styles goes from its mean less five
deviations to its mean and five, in the codes of a hundred faces, as published; see
`StyleCLIP.global_directions`. The result goes to `weights/demo/directions.safetensors`, what is measured so
far to `RUNS/directions.pt`, from where the same command goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from StyleCLIP.frozen_generator import COLOURS, FrozenGenerator
from StyleCLIP.stylegan2 import Generator
from training.faces import z_of
from training.run import DEMO, RUNS, SAVE_EVERY, export
from training.world import Face

FACES = 100
MANY = 2000  # faces, for means and deviations
REACH = 5.0  # deviations
BATCH = 50  # pictures at once


def styles_of(generator: Generator, count: int, rng: np.random.Generator) -> list[Tensor]:
    """The styles [count, in] of fresh faces."""
    z = torch.stack([z_of(Face.sample(rng)) for _ in range(count)])
    return generator.styles(generator.broadcast(generator.map(z)))


def embed(generator: FrozenGenerator, perceptor: Perceptor, styles: Sequence[Tensor]) -> Tensor:
    """CLIP's embeddings [N, d] of the faces with these styles [N, in]."""
    parts = zip(*(style.split(BATCH) for style in styles), strict=True)
    faces = (generator.synthesise_styles(part).clamp(-1, 1) for part in parts)
    return torch.cat([perceptor.embed_image((face + 1) / 2) for face in faces])


def measure(
    generator: FrozenGenerator, perceptor: Perceptor, styles: Sequence[Tensor], layer: int, ends: Tensor
) -> Tensor:
    """Where a channel moves the embeddings of faces, [d], of unit length.

    Args:
        styles: the faces', [N, in] each.
        layer: whose channel it is.
        ends: [2, in], what to change the styles of this layer to, NaN where they stay.
    """
    embeddings = []
    for end in ends:
        changed = list(styles)
        changed[layer] = torch.where(end.isnan(), styles[layer], end)
        embeddings.append(embed(generator, perceptor, changed))
    moved = F.normalize(embeddings[1] - embeddings[0], dim=1)
    return F.normalize(moved.mean(0), dim=0)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=FACES, help="codes a channel is measured in")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default %(default)s)")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for the result (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = Precision(torch.device("cpu")).dtype
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors")).freeze(dtype)
    trained = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors"))
    generator = trained.freeze(dtype)
    rng = np.random.default_rng(3)
    many = styles_of(trained, MANY, rng)
    styles = styles_of(trained, options.faces, rng)
    layers = [i for i in range(len(many)) if i not in range(len(many))[COLOURS]]
    channels = [(i, channel) for i in layers for channel in range(many[i].shape[1])]

    path = RUNS / "directions.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    table: list[Tensor] = list(torch.load(path, weights_only=True)) if path.exists() else []
    saved = time.monotonic()
    for number, (layer, channel) in enumerate(channels[len(table) :], len(table) + 1):
        mean, deviation = many[layer][:, channel].mean(), many[layer][:, channel].std()
        ends = torch.full((2, many[layer].shape[1]), torch.nan)
        ends[:, channel] = mean + torch.tensor([-REACH, REACH]) * deviation
        table.append(measure(generator, perceptor, styles, layer, ends))
        if time.monotonic() - saved > SAVE_EVERY or number == len(channels):
            partial = path.with_suffix(".partial")
            torch.save(torch.stack(table), partial)
            partial.replace(path)
            saved = time.monotonic()
            print(f"{number} of {len(channels)} channels", flush=True)
    deviations = torch.cat([many[i].std(0, correction=0) for i in layers])
    export("directions", {"table": torch.stack(table), "deviation": deviations}, options.out)


if __name__ == "__main__":
    main()
