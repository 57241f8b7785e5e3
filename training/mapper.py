"""Train the demo set's latent mapper on edits of faces: `python -m training.mapper`, after `training.texts`,
`training.stylegan2` and `training.e4e`.

An edit is a face, a caption of another face, and the first face with what the caption says taken from the
other. Where both faces are in the space of codes follows from what they are drawn by.

With `--name`, it trains mappers of single edits instead, see `training.levels_mapper`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mead.nn.perceptor import Perceptor
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.stylegan2 import Generator
from training.clip import Optimisers, encode_text
from training.drafts import WORN
from training.faces import z_of
from training.pictures import tensor
from training.run import DEMO, Average, Run, Stateful, arguments, autocast, export
from training.texts import SEVERAL, Speaker
from training.world import Face, draw
from training.world.attributes import labels
from training.world.captions import Caption

WIDTH = 200
PEAK = 3e-3  # learning rate
FIRST, POOL = 1_024, 20_000  # faces and captions kept, at first and at most
FRESH = 8  # faces inverted at each step
SAID = 64  # captions made at each step
SAME_PERSON = 0.7  # how often a caption is looked for that speaks of somebody of the face's own sex and age
LOOKED_AT = 12  # captions, for that


def edited(face: Face, other: Face, said: Caption) -> Face:
    """The face with all that a caption of another names, where it is not so already, as the other has it."""
    shown = labels(face)
    taken: dict[str, Any] = {}
    for name, values in said.named.items():
        if shown[name] in values:
            continue
        match name:
            case "hat":
                taken |= {"headwear": "hat", "headwear_colour": other.headwear_colour}
            case "crown":
                taken |= {"headwear": "crown"}
            case "hair_colour" if face.hair_style == "bald":
                taken |= {"hair_style": other.hair_style, "hair_colour": other.hair_colour}
            case _:
                taken[name] = getattr(other, name)
    after = replace(face, **taken)
    female, child = after.gender == "female", after.age == "child"
    return replace(after, beard=after.beard and not female and not child, earrings=after.earrings and female)


class Edits:
    """Faces inverted, captions of others, and what these make of those."""

    def __init__(self, perceptor: Perceptor, generator: Generator, inversion: Mapping[str, Tensor]) -> None:
        self.perceptor, self.generator = perceptor, generator
        self.average = inversion["latent_avg"].float()
        encoder = {name: tensor for name, tensor in inversion.items() if name != "latent_avg"}
        self.encoder = Encoder4Editing.from_state_dict(encoder)
        self.speaker = Speaker()
        # faces, their codes [style_dim] as e4e finds them, averaged over layers, and as they should be
        self.faces: deque[tuple[Face, Tensor, Tensor]] = deque(maxlen=POOL)
        self.captions: deque[tuple[Face, Caption, Tensor]] = deque(maxlen=POOL)  # and their embeddings

    @torch.no_grad()
    def add(self, rng: np.random.Generator, faces: int, captions: int) -> None:
        """Draw and invert fresh faces, and embed fresh captions."""
        several = [Face.sample(rng, odds=WORN) for _ in range(faces)]
        found = self.inverted(several).mean(1)
        self.faces.extend(zip(several, found, self.codes(several), strict=True))
        others, said = [], []
        for _ in range(captions):
            several = [Face.sample(rng, odds=WORN) for _ in range(SEVERAL)]
            chosen, caption = self.speaker.choose(several, rng)
            others.append(several[chosen])
            said.append(caption)
        tokens = self.perceptor.tokenise([caption.text for caption in said])
        with autocast():
            embeddings = F.normalize(encode_text(self.perceptor.model, tokens).float(), dim=-1)
        self.captions.extend(zip(others, said, embeddings, strict=True))

    @torch.no_grad()
    def next(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes and the way they should go [N, style_dim], embeddings of what is said [N, embed_dim]."""
        found: list[Tensor] = []
        exact, embeddings, results = [], [], []
        while len(found) < size:
            face, code, true_code = self.faces[int(rng.integers(len(self.faces)))]
            said = [self.captions[int(k)] for k in rng.integers(len(self.captions), size=LOOKED_AT)]
            if rng.random() < SAME_PERSON:
                said.sort(key=lambda one: (one[0].gender, one[0].age) != (face.gender, face.age))
            other, caption, embedding = said[0]
            result = edited(face, other, caption)
            if not result.held_out:
                found.append(code)
                exact.append(true_code)
                embeddings.append(embedding)
                results.append(result)
        return torch.stack(found), self.codes(results) - torch.stack(exact), torch.stack(embeddings)

    @torch.no_grad()
    def inverted(self, faces: Sequence[Face]) -> Tensor:
        """The codes w+ of drawings of faces as e4e finds them, [N, n_latent, style_dim]."""
        with autocast():
            codes = [self.encoder(some).float() for some in tensor(map(draw, faces)).split(16)]
        return torch.cat(codes) + self.average

    def codes(self, faces: Sequence[Face]) -> Tensor:
        """The codes that the generator gives faces, [N, style_dim]."""
        return self.generator.map(torch.stack([z_of(face) for face in faces]))


def main() -> None:
    from training import levels_mapper  # which uses this module

    options = arguments(__doc__, minutes=15, batch=512, names=tuple(levels_mapper.EDITS))
    torch.manual_seed(0)
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors"))
    edits = Edits(perceptor, generator, load_file(DEMO / "e4e.safetensors"))
    if options.name:
        levels_mapper.main(options, edits)
        return
    embed_dim = perceptor.model.text_projection.shape[1]
    mapper = LatentMapper(generator.style_dim, embed_dim, WIDTH)
    average = Average(mapper, decay=0.995)
    optimisers = Optimisers(dict(mapper.named_parameters()))
    parts: dict[str, Stateful] = {"mapper": mapper, "average": average}
    parts |= {"muon": optimisers.muon, "adam": optimisers.adam}
    run = Run("mapper", options.minutes, parts)
    edits.add(np.random.default_rng([16, 0]), FIRST, FIRST)
    for step in () if options.export else run:
        rng = np.random.default_rng([17, step])
        edits.add(rng, FRESH, SAID)
        codes, way, embeddings = edits.next(rng, options.batch)
        off = (mapper.offset(codes, embeddings) - way).square().sum(1)
        far = way.square().sum(1)
        loss = (off / far.clamp_min(0.2 * far.mean())).mean()  # a small change counts as much as a large one
        optimisers.step(loss, run.rate(PEAK))
        average.update()
        run.log(loss=loss, off=off.mean() / far.mean())
    export("mapper", average.weights)


if __name__ == "__main__":
    main()
