"""Faces whose edits are finished: what is kept of them to show the edits anew, with another strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mead.imaging.faces import FoundFace, Square


@dataclass(frozen=True)
class FinishedFaces:
    """The faces that a job has edited, and where they are in its photo.

    Attributes:
        before: the latents of each as it was, [N, n_latent, style_dim] or [N, numbers].
        after: the same of the whole edit, of strength 1.
        squares: where the photo's faces are, from the left; just the edited one if not all were looked for,
            none without a photo.
        found: what clients were told of them.
        steps: of the job.
        loss: of its last step.
    """

    before: Tensor
    after: Tensor
    squares: Sequence[Square]
    found: Sequence[FoundFace]
    steps: int
    loss: float

    def state(self) -> dict[str, Tensor]:
        """As tensors by name, see `mead.revision.Revision.state`."""
        squares = [[*square.centre, *square.across] for square in self.squares]
        found = [[*face.box, face.angle] for face in self.found]
        return {
            "before": self.before,
            "after": self.after,
            "squares": torch.tensor(squares, dtype=torch.float64).view(-1, 4),
            "found": torch.tensor(found, dtype=torch.int64).view(-1, 5),
            "steps": torch.tensor(self.steps),
            "loss": torch.tensor(self.loss, dtype=torch.float64),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], shapes: Sequence[tuple[int, ...]]) -> FinishedFaces:
        """What `state` returns.

        Args:
            shapes: that latents of one face may have.

        Raises:
            LookupError, ValueError, RuntimeError: it is something else.
        """
        before, after = state["before"], state["after"]
        if before.shape != after.shape or len(after) == 0 or tuple(after.shape[1:]) not in shapes:
            raise ValueError(f"latents of shapes {tuple(before.shape)} and {tuple(after.shape)}")
        return cls(
            before=before,
            after=after,
            squares=[Square(np.array(row[:2]), np.array(row[2:])) for row in rows(state["squares"], 4)],
            found=[
                FoundFace(number=number, box=row[:4], angle=row[4])
                for number, row in enumerate(rows(state["found"], 5), 1)
            ],
            steps=int(state["steps"]),
            loss=float(state["loss"]),
        )


def rows(table: Tensor, columns: int) -> list[list[Any]]:
    """The rows of a table as lists; RuntimeError if it has other columns."""
    numbers: list[list[Any]] = table.view(-1, columns).tolist()
    return numbers
