"""Train the demo CLIP on captioned drawings: `python -m training.clip`.

Pictures reach it as cutouts, as they do in LatentRevisions. Each caption has a hard negative with its colours
swapped. One linear reader tells all attributes from the embedding of a picture and from that of its caption
alike, so that both say the same thing in the same directions, things bound to their colours; it is not kept.
The last part of the training is adversarial ("free": the same batch is looked at several times and the
gradient that trains the network also moves the picture), since only a robust CLIP gives gradients that draw
what it reads (Santurkar et al. 2019, arXiv 1906.09453; Shafahi et al. 2019, arXiv 1904.12843).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LatentRevisions.cutouts import Cutouts
from mead.perceptor import VOCABULARY, Perceptor
from training.pictures import batch
from training.run import Average, Run, arguments, autocast, export, take_over
from training.world import Drawing, sample
from training.world.attributes import FIELDS, labels
from training.world.captions import caption, wrong

SIDE = 64
CLEAN_SHARE = 0.7  # of the training, without attacks: first it has to learn what there is to see
REPLAYS = 3
EPSILON = 3.0  # largest L2 size of an adversarial change, on pixels in [0, 1]
ATTRIBUTES = 0.4  # weight of reading them, summed over all, beside the contrast
VIEWS = Cutouts(1, mean=1.15, deviation=0.2, smallest=0.8, largest=1.7, degrees=15, shift=0.05, noise=0.1)


class Attributes(nn.Module):
    """What embeddings [N, d] say of every attribute, and how far that is from the truth."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, sum(map(len, FIELDS.values())))
        self.scale = embed_dim**0.5

    def forward(self, embeddings: Tensor, truth: Tensor) -> Tensor:
        """The cross entropy, summed over attributes and averaged over rows; truth [N, attributes]."""
        parts = self.linear(self.scale * embeddings).split([len(values) for values in FIELDS.values()], 1)
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
        vision_cfg=CLIPVisionCfg(layers=(1, 1, 1, 1), width=24, image_size=SIDE, head_width=64),
        text_cfg=CLIPTextCfg(context_length=40, vocab_size=VOCABULARY, width=128, heads=2, layers=2),
        quick_gelu=True,
    )
    perceptor = Perceptor(model.to(memory_format=torch.channels_last))
    rng = np.random.default_rng(5)
    tokens = perceptor.tokenise([caption(sample(rng), rng).text for _ in range(20_000)]).unique()
    model.token_embedding = TokenEmbedding(tokens, 128)
    return perceptor, tokens


def look(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """One cutout [SIDE, SIDE] of each picture [N, 3, 128, 128] in [0, 1], with colours varied a little."""
    height, width = pictures.shape[2:]
    maps = torch.stack([VIEWS.draw(width, height, generator) for _ in pictures])
    crops = VIEWS.add_noise(VIEWS.cut(pictures, maps, SIDE), generator)
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


def main() -> None:
    options = arguments(__doc__, minutes=45, batch=128)
    torch.manual_seed(0)
    perceptor, vocabulary = build()
    clip = perceptor.model
    if options.onward:
        take_over("clip", clip)
    attributes = Attributes(clip.text_projection.shape[1])
    average = Average(clip, decay=0.995)
    parameters = [*clip.parameters(), *attributes.parameters()]
    decayed = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    parts = {"clip": clip, "attributes": attributes, "average": average, "optimiser": optimiser}
    run = Run("clip", options.minutes, parts)

    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(1.5e-3)
        rng = np.random.default_rng([4, step])
        generator = torch.Generator().manual_seed(step)
        pictures, drawings = batch(rng, options.batch)
        captions = [caption(drawing, rng).text for drawing in drawings]
        truth = attributes.truth(drawings)
        tokens = perceptor.tokenise([*captions, *(wrong(text, rng) for text in captions)])
        # a word now and then becomes another, so that words the world lacks come to mean nothing
        unknown = (torch.rand(tokens.shape, generator=generator) < 0.02) & (tokens > 0) & (tokens < 49406)
        tokens = torch.where(unknown, torch.randint(1000, 40000, tokens.shape, generator=generator), tokens)
        crops = look(pictures / 2 + 0.5, generator)
        strength = max(0.0, run.done - CLEAN_SHARE) / (1 - CLEAN_SHARE)
        radius = EPSILON * strength * torch.rand((len(crops), 1, 1, 1), generator=generator)
        change = torch.zeros_like(crops)
        with autocast():
            texts = F.normalize(clip.encode_text(tokens).float(), dim=-1)
        for _ in range(REPLAYS if run.done > CLEAN_SHARE else 1):
            change.requires_grad_()
            with autocast():
                images = perceptor.embed_image(crops + change)
            right_texts, wrong_texts = texts.chunk(2)
            seen, said = attributes(images, truth), attributes(right_texts, truth)
            loss = contrast(images, right_texts, wrong_texts, clip.logit_scale.exp(), captions)
            loss = loss + ATTRIBUTES * (seen + said)
            optimiser.zero_grad()
            loss.backward()
            assert change.grad is not None
            with torch.no_grad():
                change = change + 0.6 * radius * change.grad / (length(change.grad) + 1e-12)
                change = change * (radius / (length(change) + 1e-12)).clamp_max(1)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            clip.logit_scale.data.clamp_(0, np.log(100))
            average.update()
            # texts learn in the first look only: they cost as much as pictures and are simpler
            texts = texts.detach()
        right = (images @ right_texts.mT).argmax(1) == torch.arange(len(images))
        scale = clip.logit_scale.detach().exp()
        run.log(loss=loss, top1=right.float().mean(), seen=seen, said=said, scale=scale)
    export("clip", {**average.weights, "tokens": vocabulary})


if __name__ == "__main__":
    main()
