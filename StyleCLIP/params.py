"""The parameters of a StyleCLIP job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from mead.params import UPSCALE, JobParams, Upscale

MOST_FACES = 100
"""Faces of a photo that are numbered."""


def _parse_face(value: Any) -> Any:
    """Accept "2" (as forms and Redis carry it) as well as 2."""
    text = value.strip() if isinstance(value, str) else value
    if text in ("largest", "all"):
        return text
    number = int(text) if isinstance(text, str) and re.fullmatch(r"[+-]?[0-9]{1,9}", text) else text
    if type(number) is not int:
        raise PydanticCustomError("face", 'must be "largest", "all" or a number from the left')
    if not 1 <= number <= MOST_FACES:
        raise PydanticCustomError("not_offered", f"must be 1 (the leftmost) to {MOST_FACES}")
    return number


FaceChoice = Annotated[
    Literal["largest", "all"] | int,
    PlainValidator(_parse_face),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(largest|all|[1-9][0-9]?|100)$",
            "examples": ["largest", "all", "2"],
        }
    ),
]


class StyleCLIPParams(JobParams):
    """A face and what it should become."""

    img_path: Path | None = Field(None, description="The photo of a face; the average face when left out.")
    method: Literal["optimisation"] = Field(
        "optimisation", description="How the edit is found: by optimising the codes w+."
    )
    start: Literal["inversion", "learned"] | None = Field(
        None,
        description="Where to start: at the face's own codes, or where a network moves them that has learned "
        "what words ask for; the weights set's own start when left out.",
    )
    upscale: Upscale | None = Field(None, description=UPSCALE)
    # A record of a job that leaves these out has no such fields, as before there were any.
    output: Literal["face", "photo", "pair"] = Field(
        "face",
        exclude_if=lambda output: output == "face",
        description="What the result shows: the face alone, the whole photo with the edited face in it, or "
        "the photo before and after, side by side. A photo keeps its size.",
    )
    face: FaceChoice = Field(
        "largest",
        exclude_if=lambda face: face == "largest",
        description="Which face of the photo is edited: the largest, a number from the left, or all of them.",
    )

    @property
    def looks_for_all(self) -> bool:
        """Whether all faces of the photo are looked for, and not just the most prominent one."""
        return self.img_path is not None and (self.output, self.face) != ("face", "largest")

    @model_validator(mode="after")
    def _something_to_paste_into(self) -> StyleCLIPParams:
        if self.output != "face" and self.img_path is None:
            raise ValueError("output: there is no photo to paste the face into; give img")
        if self.face == "all" and self.output == "face":
            raise ValueError('face: several faces are one photo; set output to "photo" or "pair"')
        return self

    def whole_pictures(self) -> frozenset[str]:
        """The fields of pictures that are to be kept at their own size, since the result has it too."""
        return frozenset({"img"} if self.looks_for_all else ())

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name to the reason."""
        found = super().without_effect()
        if self.face != "largest" and self.img_path is None:
            found["face"] = "there is no img"
        return found
