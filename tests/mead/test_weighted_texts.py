"""Several texts in one parameter: how they are split, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from LatentRevisions.params import LatentRevisionsParams
from mead.params import ParamsError, check
from mead.weighted_texts import weighted_texts


def refused(**given: Any) -> ParamsError:
    with pytest.raises(ParamsError) as caught:
        check(LatentRevisionsParams, {"prompt": "a house", **given})
    return caught.value


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("at night", [("at night", 1)]),
        ("at night:2 | blurry:-1", [("at night", 2), ("blurry", -1)]),
        ("in 16:9:2", [("in 16:9", 2)]),
        ("in 16:9", [("in 16", 9)]),
        ("a: b", [("a: b", 1)]),
        ("a:b:.5|c : 1e-3 |d:+1.", [("a:b", 0.5), ("c", 0.001), ("d", 1)]),
        ("https://example.org:8080/x", [("https://example.org:8080/x", 1)]),
        (
            "a:nan|b:inf|c:1,5|d:0x10|e:-",
            [("a:nan", 1), ("b:inf", 1), ("c:1,5", 1), ("d:0x10", 1), ("e:-", 1)],
        ),
        ("two\nlines:2", [("two\nlines", 2)]),
        ("夜:2", [("夜", 2)]),
        ("a:0", [("a", 0)]),
    ],
)
def test_the_number_behind_the_last_colon_is_the_weight(given: str, texts: list[tuple[str, float]]) -> None:
    assert list(weighted_texts(given)) == texts
    params = check(LatentRevisionsParams, {"prompt": "x", "prompts": given})
    assert list(params.weighted_prompts) == texts
    assert params.texts()[1:] == [("prompts", text) for text, _ in texts]


def test_prompt_and_text_to_add_are_never_split() -> None:
    params = check(LatentRevisionsParams, {"prompt": "a:2 | b ^ c", "text_to_add": "d:3 | e ^ f", "w1": 1})
    assert params.texts() == [("prompt", "a:2 | b ^ c"), ("text_to_add", "d:3 | e ^ f")]
    assert params.chapters == ("a:2 | b ^ c",)


@pytest.mark.parametrize("field", ["prompts", "story"])
@pytest.mark.parametrize("separator", ["|", "^"])
def test_there_may_be_16_texts_and_none_is_empty(field: str, separator: str) -> None:
    if (field == "prompts") != (separator == "|"):
        return
    check(LatentRevisionsParams, {"prompt": "x", field: separator.join("a" * 16)})
    for wrong, why in (
        (separator.join("a" * 17), "has 17 texts; there may be at most 16"),
        (f"a{separator}", "text 2 of 2 is empty"),
        (f"{separator} a", "text 1 of 2 is empty"),
        (f"a{separator} {separator}b", "text 2 of 3 is empty"),
        ("x" * 2001, "2000"),
    ):
        error = refused(**{field: wrong})
        assert (error.field, error.out_of_range) == (field, True) and why in str(error)
    for malformed in ("", "  ", "a\0b", 7, ["a"]):
        error = refused(**{field: malformed})
        assert (error.field, error.out_of_range) == (field, False), malformed


def test_weights_have_a_range() -> None:
    for wrong in ("a:1001", "a | b:-1e9", "a:1e999"):
        error = refused(prompts=wrong)
        assert (error.field, error.out_of_range) == ("prompts", True) and "from -1000 to 1000" in str(error)
    assert refused(prompts=":2").field == "prompts"


def test_a_further_text_is_something_to_aim_at() -> None:
    assert refused(w0=0, prompts="a:0").field == "w0"
    check(LatentRevisionsParams, {"prompt": "x", "w0": 0, "prompts": "a:-1"})


def test_a_story_follows_the_prompt() -> None:
    params = check(LatentRevisionsParams, {"prompt": "a tree", "story": " a house^at night "})
    assert params.chapters == ("a tree", "a house", "at night")
    assert params.texts() == [("prompt", "a tree"), ("story", "a house"), ("story", "at night")]
