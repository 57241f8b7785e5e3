"""Fit the demo set's sliders: `python -m training.sliders`, after `training.stylegan2` and `training.e4e`.

A slider's direction is how codes differ on average between faces of one kind and the same faces of another,
such as children and old people: a regression of codes on that attribute with all others held. WHOLE on the
slider is the whole difference. Its range is as far as the reader sees the attribute grow from step to step on
nearly all of some faces, while half of the range keeps nearly all of the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mead.nn.perceptor import Perceptor
from StyleCLIP.stylegan2 import Generator
from training.drafts import WORN
from training.evaluation.cases import face_fields
from training.levels_mapper import TOGETHER
from training.mapper import Edits
from training.reader import Reader
from training.run import DEMO, export
from training.world import Face
from training.world.attributes import FIELDS

FACES = 2_000  # to fit to
TRIED = 100  # faces to find ranges with
WHOLE = 3.0  # on a slider
STEP, FARTHEST = 0.5, 3.0  # of the positions tried
SLIP = 0.02  # which the reader's odds may go back by from a step to the next
GROWING, KEPT = 0.93, 0.94  # of the faces tried, of their other attributes


@dataclass(frozen=True)
class Ends:
    """What a slider leads from and to.

    Attributes:
        field: the attribute, one of `training.world.attributes.FIELDS`.
        low, high: its values at the ends; None for all others than the other end's.
        attribute: the face's own attribute, and what it is at the ends.
    """

    field: str
    low: str
    high: str | None
    attribute: str
    of_low: Any
    of_high: Any

    def suits(self, face: Face) -> bool:
        """Whether the world has faces of both kinds that are like this one."""
        match self.field:
            case "beard":
                return face.gender == "male" and face.age != "child"
            case "earrings":
                return face.gender == "female"
            case "age":
                return not face.beard
            case "hair_style":  # what curls are to grow to is anybody's guess
                return face.hair_style in (self.low, self.high)
        return True

    def pair(self, face: Face) -> tuple[Face, Face]:
        """The face at both ends."""
        return replace(face, **{self.attribute: self.of_low}), replace(face, **{self.attribute: self.of_high})

    def score(self, probabilities: Sequence[Tensor]) -> Tensor:
        """How much rather the high end than the low one is read, [N] from -1 to 1."""
        values = FIELDS[self.field]
        odds = probabilities[list(FIELDS).index(self.field)]
        high = odds[:, 1:].sum(1) if self.high is None else odds[:, values.index(self.high)]
        return high - odds[:, values.index(self.low)]


SLIDERS = {
    "age": Ends("age", "child", "old", "age", "child", "old"),
    "beard": Ends("beard", "none", "beard", "beard", False, True),
    "crown": Ends("crown", "none", "crown", "headwear", "none", "crown"),
    "earrings": Ends("earrings", "none", "earrings", "earrings", False, True),
    "glasses": Ends("glasses", "none", "glasses", "glasses", False, True),
    "hair_length": Ends("hair_style", "short", "long", "hair_style", "short", "long"),
    "hat": Ends("hat", "none", None, "headwear", "none", "hat"),
    "skin": Ends("skin", "pale", "dark", "skin", "pale", "dark"),
    "smile": Ends("expression", "frown", "smile", "expression", "frown", "smile"),
}


def growing(scores: Tensor) -> Tensor:
    """Whether scores [positions, N] never go back, for each face."""
    return (scores.diff(dim=0) >= -SLIP).all(0)


@torch.no_grad()
def direction(ends: Ends, edits: Edits, faces: Sequence[Face]) -> Tensor:
    """The direction [style_dim] of a slider."""
    lows, highs = zip(*map(ends.pair, filter(ends.suits, faces)), strict=True)
    return (edits.codes(highs) - edits.codes(lows)).mean(0) / WHOLE


class Trial:
    """Faces that sliders are tried on.

    Args:
        faces: drawn.
        codes: w+ as e4e finds them, [N, n_latent, style_dim].
    """

    def __init__(self, faces: Sequence[Face], codes: Tensor, generator: Generator, reader: Reader) -> None:
        self.faces, self.codes = faces, codes
        self.generator = generator.freeze(torch.float32)
        self.reader = reader
        self.before = reader.read(self._pictures(codes))

    @torch.no_grad()
    def run(self, ends: Ends, way: Tensor, positions: Sequence[float]) -> tuple[Tensor, list[float]]:
        """Scores [positions, N] of the faces that suit, and the share of other attributes kept at each."""
        places = [place for place, face in enumerate(self.faces) if ends.suits(face)]
        others = [name for name in face_fields() if name != ends.field]
        scores, kept = [], []
        for position in positions:
            pictures = self._pictures(self.codes[places] + position * way)
            scores.append(ends.score(self.reader.probabilities(pictures)))
            read = self.reader.read(pictures)
            same = [
                now[name] == self.before[place][name]
                for place, now in zip(places, read, strict=True)
                for name in others
            ]
            kept.append(float(np.mean(same)))
        return torch.stack(scores), kept

    def _pictures(self, codes: Tensor) -> Tensor:
        return torch.cat([self.generator.synthesise(some) for some in codes.split(16)]).clamp(-1, 1)


def widest(positions: Sequence[float], scores: Tensor, kept: Sequence[float]) -> tuple[float, float]:
    """The widest range that meets GROWING, and KEPT at half of it on both sides."""

    def meets(least: int, most: int) -> bool:
        halves = [
            kept[i] for i, at in enumerate(positions) if at in (positions[least] / 2, positions[most] / 2)
        ]
        share = float(growing(scores[least : most + 1]).float().mean())
        return share >= GROWING and min(halves, default=1.0) >= KEPT

    middle = list(positions).index(0.0)
    pairs = product(range(middle + 1), range(middle, len(positions)))
    good = [(least, most) for least, most in pairs if meets(least, most)]
    least, most = max(good, key=lambda pair: (pair[1] - pair[0], -abs(pair[0] + pair[1] - 2 * middle)))
    return positions[least], positions[most]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default %(default)s)")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for the result (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors"))
    edits = Edits(perceptor, generator, load_file(DEMO / "e4e.safetensors"))
    rng = np.random.default_rng(41)
    faces = [Face.sample(rng, odds=WORN) for _ in range(FACES)]
    tried = [Face.sample(rng, test=k % 2 == 1) for k in range(TRIED)]
    batches = [tried[first : first + TOGETHER] for first in range(0, TRIED, TOGETHER)]
    trial = Trial(tried, torch.cat([edits.inverted(some) for some in batches]), generator, Reader.load())
    positions = [float(at) for at in np.arange(-FARTHEST, FARTHEST + STEP / 2, STEP)]
    tensors: dict[str, Tensor] = {}
    for name, ends in SLIDERS.items():
        way = direction(ends, edits, faces)
        scores, kept = trial.run(ends, way, positions)
        least, most = widest(positions, scores, kept)
        share = float(growing(scores[positions.index(least) : positions.index(most) + 1]).float().mean())
        print(f"{name} from {least:g} to {most:g}: growing on {share:.0%}, kept {kept}", flush=True)
        tensors |= {f"{name}_direction": way[None], f"{name}_range": torch.tensor([least, most])}
    export("sliders", tensors, options.out)


if __name__ == "__main__":
    main()
