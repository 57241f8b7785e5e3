"""Teach the demo set's learned start to read embeddings: `python -m training.odds`.

After `training.start` and `training.texts`. It learns how likely each outcome of a draft's choices is, given
the embedding of a caption, of a picture, or of a mix as LatentRevisions makes its targets: of two captions,
of a caption and a picture, of a caption less something else, or less a part of its own. Rare words are said
as often as common ones.

Two things are learned from words alone. Combinations that are held out of all pictures are said: who is never
told of a green car takes the flower beside it to be the green one. And words that CLIP has not learned stand
in captions: what is said beside them counts, and a caption of nothing else is a landscape or a face.
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

from LatentRevisions.start import LearnedStart
from mead.nn.perceptor import Perceptor
from training.clip import Attributes, encode_text
from training.drafts import NOT_SEEN, Drafted, outcomes
from training.pictures import tensor
from training.run import DEMO, Average, Run, arguments, autocast, export
from training.texts import SEVERAL, Speaker, embed
from training.world import Drawing, Face, Landscape, draw
from training.world.attributes import FIELDS, labels
from training.world.captions import Caption, caption

FIRST, POOL = 1_024, 20_000  # drawings kept, at first and at most
FRESH = 8  # drawings made at each step
# How often a target is mixed in each way: "also" is a second caption, "a part" one that says less.
WAYS = {
    "said": 0.5,
    "said and also": 0.12,
    "picture": 0.07,
    "picture and said": 0.06,
    "said less another picture": 0.05,
    "said less another's words": 0.05,
    "said less a part": 0.15,
}
HEARD = 24  # captions at each step that are learned from words alone
NEVER_DRAWN = 4_000  # drafts of combinations held out of all pictures
# Words the world lacks, which are all one to CLIP, and how captions take them in.
UNKNOWN = ("cat", "astronaut", "castle", "dragon", "oil painting", "rotes Haus", "robots", "Tokyo")
BESIDE = (
    "{said} and a {word}",
    "a {word} and {said}",
    "{said} with {word}",
    "{word}, {said}",
    "{word} {said}",
)
ALONE = ("a {word}", "{word}", "a {word} {other}", "an {word} of a {other}", "the {word} in {other}")
# How much of a part is taken away. A caption's cosine to its part is about 0.85, and with half the part taken
# away still 0.5.
TAKEN = (0.65, 1.1)
TRIES = 12  # to find a part of a caption
KIND = ("gender", "sky")  # only faces have the one, only landscapes the other
ATTRIBUTE = {name: place for place, name in enumerate(FIELDS)}


class Example(NamedTuple):
    """A drawing, its embedding [d], and what it shows: the index of each attribute's value [attributes]."""

    drafted: Drafted
    embedding: Tensor
    shown: Tensor


def make(perceptor: Perceptor, rng: np.random.Generator, size: int) -> list[Example]:
    """`size` fresh drawings."""
    several = [Drafted.sample(rng) for _ in range(size)]
    drawings = [one.drawing for one in several]
    embeddings = embed(perceptor, tensor(map(draw, drawings)))
    return [Example(*each) for each in zip(several, embeddings, Attributes.truth(drawings), strict=True)]


def part_of(said: Caption, drawing: Drawing, rng: np.random.Generator) -> Caption:
    """A caption that names some of what `said` names of the drawing; any caption if that is hard to find."""
    for _ in range(TRIES):
        part = caption(drawing, rng)
        if part.telling and set(part.telling) < set(said.telling):
            break
    return part


def less(example: Example, said: Caption, part: Caption, shown: Tensor) -> Tensor:
    """The places of drawings for which all that is said of the example is true, but none of the part.

    Args:
        shown: what each drawing shows, as `Example.shown`, [N, attributes].
    """
    fits = torch.ones(len(shown), dtype=torch.bool)
    for name in KIND:
        fits &= (shown[:, ATTRIBUTE[name]] > 0) == bool(example.shown[ATTRIBUTE[name]] > 0)
    for name, values in {**said.telling, **part.telling}.items():
        true = torch.tensor([value in values for value in FIELDS[name]])
        fits &= true[shown[:, ATTRIBUTE[name]]] ^ (name in part.telling)
    return fits.nonzero()[:, 0]


