"""Several texts in one parameter: weighted ones, as in "at night:2 | blurry:-1", and the texts of a story."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from mead.params import MAX_WEIGHT, Prompt

MOST_TEXTS = 16
_WEIGHTED = re.compile(
    r"(?P<text>.*):\s*(?P<weight>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)\s*", re.I | re.S
)


class WeightedText(NamedTuple):
    """A text and its weight; negative moves away from it."""

    text: str
    weight: float


def weighted_texts(value: str) -> tuple[WeightedText, ...]:
    """Split texts at |, as VQGAN-CLIP does; a text's weight is the number behind its last colon, else 1.

    So colons may stand in a text, but one that ends like a weight needs its weight behind it: "16:9:1".
    """
    found = []
    for part in value.split("|"):
        match = _WEIGHTED.fullmatch(part)
        text, weight = (match["text"], float(match["weight"])) if match else (part, 1.0)
        found.append(WeightedText(text.strip(), weight))
    return tuple(found)


def story_texts(value: str) -> tuple[str, ...]:
    """Split the texts of a story at ^."""
    return tuple(text.strip() for text in value.split("^"))


def _of_mapping(value: Any) -> Any:
    """Accept {"at night": 2} as well as "at night:2"."""
    if not isinstance(value, Mapping):
        return value
    for text in value:
        if "|" in str(text):
            raise _refused(f'"{text}" holds |, which would divide it')
    return " | ".join(f"{text}:{weight}" for text, weight in value.items())


def _check_weighted(value: str) -> str:
    texts = weighted_texts(value)
    _check_texts([text for text, _ in texts])
    for text, weight in texts:
        if abs(weight) > MAX_WEIGHT:
            raise _refused(
                f'the weight of "{text}" is {weight:g}; it may be from -{MAX_WEIGHT} to {MAX_WEIGHT}'
            )
    return value


def _check_story(value: str) -> str:
    _check_texts(story_texts(value))
    return value


def _check_texts(texts: Sequence[str]) -> None:
    if len(texts) > MOST_TEXTS:
        raise _refused(f"has {len(texts)} texts; there may be at most {MOST_TEXTS}")
    for number, text in enumerate(texts, 1):
        if not text:
            raise _refused(f"text {number} of {len(texts)} is empty")


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError("not_offered", "{message}", {"message": message})


WeightedTexts = Annotated[Prompt, BeforeValidator(_of_mapping), AfterValidator(_check_weighted)]
StoryTexts = Annotated[Prompt, AfterValidator(_check_story)]
