"""The parameters of a LatentRevisions job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from LatentRevisions.hyperparameters import Hyperparameters
from mead.params import (
    MAX_CUTOUTS,
    MAX_ITERATIONS,
    UPSCALE,
    JobParams,
    LossWeight,
    Prompt,
    Size,
    Upscale,
    Weight,
)
from mead.weighted_texts import StoryTexts, WeightedText, WeightedTexts, story_texts, weighted_texts
from mead.weights.sets import WeightSet


class LatentRevisionsParams(JobParams):
    """A prompt, and the other texts and pictures that pull the picture, each with its weight."""

    WEIGHTS: ClassVar[Mapping[str, str]] = {
        "prompt": "w0",
        "text_to_add": "w1",
        "img_enc_path": "w2",
        "ne_img_enc_path": "w3",
    }

    MASKS: ClassVar[frozenset[str]] = frozenset({"mask"})

    w0: Weight = Field(5.0, description="Weight of the prompt.")
    text_to_add: Prompt | None = Field(None, description="A second text.")
    w1: Weight = Field(0.0, description="Weight of text_to_add; negative moves away from it.")
    prompts: WeightedTexts | None = Field(
        None,
        description='Further texts, each with its weight, as in "at night:2 | blurry:-1": separated by |, '
        "and the weight is the number behind the last colon, or 1; negative moves away. At most 16. A text "
        "that itself ends with a colon and a number needs a weight behind it: 16:9:1.",
    )
    story: StoryTexts | None = Field(
        None,
        description='What the picture becomes after the prompt, one text after another, as in "at sunset ^ '
        'at night": separated by ^, at most 16. The prompt and each text have an equal share of the steps, '
        "and the weight w0.",
    )
    img_path: Path | None = Field(
        None, description="Starter picture: the optimisation begins at its latents."
    )
    mask_path: Path | None = Field(
        None,
        description="What of the starter picture may change: what is white in it, or, if a part of it is "
        "transparent, what is transparent; grey for partly. It is stretched over the starter picture. The "
        "rest of the starter picture stays as it is.",
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
        description="Where to start without a starter picture, or in what a mask lets change of it; the "
        "weights set's own start when left out. learned needs weights with the network `start`.",
    )

    cutouts: int | None = Field(
        None,
        ge=1,
        le=MAX_CUTOUTS,
        description="Random crops CLIP looks at in each step; the weights set's own number when left out.",
    )
    upscale: Upscale | None = Field(None, description=UPSCALE)

    patience: int | None = Field(
        None,
        ge=0,
        le=MAX_ITERATIONS,
        description="End early once the loss has not fallen, on average, in so many steps; 0: take them all. "
        "The weights set's own when left out, but 0 with `iterations`. A job with a story, or with noise "
        "that a denoiser removes step by step, takes them all first.",
    )

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
        aims += [weight for _, weight in self.weighted_prompts]
        aims += [self.w2] if self.img_enc_path else []
        aims += [self.w3] if self.ne_img_enc_path else []
        if not any(aims):
            raise ValueError("w0: every given text and picture has weight 0; give at least one a weight")
        return self

    @model_validator(mode="after")
    def _mask_of_a_starter(self) -> LatentRevisionsParams:
        if self.mask_path is not None and self.img_path is None:
            raise ValueError("mask: says what of img may change, and there is no img; send one")
        return self

    def notes(self, weights: WeightSet) -> tuple[str, ...]:
        """What else a job's client should know with a weights set: that seeds make little difference."""
        own = weights.settings("LatentRevisions", Hyperparameters)
        begins_with_starter = self.img_path is not None and self.mask_path is None
        if self.n == 1 or not begins_with_starter or own.starter_start != "changed":
            return ()
        return (f"the {self.n} pictures hardly differ: they all start at img with the same drawn into it",)

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name to the reason."""
        found = super().without_effect()
        for text, weight in self.weighted_prompts:
            if weight == 0:
                found[f'"{text}" in prompts'] = "its weight is 0"
        if self.story is not None and self.w0 == 0:
            found["story"] = "its weight w0 is 0"
        if self.start is not None and self.img_path is not None and self.mask_path is None:
            found["start"] = "the optimisation starts from img"
        return found

    def optional_networks(self) -> dict[str, str]:
        """The networks that this job needs and a weights set may lack, each by the field that asks for it."""
        needed = super().optional_networks()
        if self.start == "learned" and "start" not in self.without_effect():
            needed["start"] = "start"
        return needed

    @property
    def weighted_prompts(self) -> tuple[WeightedText, ...]:
        """The texts of `prompts`."""
        return weighted_texts(self.prompts) if self.prompts else ()

    @property
    def chapters(self) -> tuple[str, ...]:
        """The prompt, and the texts of `story` that follow it."""
        return (self.prompt, *(story_texts(self.story) if self.story else ()))

    def texts(self) -> list[tuple[str, str]]:
        """The texts CLIP reads for this job, each with the name of its field, which may have several."""
        found = super().texts()
        if self.text_to_add:
            found.append(("text_to_add", self.text_to_add))
        found += [("prompts", text) for text, _ in self.weighted_prompts]
        found += [("story", text) for text in self.chapters[1:]]
        return found