@torch.no_grad()
def lesson(
    perceptor: Perceptor, pool: Sequence[Example], speaker: Speaker, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Embeddings [size, d] of unit length, and the outcomes that they should lead to [size, choices]."""
    shown = torch.stack([example.shown for example in pool])
    ways = rng.choice(list(WAYS), size, p=list(WAYS.values()))
    examples, first, second = [], [], []
    for places, way in zip(rng.integers(len(pool), size=(size, SEVERAL)), ways, strict=True):
        several = [pool[int(k)] for k in places]
        chosen, rare = speaker.choose([example.drafted.drawing for example in several], rng)
        drawing = several[chosen].drafted.drawing
        examples.append(several[chosen])
        first.append(rare)
        second.append(part_of(rare, drawing, rng) if way == "said less a part" else caption(drawing, rng))
    tokens = perceptor.tokenise([said.text for said in (*first, *second)])
    with autocast():
        said, also = F.normalize(encode_text(perceptor.model, tokens).float(), dim=-1).chunk(2)
    seen = torch.stack([example.embedding for example in examples])
    q, wanted = said.clone(), []
    for i, (example, share) in enumerate(zip(examples, rng.uniform(0.2, 1.0, size), strict=True)):
        drafted, named, other = example.drafted, set(first[i].named), (i + 1) % size
        match ways[i]:
            case "said and also":
                q[i] += share * also[i]
                named |= set(second[i].named)
            case "picture" | "picture and said":
                q[i] = seen[i] + (share * said[i] if ways[i] == "picture and said" else 0.0)
                named = {name for name, value in labels(drafted.drawing).items() if value != "none"}
            case "said less another picture":
                q[i] -= 0.6 * share * seen[other]
            case "said less another's words":
                q[i] -= 0.6 * share * said[other]
            case "said less a part":
                fitting = less(example, first[i], second[i], shown)
                if len(fitting):
                    q[i] -= rng.uniform(*TAKEN) * also[i]
                    drafted = pool[int(rng.choice(fitting))].drafted
                    named -= set(second[i].named)
        wanted.append(outcomes(drafted, named))
    return F.normalize(q, dim=1), torch.stack(wanted)


@torch.no_grad()
def hearsay(
    perceptor: Perceptor, never_drawn: Sequence[Drafted], size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A `lesson` in words alone: of drafts that are never drawn, and with words that CLIP has not learned."""
    texts, wanted = [], []
    for way in rng.choice(["never drawn", "beside", "alone"], size, p=[0.5, 0.3, 0.2]):
        word, other = rng.choice(UNKNOWN, 2)
        if way == "never drawn":
            drafted = never_drawn[int(rng.integers(len(never_drawn)))]
        else:
            drafted = Drafted.sample(rng, Face if rng.random() < 0.4 else Landscape)
        said, named = caption(drafted.drawing, rng), set[str]()
        text = str(rng.choice(ALONE)).format(word=word, other=other)
        if way != "alone":
            named = set(said.named)
            text = said.text
        if way == "beside":
            text = str(rng.choice(BESIDE)).format(said=said.text, word=word)
        texts.append(text)
        wanted.append(outcomes(drafted, named))
    with autocast():
        q = F.normalize(encode_text(perceptor.model, perceptor.tokenise(texts)).float(), dim=-1)
    return q, torch.stack(wanted)


def surprise(odds: list[Tensor], wanted: Tensor) -> Tensor:
    """The cross entropy of the outcomes wanted [N, choices], summed over choices, averaged over rows."""
    parts = [
        F.cross_entropy(logits, outcome, ignore_index=NOT_SEEN, reduction="sum")
        for logits, outcome in zip(odds, wanted.unbind(1), strict=True)
    ]
    return torch.stack(parts).sum() / len(wanted)


def main() -> None:
    options = arguments(__doc__, minutes=15, batch=128)
    torch.manual_seed(0)
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
    network = LearnedStart.from_state_dict(load_file(DEMO / "start.safetensors"))
    reading = [p for name, p in network.named_parameters() if name.startswith("odds")]
    average = Average(network, decay=0.995)
    optimiser = torch.optim.AdamW(reading, lr=1e-3, weight_decay=0.05)
    run = Run("odds", options.minutes, {"network": network, "average": average, "optimiser": optimiser})
    speaker = Speaker()
    pool = deque(make(perceptor, np.random.default_rng([11, 0]), 1 if options.export else FIRST), POOL)
    rng = np.random.default_rng([13, 0])
    never_drawn = [Drafted.sample(rng, held_out=True) for _ in range(1 if options.export else NEVER_DRAWN)]
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(2e-3)
        rng = np.random.default_rng([12, step])
        pool.extend(make(perceptor, rng, FRESH))
        lessons = (
            lesson(perceptor, pool, speaker, options.batch, rng),
            hearsay(perceptor, never_drawn, HEARD, rng),
        )
        q, wanted = (torch.cat(each) for each in zip(*lessons, strict=True))
        odds = surprise(network.odds(q), wanted)
        optimiser.zero_grad()
        odds.backward()
        optimiser.step()
        average.update()
        run.log(odds=odds)
    export("start", average.weights)


if __name__ == "__main__":
    main()
