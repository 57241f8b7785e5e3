"""Stories: targets that follow one another while a picture is optimised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLEND = 0.1  # share of a chapter in which its target takes over from the one before


class Chapters:
    """Targets, each for an equal share of a job's steps. The last one goes on if the job does.

    Args:
        targets: of unit length, [chapters, d].
        steps: of the job.
    """

    def __init__(self, targets: Tensor, steps: int) -> None:
        self.targets = targets
        self.steps = steps

    def target(self, step: int, targets: Tensor | None = None) -> Tensor:
        """The target [d] of a step, counted from 0.

        Args:
            targets: taken in place of this story's, [chapters, d].
        """
        targets = self.targets if targets is None else targets
        if step >= self.steps:
            return targets[-1]
        chapter, done = self._place(step)
        if chapter == 0 or done >= BLEND:
            return targets[chapter]
        before, now = targets[chapter - 1 : chapter + 1]
        return F.normalize(torch.lerp(before, now, done / BLEND), dim=0)

    def begins(self, step: int) -> bool:
        """Whether a chapter but the first begins with a step, counted from 0."""
        return 0 < step < self.steps and self._place(step)[0] != self._place(step - 1)[0]

    def of(self, step: int) -> int:
        """The chapter that a step, counted from 0, belongs to."""
        return self._place(step)[0]

    def approach(self, steps: int) -> float:
        """What part of the rest of the way latents go, after so many steps, to where their chapter starts.

        They arrive (1.0) when its target has taken over.
        """
        chapter, done = self._place(min(steps, self.steps - 1))
        share = len(self.targets) / self.steps  # of a chapter, that a step is
        return min(1.0, share / (BLEND - done)) if chapter and done < BLEND else 1.0

    def done(self, steps: int) -> float:
        """How much of the current chapter is done after so many steps, at least one."""
        if steps > self.steps:
            return 1.0
        return min(1.0, self._place(steps - 1)[1] + len(self.targets) / self.steps)

    def _place(self, step: int) -> tuple[int, float]:
        """The chapter that a step belongs to, and how much of it is done before the step."""
        chapter, rest = divmod(step * len(self.targets), self.steps)
        return chapter, rest / self.steps
