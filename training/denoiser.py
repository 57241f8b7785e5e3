"""Train the demo set's denoiser of latents: `python -m training.denoiser`, after `training.odds`.

Latents of drawings get noise, fine or in blotches as a long optimisation leaves them, or are those that the
learned start renders of the same draft; the denoiser learns what they were, given the embedding of a caption,
of the picture, or of a mix of these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.denoiser import Denoiser
from LatentRevisions.start import LearnedStart
from LatentRevisions.vqgan import VQGAN
from mead.nn.perceptor import Perceptor
from training.clip import Optimisers, encode_text
from training.drafts import WORN, Drafted, numbers
from training.pictures import tensor
from training.run import DEMO, Average, Run, Stateful, arguments, autocast, export, take_over
from training.start import FACES
from training.world import Face, draw
from training.world.captions import caption

WIDTH, CONDITION, LAYERS = 160, 192, 4
PEAK = 2e-3  # learning rate
FIRST, POOL = 1_024, 16_000  # drawings kept, at first and at most
FRESH = 8  # drawings made at each step
CENTRE, SPREAD = -0.6, 1.2  # of the noise level's logarithm
STARTS = 0.25  # the share of latents that the learned start rendered
START_NOISE = 0.25  # how far these are off, about
WAYS = {"caption": 0.5, "two captions": 0.1, "picture": 0.15, "picture and caption": 0.15, "nothing": 0.1}


class Example(NamedTuple):
    """A drawing, its draft's numbers, its latents in half precision and its embedding."""

    drafted: Drafted
    draft: Tensor
    latents: Tensor
    embedding: Tensor


class Lessons:
    """Drawings, what is said of them, and their latents with noise."""

    def __init__(self, vqgan: VQGAN, perceptor: Perceptor, start: LearnedStart) -> None:
        self.vqgan, self.perceptor, self.start = vqgan, perceptor, start
        self.pool: deque[Example] = deque(maxlen=POOL)

    @torch.no_grad()
    def add(self, rng: np.random.Generator, size: int) -> None:
        """Draw, encode and embed `size` fresh drawings."""
        kinds = [Face if rng.random() < FACES else None for _ in range(size)]
        several = [Drafted.sample(rng, kind, WORN) for kind in kinds]
        for first in range(0, size, 32):
            some = several[first : first + 32]
            pictures = tensor(draw(drafted.drawing) for drafted in some)
            with autocast():
                latents = self.vqgan.encode(pictures).half()
                embeddings = self.perceptor.embed_image(pictures / 2 + 0.5).float()
            self.pool.extend(map(Example, some, map(numbers, some), latents, embeddings))

    @torch.no_grad()
    def next(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents [N, c, h, w], the same with noise, the noise's deviation [N] and hints [N, hints]."""
        several = [self.pool[int(k)] for k in rng.integers(len(self.pool), size=size)]
        latents = torch.stack([example.latents for example in several]).float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        deviation = torch.exp(CENTRE + SPREAD * torch.randn(size, generator=generator))
        noise = noises(latents.shape, generator) * deviation.view(-1, 1, 1, 1)
        few = slice(0, round(STARTS * size))
        drafts = torch.stack([example.draft for example in several[few]])
        rendered = self.start(drafts, (latents.shape[2], latents.shape[3]))
        # beside noise of its own a rendered latent is off by about START_NOISE
        deviation[few] *= 0.5
        noise[few] = noise[few] * 0.5 + rendered - latents[few]
        deviation[few] = (deviation[few].square() + START_NOISE**2).sqrt()
        return latents, latents + noise, deviation, self.hints(several, rng)

    def hints(self, several: Sequence[Example], rng: np.random.Generator) -> Tensor:
        """What is known of each drawing, [N, hints]."""
        ways = rng.choice(list(WAYS), len(several), p=list(WAYS.values()))
        captions = [caption(one.drafted.drawing, rng).text for _ in range(2) for one in several]
        with autocast():
            tokens = self.perceptor.tokenise(captions)
            said, also = F.normalize(encode_text(self.perceptor.model, tokens).float(), dim=-1).chunk(2)
        q = torch.stack([example.embedding for example in several])
        for i, (way, share) in enumerate(zip(ways, rng.uniform(0.2, 1.0, len(several)), strict=True)):
            match way:
                case "caption":
                    q[i] = said[i]
                case "two captions":
                    q[i] = said[i] + share * also[i]
                case "picture and caption":
                    q[i] = q[i] + share * said[i]
        hints = self.start.hints(F.normalize(q, dim=1))
        hints[torch.from_numpy(ways == "nothing")] = 0
        return hints


def noises(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Noise [N, c, h, w] of about unit deviation: white, or in part in blotches of two or four latents."""
    n, channels, height, width = shape
    noise = torch.randn(shape, generator=generator)
    smooth = torch.zeros(shape)
    for side in (2, 4):
        coarse = torch.randn((n, channels, height // side + 1, width // side + 1), generator=generator)
        enlarged = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        smooth += enlarged * (torch.rand((n, 1, 1, 1), generator=generator) < 0.5)
    smooth /= smooth.flatten(1).std(1).clamp_min(1e-3).view(-1, 1, 1, 1)
    blotchy = torch.rand((n, 1, 1, 1), generator=generator) < 0.5
    share = torch.rand((n, 1, 1, 1), generator=generator) * blotchy
    return (1 - share).sqrt() * noise + share.sqrt() * smooth


def loss_of(denoiser: Denoiser, latents: Tensor, noisy: Tensor, deviation: Tensor, hints: Tensor) -> Tensor:
    """The squared error, weighted so that every noise level counts as much (Karras et al., table 1)."""
    with autocast():
        found = denoiser(noisy, deviation, hints)
    clean = denoiser.deviation
    weight = (deviation.square() + clean.square()) / (deviation * clean).square()
    off = (found.float() - latents).square().mean((1, 2, 3))
    return (weight * off).mean()


def main() -> None:
    options = arguments(__doc__, minutes=45, batch=64)
    torch.manual_seed(0)
    vqgan = VQGAN.from_state_dict(load_file(DEMO / "vqgan.safetensors")).requires_grad_(False)
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
    start = LearnedStart.from_state_dict(load_file(DEMO / "start.safetensors")).requires_grad_(False)
    lessons = Lessons(vqgan, perceptor, start)
    lessons.add(np.random.default_rng([22, 0]), 256 if options.export else FIRST)
    latents = torch.stack([example.latents.float() for example in lessons.pool])
    hints = start.hints(lessons.pool[0].embedding[None]).shape[1]
    channels, height, width = latents.shape[1:]
    denoiser = Denoiser(channels, hints, WIDTH, CONDITION, LAYERS, (height, width), float(latents.std()))
    if options.onward:
        take_over("denoiser", denoiser)
    average = Average(denoiser, decay=0.998)
    optimisers = Optimisers(dict(denoiser.named_parameters()))
    parts: dict[str, Stateful] = {"denoiser": denoiser, "average": average}
    parts |= {"muon": optimisers.muon, "adam": optimisers.adam}
    run = Run("denoiser", options.minutes, parts)
    for step in () if options.export else run:
        rng = np.random.default_rng([23, step])
        lessons.add(rng, FRESH)
        loss = loss_of(denoiser, *lessons.next(rng, options.batch))
        optimisers.step(loss, run.rate(PEAK))
        average.update()
        run.log(loss=loss)
    export("denoiser", average.weights)


if __name__ == "__main__":
    main()
