"""CLIP's tokeniser against the one in open_clip."""

from __future__ import annotations

import random
import string

import pytest
from open_clip.tokenizer import SimpleTokenizer

from mead.nn.tokeniser import END, START, load_tokeniser, surely_fits

ALPHABET = [
    *string.printable,
    *"éŁßİı中文猫🐈🎨٣½ａＢﬁ…–“”",
    "\u200d",
    "&amp;",
    "&lt;",
    "Ã©",
    "'s",
    "n't",
    " a ",
    " the ",
]


@pytest.fixture(scope="module")
def published() -> SimpleTokenizer:
    """open_clip's."""
    return SimpleTokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A beautiful person",
        "An image with the face of a blonde woman with blonde hair and purple eyes",
        "it's the 1990s, isn't it?  WE'LL see...",
        "incoherent, confusing, cropped, watermarks",
        "猫がいる 🐈‍⬛ &amp;amp; schÃ¶n",
        "two\nlines\tand a tab",
        "x" * 300,
        "aAbB" * 80,
    ],
)
def test_ids_are_the_published_ones(published: SimpleTokenizer, text: str) -> None:
    assert load_tokeniser().encode(text) == published.encode(text)


@pytest.mark.parametrize("alphabet", [ALPHABET, [chr(code) for code in range(32, 127)]])
def test_ids_are_the_published_ones_for_any_text(published: SimpleTokenizer, alphabet: list[str]) -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 40)))
        assert load_tokeniser().encode(text) == published.encode(text), repr(text)


def test_the_ends_are_the_published_ones(published: SimpleTokenizer) -> None:
    assert published.all_special_ids == [START, END]


def test_a_text_cannot_end_itself() -> None:
    """open_clip takes these words for the ids that begin and end a text; ours are words like others."""
    ids = load_tokeniser().encode("a <end_of_text> b <start_of_text>")
    assert not {START, END} & set(ids) and max(ids) < START


@pytest.mark.parametrize("length", range(12))
def test_where_a_text_is_cut(length: int) -> None:
    tokeniser = load_tokeniser()
    text = "A  wonderfully-painted HOUSE, by the sea"
    read, unread, ids = tokeniser.cut(text, length)
    assert ids == len(tokeniser.encode(text))
    assert len(tokeniser.encode(read)) <= length
    assert f"{read} {unread}".replace(" ", "") == tokeniser.clean(text).replace(" ", "")
    if unread:  # one more word would have been too much
        assert len(tokeniser.encode(f"{read} {unread.split()[0]}")) > length
    else:
        assert ids <= length


def test_a_text_that_surely_fits_does() -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randrange(40))) for _ in range(3000)]
    ids = {text: len(load_tokeniser().encode(text)) for text in texts}
    assert not any(surely_fits(text, number - 1) for text, number in ids.items())
    assert surely_fits("a red house", 75) and not surely_fits("&nGt;", 5)
