"""The state of a StyleCLIP job: the face that is being edited, and the photo that it is from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from math import cos, pi
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mead.nn.losses import Sum
from mead.revision import Revision
from StyleCLIP.photo import PhotoEdit

OF_THE_JOB = frozenset({"generator", "steps", "step", "loss", "started", "faces", "photo", "timelapse"})
"""Fields that stay when a job turns to the next face of its photo."""


@dataclass(eq=False, kw_only=True)
class StyleRevision(Revision):
    """A face being edited: its latents are the codes w+ [1, n_latent, style_dim].

    A job may edit several faces of a photo, one after the other; its steps are those of all of them.
    """

    face: Tensor  # w+ of the face as it was, [1, n_latent, style_dim]
    codes: Tensor  # w+ at the start, [1, n_latent, style_dim]
    features: Tensor  # identity of the face as it was, [1, d]
    learning_rate: float  # at the top of the ramp, see `ramp`
    objective: Sum
    strength: float = 1.0  # how much of the edit the picture shows
    styles: Sequence[Tensor] | None = None  # the edit, [1, in] each, if it was found without optimisation
    photo: PhotoEdit | None = None  # where all of the photo's faces were looked for
    before: Image.Image | None = None  # the face of the photo, as its codes draw it before the edit

    @property
    def shown(self) -> Tensor:
        """The codes of the picture, w+ [1, n_latent, style_dim]."""
        if self.strength == 1:  # to the last bit
            return self.latents
        return self.face + self.strength * (self.latents - self.face)

    @classmethod
    def of_styles(cls, styles: Sequence[Tensor], codes: Tensor, seed: int, **job: Any) -> StyleRevision:
        """An edit that needs no optimisation, of a face's codes w+; its steps have nothing to do."""
        return cls(
            latents=codes,
            optimiser=torch.optim.SGD([codes]),
            generator=torch.Generator(codes.device).manual_seed(seed),
            face=codes,
            codes=codes,
            features=codes.new_empty(1, 0),
            learning_rate=0.0,
            objective=Sum([]),
            styles=styles,
            **job,
        )

    @property
    def done(self) -> float:
        """The share of the face's steps that is done."""
        each = self._steps_of_a_face
        return self.step % each / each

    @property
    def face_is_finished(self) -> bool:
        """Whether the photo has another face to turn to now."""
        if self.photo is None or self.finished:
            return False
        return self.step == self._steps_of_a_face * (len(self.photo.edited) + 1)

    def turn_to(self, other: StyleRevision, after: Image.Image) -> None:
        """Go on with the photo's face that another revision starts with; `after` is the finished one."""
        assert self.photo is not None and self.before is not None
        self.photo.edited.append((self.before, after))
        for field in fields(self):
            if field.name not in OF_THE_JOB:
                setattr(self, field.name, getattr(other, field.name))

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
