"""Teach the texts of the demo CLIP alone, after `training.clip`: `python -m training.texts`.

Pictures change no more, and are embedded once. Rare words are said as often as common ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mead.nn.perceptor import Perceptor
from training.clip import ATTRIBUTES, Attributes, Optimisers, build, contrast, encode_text, found, tokenise
from training.pictures import batch
from training.run import Average, Run, Stateful, arguments, autocast, export, take_over
from training.world import Drawing
from training.world.captions import Caption, caption

FIRST, POOL = 1_024, 20_000  # drawings kept, at first and at most
FRESH = 16  # drawings made at each step
SEVERAL = 4  # captions, of which the one is taken that says what is rare

Example = tuple[Drawing, Tensor]
"""A drawing and its embedding [d]."""


@torch.no_grad()
def embed(perceptor: Perceptor, pictures: Tensor) -> Tensor:
    """The embeddings [N, d] of pictures [N, 3, 128, 128] in [-1, 1]."""
    with autocast():
        return torch.cat([perceptor.embed_image(some / 2 + 0.5).float() for some in pictures.split(64)])


def make(perceptor: Perceptor, rng: np.random.Generator, size: int) -> list[Example]:
    """`size` fresh drawings."""
    pictures, drawings = batch(rng, size)
    return list(zip(drawings, embed(perceptor, pictures), strict=True))


class Speaker:
    """Says of drawings what it said least so far."""

    def __init__(self) -> None:
        self.said: Counter[tuple[str, frozenset[str]]] = Counter()

    def choose(self, drawings: Sequence[Drawing], rng: np.random.Generator) -> tuple[int, Caption]:
        """The place of one of the drawings, and its caption."""
        captions = [caption(drawing, rng) for drawing in drawings]
        rarest = [min(self.said[named] for named in said.named.items()) for said in captions]
        chosen = int(np.argmin(rarest))
        self.said.update(captions[chosen].named.items())
        return chosen, captions[chosen]


def main() -> None:
    options = arguments(__doc__, minutes=25, batch=128)
    torch.manual_seed(0)
    perceptor, vocabulary = build()
    clip = perceptor.model
    take_over("clip", clip)
    clip.visual.eval()
    for settled in (clip.visual, clip.logit_scale):
        settled.requires_grad_(False)
    attributes = Attributes(clip.text_projection.shape[1])
    average = Average(clip, decay=0.99)
    learning = {name: p for name, p in clip.named_parameters() if p.requires_grad}
    optimisers = Optimisers(learning, attributes.parameters())
    parts: dict[str, Stateful] = {"clip": clip, "attributes": attributes, "average": average}
    parts |= {"muon": optimisers.muon, "adam": optimisers.adam}
    run = Run("texts", 0.0 if options.export else options.minutes, parts)
    speaker = Speaker()
    pool = deque(make(perceptor, np.random.default_rng([14, 0]), 1 if options.export else FIRST), POOL)
    for step in run:
        rng = np.random.default_rng([15, step])
        pool.extend(make(perceptor, rng, FRESH))
        chosen, captions = [], []
        for places in rng.integers(len(pool), size=(options.batch, SEVERAL)):
            several = [pool[int(k)] for k in places]
            one, said_of_it = speaker.choose([drawing for drawing, _ in several], rng)
            chosen.append(several[one])
            captions.append(said_of_it.text)
        images = torch.stack([embedding for _, embedding in chosen])
        truth = Attributes.truth([drawing for drawing, _ in chosen])
        with autocast():
            texts = F.normalize(encode_text(clip, tokenise(perceptor, captions, rng)).float(), dim=-1)
        right_texts, wrong_texts = texts.chunk(2)
        seen, said = attributes(images, truth), attributes(right_texts, truth)
        loss = contrast(images, right_texts, wrong_texts, clip.logit_scale.exp(), captions)
        optimisers.step(loss + ATTRIBUTES * (seen + said), run.rate(1.5e-3))
        average.update()
        run.log(loss=loss, top1=found(images, right_texts), seen=seen, said=said)
    export("clip", {**average.weights, "tokens": vocabulary})


if __name__ == "__main__":
    main()
