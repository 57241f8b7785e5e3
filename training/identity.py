"""Train the demo identity network on drawn faces: `python -m training.identity`.

Two drawings of one person share skin, sex, age and the shape of the face; everything an edit may change
(hair, eyes' colour, glasses, beard, mouth, headwear, clothes, background) differs. Their features are to be
closer than those of different people.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from StyleCLIP.identity import Identity
from training.pictures import tensor
from training.run import Average, Run, arguments, autocast, export
from training.world import draw
from training.world.draft import Draft
from training.world.faces import CHOICES, MEASURES, Face

# What one person keeps.
PERSON = {
    "gender",
    "age",
    "skin",
    "skin_shade",
    "head_width",
    "head_height",
    "eye_spacing",
    "eye_size",
    "brow",
    "mouth_width",
    "nose",
}


def build() -> Identity:
    return Identity(widths=(16, 32, 48), blocks=(1, 2, 1), embed_dim=64, input_size=56)


def pairs(rng: np.random.Generator, size: int) -> Tensor:
    """Two drawings each of `size` people, one after the other: [2 * size, 3, 128, 128] in [-1, 1]."""
    faces = []
    for _ in range(size):
        one, other = (Draft.sample(rng, CHOICES, MEASURES) for _ in range(2))
        chosen = {name: one.chosen[name] if name in PERSON else other.chosen[name] for name in CHOICES}
        measures = {name: one.measures[name] if name in PERSON else other.measures[name] for name in MEASURES}
        faces += [Face.of(one), Face.of(Draft(chosen, measures))]
    return tensor(map(draw, faces))


def main() -> None:
    options = arguments(__doc__, minutes=10, batch=48)
    torch.manual_seed(0)
    identity = build()
    average = Average(identity, decay=0.99)
    optimiser = torch.optim.AdamW(identity.parameters(), lr=1e-3, weight_decay=0.02)
    run = Run("identity", options.minutes, {"identity": identity, "average": average, "optimiser": optimiser})
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(2e-3)
        pictures = pairs(np.random.default_rng([6, step]), options.batch)
        pictures = pictures + 0.1 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(pictures)
        with autocast():
            features = identity.of_face(pictures)
        first, second = features[0::2], features[1::2]
        logits = 12 * first @ second.mT
        people = torch.arange(len(first))
        loss = (F.cross_entropy(logits, people) + F.cross_entropy(logits.mT, people)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        run.log(loss=loss, top1=(logits.argmax(1) == people).float().mean())
    export("identity", average.weights)


if __name__ == "__main__":
    main()
