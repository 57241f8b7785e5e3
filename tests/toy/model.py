"""The toy model: a grey that is approached step by step."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mead.model import Model
from mead.nn.optimisers import SGD
from mead.revision import Revision
from tests.toy.spec import ToyParams


class ToyPipeline:
    """Its latents are one number, the shade."""

    def start(self, params: ToyParams) -> Revision:
        """Begin at black."""
        shade = torch.zeros(1, requires_grad=True)
        optimiser = SGD([shade], lr=params.shade / (params.iterations or 3))
        return Revision(shade, optimiser, torch.Generator().manual_seed(params.seed), params.iterations or 3)

    def step(self, revisions: Sequence[Revision]) -> None:
        """Come nearer."""
        for revision in revisions:
            revision.optimiser.zero_grad()
            loss = -revision.latents.sum()
            loss.backward()
            revision.optimiser.step()
            revision.step, revision.loss = revision.step + 1, loss.item()

    def image(self, revision: Revision) -> Image.Image:
        """16 x 16 of it."""
        return Image.new("RGB", (16, 16), (round(revision.latents.item()),) * 3)


def load_pipeline(weights: str, device: str) -> ToyPipeline:
    """Nothing to load."""
    return ToyPipeline()


class Toy(Model):
    """A grey square."""

    def __init__(
        self,
        prompt: str,
        output_path: str = "toy_out",
        *,
        weights: str = "demo",
        callback: Any = None,
        **given: Any,
    ) -> None:
        super().__init__(
            ToyParams, {"prompt": prompt, **given}, load_pipeline, output_path, weights, "cpu", callback
        )
