"""Train the demo set's mappers of single edits, such as a beard: `python -m training.mapper --name beard`.

Where a face goes follows from what it is drawn by, as for the text-conditional mapper: from its codes to
those of the same face with the beard. A face that has one already is to stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from StyleCLIP.levels_mapper import LEVELS, STEP, LevelMapper, LevelsMapper
from training.drafts import WORN
from training.evaluation.studio import chunks
from training.mapper import Edits
from training.run import Average, Run, Stateful, export
from training.world import Face

FACES = 12_000
LAYERS = {"course_mapping": 3, "medium_mapping": 3}  # the finest codes hardly say what these edits change
PEAK = 0.3  # learning rate
FLOOR = 0.2  # a small change counts as much as one of this share of the mean
TOGETHER = 64  # faces inverted at once


@dataclass(frozen=True)
class NamedEdit:
    """What a mapper makes of a face.

    Attributes:
        field: the attribute it changes, one of `training.world.attributes.FIELDS`.
        value: what that becomes.
        taken: the face's own attributes that say so.
    """

    field: str
    value: str
    taken: Mapping[str, Any]

    def suits(self, face: Face) -> bool:
        """Whether the world has such faces: no women and no children have beards."""
        return self.field != "beard" or (face.gender == "male" and face.age != "child")

    def of(self, face: Face) -> Face:
        """The face, edited."""
        return replace(face, **self.taken)


EDITS = {
    "bald": NamedEdit("hair_style", "bald", {"hair_style": "bald"}),
    "beard": NamedEdit("beard", "beard", {"beard": True}),
    "curly_hair": NamedEdit("hair_style", "curly", {"hair_style": "curly"}),
    "glasses": NamedEdit("glasses", "glasses", {"glasses": True}),
    "smile": NamedEdit("expression", "smile", {"expression": "smile"}),
}


def train(name: str, options: argparse.Namespace, edits: Edits, faces: Sequence[Face], codes: Tensor) -> None:
    """Train a mapper and write its weights.

    Args:
        name: one of EDITS.
        edits: knows the codes that the generator gives faces.
        faces: to learn from.
        codes: as e4e finds theirs, [N, n_latent, style_dim].
    """
    torch.manual_seed(0)
    edit = EDITS[name]
    places = [place for place, face in enumerate(faces) if edit.suits(face)]
    ways = torch.cat([_way(edit, edits, [faces[k] for k in some]) for some in chunks(places, 512)])
    lengths = ways.square().sum(1)
    lengths = lengths.clamp_min(FLOOR * float(lengths.mean()))
    mapper = LevelsMapper(codes.shape[2], LAYERS, standardised=True)
    for level in mapper.levels:
        of_level = mapper.get_submodule(level)
        assert isinstance(of_level, LevelMapper)
        of_level.standardise(codes[:, LEVELS[level]])
    average = Average(mapper, decay=0.995)
    optimiser = torch.optim.Adam(mapper.parameters())
    parts: dict[str, Stateful] = {"mapper": mapper, "average": average, "optimiser": optimiser}
    run = Run(f"mapper_{name}", options.minutes, parts)
    own = codes[places]
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(PEAK)
        chosen = torch.from_numpy(np.random.default_rng([18, step]).integers(len(own), size=options.batch))
        offset = STEP * mapper.offset(own[chosen])
        off = [offset[:, LEVELS[level]] - ways[chosen, None] for level in mapper.levels]
        loss = (torch.cat(off, 1).square().sum(2).mean(1) / lengths[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        run.log(loss=loss)
    export(f"mapper_{name}", average.weights)


def main(options: argparse.Namespace, edits: Edits) -> None:
    """Train the mappers that `options.name` lists."""
    rng = np.random.default_rng(19)
    faces = [Face.sample(rng, odds=WORN) for _ in range(0 if options.export else FACES)]
    codes = torch.cat([edits.inverted(some) for some in chunks(faces, TOGETHER)])
    for name in options.name:
        train(name, options, edits, faces, codes)


@torch.no_grad()
def _way(edit: NamedEdit, edits: Edits, faces: Sequence[Face]) -> Tensor:
    """Where the edit leads the codes of faces, [N, style_dim]."""
    return edits.codes([edit.of(face) for face in faces]) - edits.codes(faces)
