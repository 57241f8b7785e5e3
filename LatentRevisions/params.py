"""The parameters of a LatentRevisions job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mead.params import MAX_CUTOUTS, UPSCALE, JobParams, LossWeight, Prompt, Size, Upscale, Weight


class LatentRevisionsParams(JobParams):
    """A prompt, and the other texts and pictures that pull the picture, each with its weight."""

    WEIGHTS: ClassVar[Mapping[str, str]] = {
        "prompt": "w0",
        "text_to_add": "w1",
        "img_enc_path": "w2",
        "ne_img_enc_path": "w3",
    }

    w0: Weight = Field(5.0, description="Weight of the prompt.")
    text_to_add: Prompt | None = Field(None, description="A second text.")
    w1: Weight = Field(0.0, description="Weight of text_to_add; negative moves away from it.")
    img_path: Path | None = Field(
        None, description="Starter picture: the optimisation begins at its latents."
    )
    img_enc_path: Path | None = Field(None, description="Picture to move towards.")
    w2: Weight = Field(0.0, description="Weight of the picture to move towards.")
    ne_img_enc_path: Path | None = Field(None, description="Picture to move away from.")
    w3: Weight = Field(0.0, description="Weight of the picture to move away from; positive moves away.")
    size: Size | None = Field(
        None,
        description="Width and height in pixels, before `upscale`; the weights set's own size when left out.",
    )
    start: Literal["noise", "learned"] | None = Field(
        None,
        description="Where to start without a starter picture; the weights set's own start when left out.",
    )

    cutouts: int | None = Field(
        None,
        ge=1,
        le=MAX_CUTOUTS,
        description="Random crops CLIP looks at in each step; the weights set's own number when left out.",
    )
    upscale: Upscale | None = Field(None, description=UPSCALE)

    init_weight: LossWeight | None = Field(
        None,
        description="Weight of the mean squared distance from the first latents, which keeps the picture "
        "close to its start; the weights set's own when left out.",
    )
    tv_weight: LossWeight | None = Field(
        None,
        description="Weight of the picture's total variation, which smooths it; the weights set's own when "
        "left out.",
    )

    @model_validator(mode="after")
    def _something_to_aim_at(self) -> LatentRevisionsParams:
        aims = [self.w0]
        aims += [self.w1] if self.text_to_add else []
        aims += [self.w2] if self.img_enc_path else []
        aims += [self.w3] if self.ne_img_enc_path else []
        if not any(aims):
            raise ValueError("w0: every given text and picture has weight 0; give at least one a weight")
        return self

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name to the reason."""
        found = super().without_effect()
        if self.start is not None and self.img_path is not None:
            found["start"] = "the optimisation starts from img"
        return found

    def texts(self) -> dict[str, str]:
        """The texts CLIP reads for this job: field name to text."""
        return super().texts() | ({"text_to_add": self.text_to_add} if self.text_to_add else {})
