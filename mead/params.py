"""What a job is asked to do: one description that checks it, whichever way it comes in.

Python arguments, HTTP form fields, command-line options and the job hash in Redis all pass through these
models, so a field has one name, one range and one error message everywhere. Each model room adds its own
fields in its `params.py`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:  # only passed on
    from mead.weights.sets import WeightSet

SIDE_STEP = 16  # a side must be a multiple of the coarsest VQGAN's downsampling factor
MAX_SIDE = 1024
UPLOAD_SIDE = 1024  # to which larger uploads are shrunk, where IMAGE_WIDTH and IMAGE_HEIGHT say nothing else
MAX_ITERATIONS = 2000
MAX_CUTOUTS = 256
MAX_SEED = 2**63 - 1
MAX_VARIANTS = 16
MAX_FRAMES = 100
MAX_WEIGHT = 1000


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"}),
]


def refuse_underscores(value: Any) -> Any:
    """Refuse "1_0", which pydantic reads as 10, as Python does."""
    if isinstance(value, str) and re.search("[0-9]_[0-9]", value):
        raise PydanticCustomError("underscores", "must be a number, without underscores")
    return value


Weight = Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]
LossWeight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=SIDE_STEP, le=MAX_SIDE, multiple_of=SIDE_STEP)]


def size_pattern(largest: int) -> str:
    """What a size is as a text, as a regular expression, with sides up to `largest` pixels."""
    sides = "|".join(str(side) for side in range(SIDE_STEP, largest + 1, SIDE_STEP))
    return f"^({sides})x({sides})$"


def split_size(size: str) -> tuple[str, str]:
    """Width and height as they stand in a size such as "256x192".

    Raises:
        ValueError: for another number of parts.
    """
    sides = size.lower().replace("×", "x").split("x")
    if len(sides) != 2:
        raise ValueError('give width and height as in "256x192"')
    return sides[0], sides[1]


def _parse_size(value: Any) -> Any:
    """Accept "256x192" (as forms and Redis carry it) as well as a (width, height) pair."""
    return split_size(value) if isinstance(value, str) else value


Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(_parse_size),
    PlainSerializer(lambda size: f"{size[0]}x{size[1]}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": size_pattern(MAX_SIDE), "examples": ["256x192"]}),
]


def _parse_upscale(value: Any) -> Any:
    """Accept "4" (as forms and Redis carry it) as well as 4."""
    is_text = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value)
    number = int(value) if is_text else value
    if type(number) is int and number not in get_args(UpscaleFactor):
        raise PydanticCustomError("not_offered", "must be 1, 2 or 4")
    return number


UpscaleFactor = Literal[1, 2, 4]
Upscale = Annotated[UpscaleFactor, BeforeValidator(_parse_upscale)]
UPSCALE = (
    "How many times as wide and high the finished picture is made, by a network that draws it anew at that "
    "size; the weights set's own number when left out."
)


class Range(NamedTuple):
    """The least and the most that a number may be."""

    least: float
    most: float


Choices: TypeAlias = Mapping[str, Mapping[str, Range | None]]
"""For each parameter that takes names, those that a weights set has, and the ranges of their numbers."""


P = TypeVar("P", bound="JobParams")
M = TypeVar("M", bound=BaseModel)


def _holds_number(annotation: Any) -> bool:
    """Whether a parameter is a number, or has some."""
    return annotation in (int, float) or any(map(_holds_number, get_args(annotation)))


class JobParams(BaseModel):
    """The parameters every job has. Unknown names are errors, so that a typing mistake never passes silently.

    Raises:
        pydantic.ValidationError: (a ValueError) naming each wrong field and what would be right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    WEIGHTS: ClassVar[Mapping[str, str]] = {}
    """Names of parameters that are weights, by the text or picture that each belongs to."""
    INSTEAD: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Names of parameters that may be given instead of a required one."""
    MASKS: ClassVar[frozenset[str]] = frozenset()
    """Names of file fields that are masks, see `mead.imaging.pictures.read_picture`."""

    prompt: Prompt = Field(description="What the picture should show, in words.")
    seed: int = Field(
        default_factory=lambda: secrets.randbelow(2**31),
        ge=0,
        le=MAX_SEED,
        description="The same seed with the same parameters gives the same picture. "
        "Drawn at random when left out.",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="Optimisation steps; the weights set's own number when left out.",
    )

    n: int = Field(
        1,
        ge=1,
        le=MAX_VARIANTS,
        description="How many pictures to make, with the seeds `seed`, `seed` + 1 and so on.",
    )

    # A record of a job that leaves it out has no such field, as before there was any.
    frames: int = Field(
        0,
        ge=0,
        le=MAX_FRAMES,
        exclude_if=lambda frames: frames == 0,
        description="How many pictures of the way are kept for the time-lapse, evenly spread over the steps; "
        "the last is that after the last step.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        named = cls.model_fields[info.field_name or ""].annotation
        return refuse_underscores(value) if _holds_number(named) else value

    @model_validator(mode="after")
    def _seeds_in_range(self) -> JobParams:
        if self.seed + self.n - 1 > MAX_SEED:
            raise ValueError(f"seed: that of the last of {self.n} pictures would be more than {MAX_SEED}")
        return self

    def variants(self: P) -> list[P]:
        """The parameters of each of the `n` pictures, as their seeds go up."""
        return [self.model_copy(update={"seed": self.seed + i, "n": 1}) for i in range(self.n)]

    def texts(self) -> list[tuple[str, str]]:
        """The texts CLIP reads for this job, each with the name of its field, which may have several."""
        return [("prompt", self.prompt)]

    def optional_networks(self) -> dict[str, str]:
        """The networks that this job needs and a weights set may lack, each by the field that asks for it."""
        return {}

    @classmethod
    def offered(cls, weights: WeightSet) -> Choices:
        """What a weights set offers by name, for each parameter that takes names. Loads no weights."""
        return {}

    def chosen(self) -> dict[str, dict[str, float | None]]:
        """What the job uses of what a weights set offers by name: by field, each name with its number."""
        return {}

    def whole_pictures(self) -> frozenset[str]:
        """The fields of pictures that are to be kept at their own size, since the result has it too."""
        return frozenset()

    def without_effect(self) -> dict[str, str]:
        """What was given but changes nothing beside the other parameters: field name (or which part of a
        field) to the reason.

        A parameter left at its default was not given.
        """
        found = {}
        for name, weight in self.WEIGHTS.items():
            field, value = name.removesuffix("_path"), getattr(self, weight)
            if getattr(self, name) is None:
                if value not in (0, type(self).model_fields[weight].default):
                    found[weight] = f"there is no {field}"
            elif value == 0:
                found[field] = f"its weight {weight} is 0"
        return found

    def notes(self, weights: WeightSet) -> tuple[str, ...]:
        """What else a job's client should know with a weights set, each in a sentence."""
        return ()

    def pictures(self) -> dict[str, Path]:
        """The pictures given with this job: field name (without `_path`) to file."""
        return {
            name.removesuffix("_path"): value
            for name, value in self
            if name.endswith("_path") and value is not None
        }


