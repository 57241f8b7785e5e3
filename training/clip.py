"""Train the demo CLIP on captioned drawings: `python -m training.clip`.

Pictures reach it as cutouts, as they do in LatentRevisions. Each caption has a hard negative with its colours
swapped. One linear reader tells all attributes from the embedding of a picture and from that of its caption
alike, so that both say the same thing in the same directions, things bound to their colours; it is not kept.
Later on the training is adversarial ("free": the same batch is looked at several times and the gradient that
trains the network also moves the picture), since only a robust CLIP gives gradients that draw what it reads
(Santurkar et al. 2019, arXiv 1906.09453; Shafahi et al. 2019, arXiv 1904.12843). `training.texts` follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.nn.cutouts import Cutouts
from mead.nn.perceptor import VOCABULARY, Perceptor
from mead.nn.tokeniser import START
from training.muon import Muon
from training.pictures import batch
from training.run import Average, Run, Stateful, arguments, autocast, export, take_over
from training.world import Drawing, sample
from training.world.attributes import FIELDS, labels
from training.world.captions import caption, wrong
from training.world.colours import held_out
from training.world.landscapes import DRAWERS
from training.world.shapes import KINDS

SIDE = 64
CLEAN_SHARE = 0.7  # of the training, without attacks: first it has to learn what there is to see
REPLAYS = 3
# Largest L2 size of an adversarial change, on pixels in [0, 1]. One of 3 undoes any mouth or earring, and a
# network that has to withstand it learns to look past them.
EPSILON = 1.0
ATTRIBUTES = 0.4  # weight of reading them, summed over all, beside the contrast
TEXT_EVERY = 3  # steps: texts are the simpler half to learn, and cost as much as pictures
KEPT = 1024  # drawings from which each batch is taken
VIEWS = Cutouts(
    CutoutHyperparameters(
        cutouts=1,
        cutout_mean=1.15,
        cutout_deviation=0.2,
        cutout_smallest=0.8,
        cutout_largest=1.7,
        cutout_degrees=15,
        cutout_shift=0.05,
        cutout_noise=0.1,
    )
)


class Attributes(nn.Module):
    """What embeddings [N, d] say of every attribute, and how far that is from the truth."""

    unseen: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, sum(map(len, FIELDS.values())))
        self.scale = embed_dim**0.5
        # What is kept for testing is never the truth here, and is not to be taken for untrue either.
        word = dict.fromkeys(DRAWERS, "thing") | dict.fromkeys(KINDS, "shape")
        unseen = [
            name in word and held_out(word[name], name, value)
            for name, values in FIELDS.items()
            for value in values
        ]
        self.register_buffer("unseen", torch.tensor(unseen), persistent=False)

    def forward(self, embeddings: Tensor, truth: Tensor) -> Tensor:
        """The cross entropy, summed over attributes and averaged over rows; truth [N, attributes]."""
        logits = self.linear(self.scale * embeddings).masked_fill(self.unseen, -torch.inf)
        parts = logits.split([len(values) for values in FIELDS.values()], 1)
        return torch.stack([F.cross_entropy(p, t) for p, t in zip(parts, truth.mT, strict=True)]).sum()

    @staticmethod
    def truth(drawings: Sequence[Drawing]) -> Tensor:
        """The index of each attribute's value, [N, attributes]."""
        shown = [labels(drawing) for drawing in drawings]
        return torch.tensor([[FIELDS[name].index(value) for name, value in one.items()] for one in shown])


class TokenEmbedding(nn.Module):
    """Embeddings of the listed token ids [V], and one for all others: a small table to train and to ship."""

    def __init__(self, tokens: Tensor, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(len(tokens) + 1, width))
        self.row = torch.full((VOCABULARY,), len(tokens))
        self.row[tokens] = torch.arange(len(tokens))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(self.row[ids], self.weight)


