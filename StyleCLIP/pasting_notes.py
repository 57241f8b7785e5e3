"""What a client should know of an edit that is pasted into a photo."""

from __future__ import annotations

import re
from collections.abc import Sequence

from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.photo import PhotoEdit


def notes_on_pasting(photo: PhotoEdit, suits_people: str) -> tuple[str, ...]:
    """That an edit may not suit a photo, in a sentence; none if it may.

    Args:
        suits_people: of the weights set, see `StyleCLIP.hyperparameters`.
    """
    words, params = suits_people.split(), photo.params
    if not words or photo.classifier is None or params.output == "face" or params.strength == 0:
        return ()
    if names_only(params, words):
        return ()
    if all(map(photo.is_drawn, range(len(photo.chosen)))):
        return ()
    return (
        "these weights draw faces, and a drawn change may not suit a photo of a person; with them, these do: "
        f"{', '.join(words)}",
    )


def names_only(params: StyleCLIPParams, words: Sequence[str]) -> bool:
    """Whether an edit is about some of these words, as far as can be told: a prompt may name more."""
    named = []
    if params.prompt and params.method != "mapper":
        said = re.findall(r"\w+", params.prompt.lower())
        named.append(any(word in said or f"{word}s" in said for word in words))
    if params.method == "mapper":
        named.append(params.mapper in words)
    sliders = params.chosen().get("sliders", {})
    named += [name in words for name, value in sliders.items() if value != 0]
    return all(named)
