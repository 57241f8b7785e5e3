"""The state of a StyleCLIP job: the face that is being edited, and the photo that it is from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from math import cos, pi
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mead.imaging.faces import Square
from mead.nn.losses import Sum
from mead.nn.optimisers import SGD
from mead.revision import Revision
from StyleCLIP.finished import FinishedFaces
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.photo import PhotoEdit
from StyleCLIP.refinement import Refinement
from StyleCLIP.spaces import StyleRange

OF_THE_JOB = frozenset(("params", "generator", "steps", "step", "loss", "started", "timelapse"))
OF_THE_JOB |= frozenset(("photo", "faces", "squares", "turns", "notes"))
"""Fields that stay when a job turns to the edit of a refined face, or to the next face of its photo."""


@dataclass(eq=False, kw_only=True)
class StyleRevision(Revision):
    """A face being edited. Its latents are of one of the spaces of `StyleCLIP.spaces`.

    A job may edit several faces of a photo, one after the other; its steps are those of all of them. Each
    face's codes may be refined first.
    """

    params: StyleCLIPParams
    face: Tensor  # the latents of the face as it was
    codes: Tensor  # the latents at the start
    features: Tensor  # identity of the face as it was, [1, d]
    learning_rate: float  # at the top of the ramp, see `ramp`
    objective: Sum
    optimises: bool = True  # else the edit was found in one pass
    beside: Tensor | None = None  # what sliders add to the latents
    strength: float = 1.0  # how much of the edit the picture shows
    styles: StyleRange | None = None  # where a strength above 1 ends; None: nowhere
    refinement: Refinement | None = None  # while the face's codes are refined
    refine: int = 0  # steps that each face's refinement takes
    photo: PhotoEdit | None = None  # where all of the photo's faces were looked for
    squares: Sequence[Square] = ()  # where its faces are; only the edited one if not all were looked for
    before: Image.Image | None = None  # the face of the photo, as its codes draw it before the edit
    turns: list[StyleRevision] = field(default_factory=list)  # the photo's faces that are finished

    @property
    def edited(self) -> Tensor:
        """The latents of the whole edit, of strength 1."""
        return self.latents if self.beside is None else self.latents + self.beside

    @property
    def shown(self) -> Tensor:
        """The latents of the picture."""
        if self.refinement is not None:
            return self.latents
        if self.strength == 1:  # to the last bit
            return self.edited
        if self.strength > 1 and self.styles is not None:
            return self.styles.beyond(self.face, self.edited, self.strength)
        return self.face + self.strength * (self.edited - self.face)

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """As `Revision.state`, of all faces of its photo."""
        turns = [*self.turns, self]
        before, after = torch.cat([turn.face for turn in turns]), torch.cat([turn.edited for turn in turns])
        return FinishedFaces(before, after, self.squares, self.faces, self.steps, self.loss).state()

    @classmethod
    def found(cls, face: Tensor, edited: Tensor, params: StyleCLIPParams, **job: Any) -> StyleRevision:
        """An edit that needs no optimisation; its steps have nothing to do."""
        return cls(
            latents=edited,
            optimiser=SGD([edited]),
            generator=torch.Generator(edited.device).manual_seed(params.seed),
            params=params,
            face=face,
            codes=edited,
            features=edited.new_empty(1, 0),
            learning_rate=0.0,
            objective=Sum([]),
            optimises=False,
            strength=params.strength,
            **job,
        )

    @property
    def done(self) -> float:
        """The share that is done of the face's steps that edit it, or that refine it."""
        step = self.step % self._steps_of_a_face
        if self.refinement is not None:
            return step / self.refine
        return (step - self.refine) / (self._steps_of_a_face - self.refine)

    @property
    def is_refined(self) -> bool:
        """Whether its face's refinement has just ended."""
        return self.refinement is not None and self.step % self._steps_of_a_face >= self.refine

    @property
    def face_is_finished(self) -> bool:
        """Whether the photo has another face to turn to now."""
        if self.photo is None or self.finished:
            return False
        return self.step == self._steps_of_a_face * (len(self.photo.edited) + 1)

    def turn_to(self, other: StyleRevision) -> None:
        """Go on with what another revision starts with: the edit of a refined face, or the next face."""
        for each in fields(self):
            if each.name not in OF_THE_JOB:
                setattr(self, each.name, getattr(other, each.name))

    def finish_face(self, after: Image.Image) -> None:
        """Keep a finished face of the photo; `after` shows it."""
        assert self.photo is not None and self.before is not None
        self.turns.append(copy.copy(self))
        self.photo.edited.append((self.before, after))

    def enlarge(self, picture: Image.Image) -> Iterator[Image.Image | None]:
        """Enlarge the finished face, and paste it into the photo if the job asks for that, in parts.

        Yields:
            None after each part but the last, so that other work can be done meanwhile; then the picture.
        """
        if self.photo is None or self.before is None or self.photo.output == "face":
            yield from super().enlarge(picture)
        else:
            yield from self.photo.finished(self.before, picture, super().enlarge)

    @property
    def _steps_of_a_face(self) -> int:
        return self.steps if self.photo is None else self.steps // len(self.photo.chosen)


def ramp(done: float, up: float = 0.05, down: float = 0.25) -> float:
    """The learning rate's factor once the share `done` of the steps is done: linear up, a cosine down."""
    falling = min(1.0, (1 - done) / down)
    return (1 - cos(pi * falling)) / 2 * min(1.0, done / up)