def build() -> tuple[Perceptor, Tensor]:
    """OpenAI's architecture, small: a ModifiedResNet and a text transformer; and the token ids it knows."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    model = CLIP(
        embed_dim=128,
        vision_cfg=CLIPVisionCfg(layers=(2, 2, 2, 1), width=24, image_size=SIDE, head_width=64),
        text_cfg=CLIPTextCfg(context_length=40, vocab_size=VOCABULARY, width=128, heads=2, layers=2),
        quick_gelu=True,
    )
    perceptor = Perceptor(model.to(memory_format=torch.channels_last))
    rng = np.random.default_rng(5)
    tokens = perceptor.tokenise([caption(sample(rng), rng).text for _ in range(20_000)]).unique()
    model.token_embedding = TokenEmbedding(tokens, 128)
    return perceptor, tokens


def tokenise(perceptor: Perceptor, captions: Sequence[str], rng: np.random.Generator) -> Tensor:
    """The tokens of captions and, behind them, of their hard negatives, [2 N, context].

    A word now and then becomes another, so that words the world lacks come to mean nothing.
    """
    tokens = perceptor.tokenise([*captions, *(wrong(text, rng) for text in captions)])
    unknown = (torch.from_numpy(rng.random(tokens.shape)) < 0.02) & (tokens > 0) & (tokens < START)
    tokens[unknown] = torch.from_numpy(rng.integers(1000, 40000, int(unknown.sum())))
    return tokens


def encode_text(clip: Any, tokens: Tensor) -> Tensor:
    """What `clip.encode_text` makes of tokens [N, context], without the places behind the longest text.

    No place sees those behind it, so they change nothing but take half the time.
    """
    longest = int((tokens > 0).sum(1).max())
    tokens = tokens[:, :longest]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:longest]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:longest, :longest]))
    return x[torch.arange(len(x)), tokens.argmax(1)] @ clip.text_projection


def look(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """One cutout [SIDE, SIDE] of each picture [N, 3, 128, 128] in [0, 1], with colours varied a little."""
    height, width = pictures.shape[2:]
    maps = torch.stack([VIEWS.draw(width, height, generator) for _ in pictures])
    crops = VIEWS.cut(pictures, maps, SIDE) + VIEWS.noise(SIDE, generator)
    gain = 1 + 0.1 * torch.randn((len(crops), 3, 1, 1), generator=generator)
    shift = 0.04 * torch.randn((len(crops), 3, 1, 1), generator=generator)
    return crops * gain + shift


def contrast(images: Tensor, texts: Tensor, hard: Tensor, scale: Tensor, captions: Sequence[str]) -> Tensor:
    """CLIP's loss with hard negatives; a caption that stands twice in the batch is no negative of itself.

    images, texts and hard (the negatives' texts) are [N, d], unit length.
    """
    equal = torch.tensor([[a == b for b in captions] for a in captions])
    twice = equal & ~torch.eye(len(captions), dtype=torch.bool)
    logits = (scale * images @ texts.mT).masked_fill(twice, -1e4)
    negatives = scale * images @ hard.mT
    target = torch.arange(len(images))
    by_image = F.cross_entropy(torch.cat([logits, negatives], 1), target)
    return (by_image + F.cross_entropy(logits.mT, target)) / 2


def length(changes: Tensor) -> Tensor:
    """The L2 size of each of changes [N, 3, H, W]: [N, 1, 1, 1]."""
    return changes.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def found(images: Tensor, texts: Tensor) -> Tensor:
    """The share of images [N, d] that are nearest to their own text [N, d]."""
    return ((images @ texts.mT).argmax(1) == torch.arange(len(images))).float().mean()


class Lessons:
    """Batches of captioned drawings. Drawing takes time: each is looked at about twice."""

    def __init__(self, perceptor: Perceptor, size: int) -> None:
        self.perceptor, self.size = perceptor, size
        self.drawn: deque[tuple[Tensor, Drawing]] = deque(maxlen=KEPT)

    def next(self, rng: np.random.Generator) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """Pictures [N, 3, 128, 128] in [0, 1], their captions, the tokens of these and behind them of their
        hard negatives [2 N, context], and what is there to see [N, attributes].
        """
        self.drawn.extend(zip(*batch(rng, self.size // 2 if self.drawn else self.size), strict=True))
        several = [self.drawn[int(k)] for k in rng.permutation(len(self.drawn))[: self.size]]
        drawings = [drawing for _, drawing in several]
        captions = [caption(drawing, rng).text for drawing in drawings]
        pictures = torch.stack([picture for picture, _ in several]) / 2 + 0.5
        return pictures, captions, tokenise(self.perceptor, captions, rng), Attributes.truth(drawings)


class Optimisers:
    """Muon for a network's matrices, Adam for whatever else there is to learn."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], others: Iterable[nn.Parameter] = ()) -> None:
        matrices = {k: p for k, p in parameters.items() if p.ndim >= 2 and "embedding" not in k}
        others = [*(p for k, p in parameters.items() if k not in matrices), *others]
        self.muon = Muon([{"params": list(matrices.values()), "weight_decay": 0.05}], lr=0.0)
        self.adam = torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98))
        self.parameters = [*matrices.values(), *others]

    def step(self, loss: Tensor, rate: float) -> None:
        """Go a step down from `loss`, with gradients no longer than 1."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, factor in ((self.muon, 2.0), (self.adam, 1.0)):
            for group in optimiser.param_groups:
                group["lr"] = factor * rate
            optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None


def train(
    run: Run, lessons: Lessons, attributes: Attributes, average: Average, optimisers: Optimisers
) -> None:
    """Pictures and texts learn from each other; in the end pictures under attack."""
    perceptor = lessons.perceptor
    clip = perceptor.model
    for step in run:
        pictures, captions, tokens, truth = lessons.next(np.random.default_rng([4, step]))
        generator = torch.Generator().manual_seed(step)
        crops = look(pictures, generator)
        strength = max(0.0, run.done - CLEAN_SHARE) / (1 - CLEAN_SHARE)
        radius = EPSILON * strength * torch.rand((len(crops), 1, 1, 1), generator=generator)
        change = torch.zeros_like(crops)
        with autocast(), torch.set_grad_enabled(step % TEXT_EVERY == 0):
            texts = F.normalize(encode_text(clip, tokens).float(), dim=-1)
        for _ in range(REPLAYS if run.done > CLEAN_SHARE else 1):
            change.requires_grad_()
            with autocast():
                images = perceptor.embed_image(crops + change)
            right_texts, wrong_texts = texts.chunk(2)
            seen, said = attributes(images, truth), attributes(right_texts, truth)
            loss = contrast(images, right_texts, wrong_texts, clip.logit_scale.exp(), captions)
            loss = loss + ATTRIBUTES * (seen + said)
            optimisers.step(loss, run.rate(1.5e-3))
            assert change.grad is not None
            with torch.no_grad():
                change = change + 0.6 * radius * change.grad / (length(change.grad) + 1e-12)
                change = change * (radius / (length(change) + 1e-12)).clamp_max(1)
            clip.logit_scale.data.clamp_(0, np.log(100))
            average.update()
            texts = texts.detach()  # they learn in the first look only
        scale = clip.logit_scale.exp()
        run.log(loss=loss, top1=found(images, right_texts), seen=seen, said=said, scale=scale)


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=128)
    torch.manual_seed(0)
    perceptor, vocabulary = build()
    clip = perceptor.model
    if options.onward:
        take_over("clip", clip)
    attributes = Attributes(clip.text_projection.shape[1])
    average = Average(clip, decay=0.995)
    optimisers = Optimisers(dict(clip.named_parameters()), attributes.parameters())
    parts: dict[str, Stateful] = {"clip": clip, "attributes": attributes, "average": average}
    parts |= {"muon": optimisers.muon, "adam": optimisers.adam}
    run = Run("clip", 0.0 if options.export else options.minutes, parts)
    train(run, Lessons(perceptor, options.batch), attributes, average, optimisers)
    export("clip", {**average.weights, "tokens": vocabulary})


if __name__ == "__main__":
    main()
