"""A small real pipeline and its engine, for tests that need no networks and for servers that they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image, ImageColor

from LatentRevisions.params import LatentRevisionsParams
from mead.nn.optimisers import Adam
from mead.queue.jobs import Jobs
from mead.resuming import readable
from mead.revision import Revision
from mead.revision_state import common_state, restore_common
from mead.storage import Storage
from mead.worker.engine import Engine

QUEUE = "latentrevisions_queue"


@dataclass(eq=False)
class ColourRevision(Revision):
    """A picture on its way to one colour."""

    target: torch.Tensor = field(default_factory=lambda: torch.zeros(1, 3, 1, 1))

    def state(self) -> dict[str, torch.Tensor]:
        """It can go on after its last step."""
        return common_state(self)


class ColourPipeline:
    """A small real pipeline: optimises a noisy picture until it has the colour that the prompt names.

    Args:
        room: the most revisions that fit in its memory.
    """

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.batches: list[int] = []  # how many revisions each step advanced

    def start(self, params: LatentRevisionsParams) -> ColourRevision:
        """Raises ValueError if the prompt names no colour."""
        colour = torch.tensor(ImageColor.getrgb(params.prompt)[:3]) / 255
        generator = torch.Generator().manual_seed(params.seed)
        latents = torch.rand(1, 3, 8, 8, generator=generator).requires_grad_()
        optimiser = Adam([latents], lr=0.1)
        return ColourRevision(
            latents, optimiser, generator, params.iterations or 5, target=colour.view(1, 3, 1, 1)
        )

    def resume(self, params: LatentRevisionsParams, state: Mapping[str, torch.Tensor]) -> ColourRevision:
        """Go on where another one has ended."""
        revision = self.start(params)
        with readable():
            restore_common(revision, state)
        return revision

    def step(self, revisions: Sequence[ColourRevision]) -> None:
        """Raises RuntimeError, before anything is changed, if the revisions do not fit together."""
        if len(revisions) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(revisions)}")
        latents = torch.cat([revision.latents for revision in revisions])
        noise = torch.cat([torch.randn(1, 3, 8, 8, generator=revision.generator) for revision in revisions])
        targets = torch.cat([revision.target for revision in revisions])
        losses = (latents + 0.01 * noise - targets).square().flatten(1).mean(1)
        self.batches.append(len(revisions))
        for revision in revisions:
            revision.optimiser.zero_grad()
        losses.sum().backward()
        for revision, loss in zip(revisions, losses, strict=True):
            revision.optimiser.step()
            revision.step += 1
            revision.loss = loss.item()

    def image(self, revision: ColourRevision) -> Image.Image:
        """The picture so far, 8 x 8."""
        pixels = (revision.latents.detach()[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        return Image.fromarray(pixels.numpy())


def make_engine(pipeline: Any, jobs: Jobs, storage: Storage, **changes: Any) -> Engine[Any]:
    """An engine of the worker "me" that runs up to four LatentRevisions jobs at a time."""
    usual = {"params": LatentRevisionsParams, "queue": QUEUE, "worker": "me", "capacity": 4, "pause": 0.1}
    return Engine(pipeline, jobs=jobs, storage=storage, **{**usual, **changes})
