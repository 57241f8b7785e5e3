"""Teach the demo set's learned start to read embeddings: `python -m training.odds`.

After `training.start` and `training.texts`. It learns how likely each outcome of a draft's choices is, given
the embedding of a caption, of a picture, or of a mix as LatentRevisions makes its targets: of two captions,
of a caption and a picture, or of a caption less something else. Rare words are said as often as common ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.start import LearnedStart
from mead.perceptor import Perceptor
from training.clip import encode_text
from training.drafts import NOT_SEEN, Drafted, outcomes
from training.pictures import tensor
from training.run import DEMO, Average, Run, arguments, autocast, export
from training.texts import SEVERAL, Speaker, embed
from training.world import draw
from training.world.attributes import labels
from training.world.captions import caption

FIRST, POOL = 1_024, 20_000  # drawings kept, at first and at most
FRESH = 8  # drawings made at each step

Example = tuple[Drafted, Tensor]
"""A drawing and its embedding [d]."""


def make(perceptor: Perceptor, rng: np.random.Generator, size: int) -> list[Example]:
    """`size` fresh drawings."""
    several = [Drafted.sample(rng) for _ in range(size)]
    pictures = tensor(draw(one.drawing) for one in several)
    return list(zip(several, embed(perceptor, pictures), strict=True))


@torch.no_grad()
def lesson(
    perceptor: Perceptor, pool: Sequence[Example], speaker: Speaker, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Embeddings [size, d] of unit length, and the outcomes that they should lead to [size, choices]."""
    examples, first, second = [], [], []
    for places in rng.integers(len(pool), size=(size, SEVERAL)):
        several = [pool[int(k)] for k in places]
        chosen, rare = speaker.choose([drafted.drawing for drafted, _ in several], rng)
        examples.append(several[chosen])
        first.append(rare)
        second.append(caption(several[chosen][0].drawing, rng))
    tokens = perceptor.tokenise([said.text for said in (*first, *second)])
    with autocast():
        said, also = F.normalize(encode_text(perceptor.model, tokens).float(), dim=-1).chunk(2)
    seen = torch.stack([embedding for _, embedding in examples])
    ways, shares = rng.random(len(examples)), rng.uniform(0.2, 1.0, len(examples))
    q, wanted = said.clone(), []
    for i, (drafted, _) in enumerate(examples):
        named, other = set(first[i].named), (i + 1) % len(examples)
        if 0.55 <= ways[i] < 0.7:
            q[i] += shares[i] * also[i]
            named |= set(second[i].named)
        elif 0.7 <= ways[i] < 0.85:
            q[i] = seen[i] + (0.0 if ways[i] < 0.78 else shares[i]) * said[i]
            named = {name for name, value in labels(drafted.drawing).items() if value != "none"}
        elif ways[i] >= 0.85:
            q[i] -= 0.6 * shares[i] * (seen[other] if ways[i] < 0.92 else said[other])
        wanted.append(outcomes(drafted, named))
    return F.normalize(q, dim=1), torch.stack(wanted)


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
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(2e-3)
        rng = np.random.default_rng([12, step])
        pool.extend(make(perceptor, rng, FRESH))
        q, wanted = lesson(perceptor, pool, speaker, options.batch, rng)
        odds = surprise(network.odds(q), wanted)
        optimiser.zero_grad()
        odds.backward()
        optimiser.step()
        average.update()
        run.log(odds=odds)
    export("start", average.weights)


if __name__ == "__main__":
    main()
