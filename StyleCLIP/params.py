"""The parameters of a StyleCLIP job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mead.params import UPSCALE, Choices, JobParams, LossWeight, Prompt, Upscale
from mead.weighted_texts import WeightedTexts, weighted_texts
from mead.weights.sets import WeightSet
from StyleCLIP.choices import choices
from StyleCLIP.hyperparameters import Hyperparameters

NUMBER = r"(0(\.[0-9]+)?|1(\.0+)?|\.[0-9]+)"  # 0 to 1

MAX_ALPHA = 10.0
MAX_STRENGTH = 2.0
MAX_REFINE = 500
NEAR = 0.1
"""An edit stays near its learned start if its learning rate is that much smaller than the usual one."""


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


def _check_sliders(value: str) -> str:
    names = [name for name, _ in weighted_texts(value)]
    for name in names:
        if names.count(name) > 1:
            raise PydanticCustomError("not_offered", "{name} is given twice", {"name": name})
    return value


_NO_WORDS = PydanticCustomError("no_words", 'must be given for the method "global"')

Sliders = Annotated[WeightedTexts, AfterValidator(_check_sliders)]


class StyleCLIPParams(JobParams):
    """A face and what it should become."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("prompt", "sliders", "mapper")]}
    )

    INSTEAD: ClassVar = {"prompt": ("sliders", "mapper")}

    prompt: Prompt = Field(
        "",
        exclude_if=lambda prompt: not prompt,
        description="What the picture should show, in words. It may be left out with `sliders` and for the "
        'method "mapper".',
    )
    img_path: Path | None = Field(None, description="The photo of a face; the average face when left out.")
    method: Literal["optimisation", "global", "mapper"] = Field(
        "optimisation",
        description="How the edit is found: by optimising the codes w+; in one pass by a global "
        "direction, where the words move any face in StyleGAN2's style space; or by a network that has "
        "learned one edit, which is the default with `mapper`.",
    )
    # A record of a job that leaves these out has no such fields, as before there were any.
    mapper: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None,
        exclude_if=lambda mapper: mapper is None,
        description='Which edit the method "mapper" makes, by its name, as in beard. GET /models lists those '
        "of the weights set.",
    )
    sliders: Sliders | None = Field(
        None,
        exclude_if=lambda sliders: sliders is None,
        description="How far the face goes along known directions, beside what the method does or alone, as "
        'in "age:3 | smile:-1". GET /models lists those of the weights set, with their ranges.',
    )
    neutral: Prompt | None = Field(
        None,
        description="What the face is before the edit, in words, for a global direction, which leads from "
        "there to the prompt. When left out, the weights set's own, or the prompt with what CLIP sees in the "
        "face instead of what the prompt names, if the set has words for that.",
    )
    alpha: float | None = Field(
        None,
        ge=-MAX_ALPHA,
        le=MAX_ALPHA,
        allow_inf_nan=False,
        description="How far to go along a global direction; below 0 in the opposite one. When left out, the "
        "weights set's own, or as far as CLIP finds right, if the set asks for that.",
    )
    beta: Beta | None = Field(
        None,
        description="How relevant to the words a channel of the styles must be to change: the higher, the "
        'fewer do. "auto" leaves about twenty. The weights set\'s own when left out.',
    )
    space: Literal["w+", "s"] | None = Field(
        None,
        exclude_if=lambda space: space is None,
        description="What is optimised: the codes w+, or s, the styles of all layers that follow from them; "
        "the weights set's own when left out.",
    )
    refine: int | None = Field(
        None,
        ge=0,
        le=MAX_REFINE,
        exclude_if=lambda refine: refine is None,
        description="Steps before the edit that bring the face's codes closer to the photo, by its pixels "
        "and the person's identity; the weights set's own number when left out.",
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

    def texts(self) -> list[tuple[str, str]]:
        """The texts CLIP reads for this job, each with the name of its field."""
        neutral = [] if self.neutral is None else [("neutral", self.neutral)]
        return [*(super().texts() if self.prompt else []), *neutral]

    @classmethod
    def offered(cls, weights: WeightSet) -> Choices:
        """The names that `sliders` and `mapper` may have, the former with their ranges."""
        return choices(weights)

    def chosen(self) -> dict[str, dict[str, float | None]]:
        """What the job uses of what a weights set offers by name."""
        found: dict[str, dict[str, float | None]] = {}
        if self.sliders is not None:
            found["sliders"] = dict(weighted_texts(self.sliders))
        if self.method == "mapper":
            found["mapper"] = {self.mapper or "": None}
        return found

    @property
    def optimises(self) -> bool:
        """Whether there is anything to optimise: sliders alone are not."""
        return self.method == "optimisation" and bool(self.prompt)

    @property
    def looks_for_all(self) -> bool:
        """Whether all faces of the photo are looked for, and not just the most prominent one."""
        return self.img_path is not None and (self.output, self.face) != ("face", "largest")

    @model_validator(mode="before")
    @classmethod
    def _method_of_a_mapper(cls, given: Any) -> Any:
        """A mapper's name says the method."""
        if isinstance(given, dict) and given.get("mapper") is not None and given.get("method") is None:
            return given | {"method": "mapper"}
        return given

    @model_validator(mode="after")
    def _something_to_do(self) -> StyleCLIPParams:
        if self.prompt or self.method == "mapper" or (self.sliders and self.method == "optimisation"):
            return self
        if self.mapper:
            raise ValueError(
                f'prompt: must be given for the method "{self.method}"; with the method "mapper", '
                f'"{self.mapper}" alone is an edit'
            )
        if self.sliders:
            raise ValueError(
                f'prompt: must be given for the method "{self.method}"; sliders alone need no method'
            )
        kind = "missing" if self.method == "optimisation" else _NO_WORDS
        missing = InitErrorDetails(type=kind, loc=("prompt",), input="")
        raise ValidationError.from_exception_data(type(self).__name__, [missing])

    @model_validator(mode="after")
    def _something_to_paste_into(self) -> StyleCLIPParams:
        if self.output != "face" and self.img_path is None:
            raise ValueError("output: there is no photo to paste the face into; give img")
        if self.face == "all" and self.output == "face":
            photo = "set" if self.img_path is not None else "give img, and set"
            raise ValueError(f'face: several faces are one photo; {photo} output to "photo" or "pair"')
        return self

    @model_validator(mode="after")
    def _somewhere_to_go(self) -> StyleCLIPParams:
        if self.method == "global" and self.prompt and self.neutral == self.prompt:
            raise ValueError("neutral: must differ from the prompt: the edit leads from the one to the other")
        return self

    def whole_pictures(self) -> frozenset[str]:
        """The fields of pictures that are to be kept at their own size, since the result has it too."""
        return frozenset({"img"} if self.looks_for_all else ())

    def notes(self, weights: WeightSet) -> tuple[str, ...]:
        """What else a job's client should know with a weights set: that seeds make little difference."""
        own = weights.settings("StyleCLIP", Hyperparameters)
        if self.n == 1:
            return ()
        if not self.optimises or own.cutouts == 0:
            return (f"the {self.n} pictures are the same: nothing about this edit depends on the seed",)
        learned = "mapper" in weights.files and (self.start or own.start) == "learned"
        if learned and own.learned_start_rate <= NEAR * own.learning_rate:
            return (
                f"the {self.n} pictures hardly differ: they all end near the same learned start; "
                'start "inversion" gives different ones',
            )
        return ()

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name to the reason."""
        found = super().without_effect()
        optimising: tuple[str, ...] = ("start", "iterations", "space", "l2", "identity")
        optimising += ("frames",) if self.frames else ()
        directing: tuple[str, ...] = ("neutral", "alpha", "beta")
        idle, why = directing, 'the edit is optimised, and it is of the method "global"'
        if self.method == "global":
            idle, why = optimising, "nothing is optimised"
        elif self.method == "mapper":
            idle, why = (*optimising, *directing), "a mapper makes the edit"
            if self.prompt:
                found["prompt"] = why
        elif not self.prompt:
            idle, why = (*optimising, *directing), "sliders make the edit"
        if self.method == "global" and self.alpha == 0:
            found["the edit"] = "its alpha is 0"
        if self.strength == 0:
            found["the edit"] = "its strength is 0"
        for name, value in self.chosen().get("sliders", {}).items():
            if value == 0:
                found[f'"{name}" in sliders'] = "its value is 0"
        if self.mapper is not None and self.method != "mapper":
            found["mapper"] = f'the method is "{self.method}"; leave that out, or make it "mapper"'
        if self.img_path is None:
            found |= {"face": "there is no img"} if self.face != "largest" else {}
            found |= {"refine": "there is no img"} if self.refine else {}
        return found | {field: why for field in idle if getattr(self, field) is not None}
