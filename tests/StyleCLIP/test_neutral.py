"""Neutral words: what stands in a prompt instead of what it names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from StyleCLIP.neutral import Alternatives, neutral_words

COLOURS = "hair: black | red | blue"
STYLES = "hair: short | long"
WORN = "| a crown | a red hat | an orange hat"


@pytest.mark.parametrize(
    ("words", "text", "instead"),
    [
        (COLOURS, "a man with red hair", ["a man with black hair", "a man with blue hair"]),
        (STYLES, "long red hair and red eyes", ["short red hair and red eyes"]),
        (
            COLOURS,
            "long red hair and blue eyes",
            ["long black hair and blue eyes", "long blue hair and blue eyes"],
        ),
        (COLOURS, "a red hat on black and white hair", []),
        (COLOURS, "a man with reddish hair", []),
        (WORN, "a king with a crown", ["a king", "a king with a red hat", "a king with an orange hat"]),
        ("glasses | no glasses", "a boy with no glasses", ["a boy with glasses"]),
        ("| beard", "a man with a beard", ["a man"]),
        ("| beard", "a man with a red beard and glasses", ["a man with glasses"]),
        ("| beard", "a man who has a beard, a hat and glasses", ["a man who has a hat and glasses"]),
        ("| beard", "a man with glasses, a beard and a hat", ["a man with glasses and a hat"]),
        ("| beard", "an old man with glasses and a beard", ["an old man with glasses"]),
        ("| smiling | angry", "an angry man", ["a man", "a smiling man"]),
        ("| bald", "a bald old man", ["an old man"]),
        ("| bald", "bald", []),
        ("| beard", "a beard", []),
        ("hair: it's (red) | blue", "blue hair", ["it's (red) hair"]),
    ],
)
def test_other_words_of_the_kind_take_their_place(words: str, text: str, instead: list[str]) -> None:
    assert list(Alternatives(words).instead(text).values()) == instead


def test_of_each_kind_the_words_are_taken_that_fit_the_picture() -> None:
    liked = ["black", "short"]

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(sum(word in text for word in liked))] for text in texts])

    kinds = [Alternatives(words) for words in (COLOURS, STYLES, "eyes: red | blue")]
    picture = torch.ones(1)
    assert neutral_words("a man with long blue hair", picture, kinds, embed) == "a man with short black hair"
    assert neutral_words("a man with blue eyes", picture, kinds, embed) == "a man with red eyes"
    assert neutral_words("a cat", picture, kinds, embed) is None


def test_what_a_face_has_must_show_clearly() -> None:
    for cosine, neutral in ((0.02, "a man"), (0.06, "a man with an orange hat")):

        def embed(texts: Sequence[str], cosine: float = cosine) -> torch.Tensor:
            return torch.tensor([[0.5 + cosine * ("orange" in text)] for text in texts])

        assert neutral_words("a man with a crown", torch.ones(1), [Alternatives(WORN)], embed) == neutral