# What pydantic calls a value that reads well but is not allowed; everything else it finds is malformed.
_OUT_OF_RANGE = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "finite_number",
        "multiple_of",
        "not_offered",
        "int_parsing_size",
        "string_too_long",
    }
)


_WHOLE, _NUMBER, _TEXT = "must be a whole number", "must be a number", "must be a text"
_WORDS = {
    "extra_forbidden": "unknown parameter",
    "string_type": _TEXT,
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_too_long": "is longer than {max_length} characters, far more than CLIP reads; make it shorter",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "is too large a number",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "is not one that the service has given out",
    "bool_parsing": "must be true or false",
}
"""What is wrong with a value, by pydantic's name for it."""


class ParamsError(ValueError):
    """Parameters that are wrong; the message begins with the one at fault.

    Attributes:
        field: its name, if it is one.
        out_of_range: whether it reads well but its value is not allowed, rather than being malformed.
    """

    def __init__(self, field: str | None, message: str, out_of_range: bool) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field
        self.out_of_range = out_of_range


class MissingError(ParamsError):
    """Parameters that must be given and are not.

    Attributes:
        fields: their names.
        instead: names of those that may be given instead of the first one.
    """

    def __init__(self, fields: Sequence[str], instead: Sequence[str] = ()) -> None:
        alternatives = f", or {' or '.join(instead)}" if instead else ""
        others = f" (and so must {' and '.join(fields[1:])})" if fields[1:] else ""
        super().__init__(fields[0], f"must be given{alternatives}{others}", out_of_range=False)
        self.fields = tuple(fields)
        self.instead = tuple(instead)


def lacking(field: str, network: str) -> ParamsError:
    """What is wrong with a job that asks for an optional network that its weights set does not have.

    Args:
        field: the parameter that asks for it.
    """
    called = network if network != field else "network for it"
    return ParamsError(
        field,
        f"these weights have no {called}; `python -m mead weights fetch full --with {network}` fetches the "
        "full set's",
        out_of_range=True,
    )


def check(kind: type[M], given: Mapping[str, Any]) -> M:
    """The parameters of a job, or other fields of a request, checked.

    Raises:
        ParamsError: for the first thing wrong with them, or for all that are missing.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        found: list[Any] = error.errors(include_url=False)
        if missing := [str(problem["loc"][0]) for problem in found if problem["type"] == "missing"]:
            raise MissingError(missing, getattr(kind, "INSTEAD", {}).get(missing[0], ())) from None
        first = found[0]
        message = _in_words(first)
        if first["loc"]:
            raise ParamsError(str(first["loc"][0]), message, first["type"] in _OUT_OF_RANGE) from None
        named, _, rest = message.partition(": ")  # a check across fields names the one to change
        field = named if {named, f"{named}_path"} & kind.model_fields.keys() else None
        raise ParamsError(field, rest if field else message, True) from None


def _in_words(problem: Any) -> str:
    """What is wrong with a value, as a person says it."""
    words = _WORDS.get(problem["type"])
    message: str = problem["msg"].removeprefix("Value error, ")
    return message if words is None else words.format(**problem.get("ctx", {}))
