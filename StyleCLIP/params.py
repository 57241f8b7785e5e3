"""The parameters of a StyleCLIP job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from mead.params import UPSCALE, JobParams, LossWeight, Prompt, Upscale

NUMBER = r"(0(\.[0-9]+)?|1(\.0+)?|\.[0-9]+)"  # 0 to 1

MAX_ALPHA = 10.0
MAX_STRENGTH = 2.0


def parse_beta(value: Any) -> Literal["auto"] | float:
    """Accept "0.2" (as forms and Redis carry it) as well as 0.2."""
    text = value.strip() if isinstance(value, str) else value
    if text == "auto":
        return "auto"
    if isinstance(text, str) and re.fullmatch(r"[+-]?([0-9]{1,9}(\.[0-9]{0,30})?|\.[0-9]{1,30})", text):
        text = float(text)
    if isinstance(text, bool) or not isinstance(text, (int, float)):
        raise PydanticCustomError("beta", 'must be "auto" or a number from 0 to 1')
    if not 0 <= text <= 1:
        raise PydanticCustomError("not_offered", 'must be "auto" or from 0 to 1')
    return float(text)


Beta = Annotated[
    Literal["auto"] | float,
    PlainValidator(parse_beta),
    WithJsonSchema({"type": "string", "pattern": f"^(auto|{NUMBER})$", "examples": ["auto", "0.15"]}),
]


class StyleCLIPParams(JobParams):
    """A face and what it should become."""

    img_path: Path | None = Field(None, description="The photo of a face; the average face when left out.")
    method: Literal["optimisation", "global"] = Field(
        "optimisation",
        description="How the edit is found: by optimising the codes w+; or in one pass by a global "
        "direction, where the words move any face in StyleGAN2's style space.",
    )
    neutral: Prompt | None = Field(
        None,
        description="What the face is before the edit, in words, for a global direction, which leads from "
        "there to the prompt; the weights set's own when left out.",
    )
    alpha: float | None = Field(
        None,
        ge=-MAX_ALPHA,
        le=MAX_ALPHA,
        allow_inf_nan=False,
        description="How far to go along a global direction; below 0 in the opposite one. The weights set's "
        "own when left out.",
    )
    beta: Beta | None = Field(
        None,
        description="How relevant to the words a channel of the styles must be to change: the higher, the "
        'fewer do. "auto" leaves about twenty. The weights set\'s own when left out.',
    )
    start: Literal["inversion", "learned"] | None = Field(
        None,
        description="Where to start: at the face's own codes, or where a network moves them that has learned "
        "what words ask for; the weights set's own start when left out.",
    )
    l2: LossWeight | None = Field(
        None,
        description="Weight of the squared distance from the first codes: the higher, the less changes. The "
        "weights set's own when left out.",
    )
    identity: LossWeight | None = Field(
        None,
        description="Weight of the identity loss: the higher, the more the face stays the same person's. The "
        "weights set's own when left out.",
    )
    # A record of a job that leaves it out has no such field, as before there was any.
    strength: float = Field(
        1.0,
        ge=0,
        le=MAX_STRENGTH,
        allow_inf_nan=False,
        exclude_if=lambda strength: strength == 1,
        description="How much of the edit the picture shows, whatever the method: 0 none, 1 all of it, more "
        "than that exaggerates it.",
    )
    upscale: Upscale | None = Field(None, description=UPSCALE)

    @field_validator("neutral")
    @classmethod
    def _no_nul_in_neutral(cls, neutral: str | None) -> str | None:
        if neutral is not None and "\0" in neutral:
            raise ValueError("must not hold a NUL character")
        return neutral

    def texts(self) -> dict[str, str]:
        """The texts CLIP reads for this job: field name to text."""
        neutral = {} if self.neutral is None else {"neutral": self.neutral}
        return super().texts() | neutral

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name to the reason."""
        found = super().without_effect()
        idle: tuple[str, ...] = ("neutral", "alpha", "beta")
        why = "the edit is optimised"
        if self.method == "global":
            idle, why = ("start", "iterations", "l2", "identity"), "nothing is optimised"
        return found | {field: why for field in idle if getattr(self, field) is not None}
