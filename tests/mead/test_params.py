"""What a job may be asked to do, for both models, and what is said where it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from LatentRevisions.params import LatentRevisionsParams
from mead.params import MAX_ITERATIONS, MAX_SEED, JobParams, MissingError, ParamsError, check
from StyleCLIP.params import StyleCLIPParams

TOO_LONG = "far more than CLIP reads; make it shorter"
both = pytest.mark.parametrize("kind", [LatentRevisionsParams, StyleCLIPParams])


def refused(kind: type[JobParams], **given: Any) -> ParamsError:
    """The error that a job with a prompt and what is given meets."""
    with pytest.raises(ParamsError) as caught:
        check(kind, {"prompt": "a house", **given})
    return caught.value


@both
def test_a_prompt_is_enough(kind: type[JobParams]) -> None:
    params = check(kind, {"prompt": "  a red house \n"})
    assert params.prompt == "a red house"
    assert params.iterations is None and params.pictures() == {}
    assert 0 <= params.seed < 2**31
    assert len({check(kind, {"prompt": "a house"}).seed for _ in range(5)}) > 1


@both
@pytest.mark.parametrize(
    "prompt", ["猫がいる", "🐈‍⬛ 🎨", "<b>&amp;</b> {{x}} %s", "قطة", "two\nlines", "a" * 2000]
)
def test_a_prompt_is_any_text(kind: type[JobParams], prompt: str) -> None:
    assert check(kind, {"prompt": prompt}).prompt == prompt


@both
@pytest.mark.parametrize(
    ("prompt", "out_of_range"),
    [("", False), (" \n\t", False), ("a\0b", False), ("\ud800", False), (7, False), ("a" * 2001, True)],
)
def test_a_prompt_that_cannot_be_used(kind: type[JobParams], prompt: Any, out_of_range: bool) -> None:
    error = refused(kind, prompt=prompt)
    assert (error.field, error.out_of_range) == ("prompt", out_of_range)
    assert str(error).startswith("prompt: ")


@both
def test_a_missing_prompt_is_named(kind: type[JobParams]) -> None:
    with pytest.raises(ParamsError, match=r"^prompt: ") as caught:
        check(kind, {})
    assert (caught.value.field, caught.value.out_of_range) == ("prompt", False)


@both
@pytest.mark.parametrize("name", ["promt", "w5", "img", "Seed", "weights"])
def test_an_unknown_name_is_an_error(kind: type[JobParams], name: str) -> None:
    error = refused(kind, **{name: "1"})
    assert (error.field, error.out_of_range) == (name, False)


@both
@pytest.mark.parametrize(("name", "most"), [("seed", MAX_SEED), ("iterations", MAX_ITERATIONS)])
def test_whole_numbers_have_a_range(kind: type[JobParams], name: str, most: int) -> None:
    least = 0 if name == "seed" else 1
    for number in (least, most, str(most)):
        assert getattr(check(kind, {"prompt": "x", name: number}), name) == int(number)
    for wrong in (least - 1, most + 1, str(most + 1), "9" * 5000):
        error = refused(kind, **{name: wrong})
        assert (error.field, error.out_of_range) == (name, True), wrong
    for malformed in ("abc", "", "1.5", 1.5, "0x10", [1]):
        error = refused(kind, **{name: malformed})
        assert (error.field, error.out_of_range) == (name, False), malformed


@pytest.mark.parametrize("name", ["w0", "w1", "w2", "w3"])
def test_weights_are_finite_numbers(name: str) -> None:
    for weight, number in (("0.5", 0.5), (-2, -2.0), (1000, 1000.0), ("1e-3", 0.001)):
        assert getattr(check(LatentRevisionsParams, {"prompt": "x", name: weight}), name) == number
    for wrong in ("nan", float("nan"), "inf", float("-inf"), "1e999", 1000.1, "-1e6"):
        error = refused(LatentRevisionsParams, **{name: wrong})
        assert (error.field, error.out_of_range) == (name, True), wrong
    for malformed in ("abc", "", "1,5", "5 apples", [1]):
        error = refused(LatentRevisionsParams, **{name: malformed})
        assert (error.field, error.out_of_range) == (name, False), malformed


@pytest.mark.parametrize("size", ["256x192", "256X192", "256×192", " 256 x 192 ", (256, 192), [256, 192]])
def test_sizes_are_width_and_height(size: Any) -> None:
    assert check(LatentRevisionsParams, {"prompt": "x", "size": size}).size == (256, 192)


@pytest.mark.parametrize(
    ("size", "out_of_range"),
    [
        ("250x192", True),
        ("256x0", True),
        ("-16x16", True),
        ("16x1040", True),
        ((16, 8), True),
        ("", False),
        ("256", False),
        ("256x", False),
        ("256x192x3", False),
        ("wide x high", False),
        ((256,), False),
        (256, False),
    ],
)
def test_a_size_that_cannot_be_used(size: Any, out_of_range: bool) -> None:
    error = refused(LatentRevisionsParams, size=size)
    assert (error.field, error.out_of_range) == ("size", out_of_range)


def test_other_values_of_one_model() -> None:
    assert check(LatentRevisionsParams, {"prompt": "x", "start": "learned", "cutouts": "8"}).cutouts == 8
    for name, wrong, out_of_range in (("cutouts", 0, True), ("cutouts", 257, True), ("start", "dark", False)):
        error = refused(LatentRevisionsParams, **{name: wrong})
        assert (error.field, error.out_of_range) == (name, out_of_range)
    assert refused(StyleCLIPParams, method="magic").field == "method"


@pytest.mark.parametrize("kind", [LatentRevisionsParams, StyleCLIPParams])
def test_how_far_a_picture_is_enlarged(kind: type[JobParams]) -> None:
    for given, read in (("4", 4), (2, 2), (" 1 ", 1), (None, None)):
        assert check(kind, {"prompt": "x", "upscale": given}).model_dump()["upscale"] == read
    for wrong, out_of_range in (
        (3, True),
        ("8", True),
        (0, True),
        ("large", False),
        (2.5, False),
        (-1, True),
    ):
        error = refused(kind, upscale=wrong)
        assert (error.field, error.out_of_range) == ("upscale", out_of_range), wrong


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": ""}, "prompt: must not be empty"),
        (
            {"prompt": "a" * 2001},
            f"prompt: is longer than 2000 characters, {TOO_LONG}",
        ),
        ({"prompt": 5}, "prompt: must be a text"),
        ({"w0": "heavy"}, "w0: must be a number"),
        ({"w0": "nan"}, "w0: must be a finite number"),
        ({"w0": 1001}, "w0: must be at most 1000.0"),
        ({"iterations": "many"}, "iterations: must be a whole number"),
        ({"iterations": 1.5}, "iterations: must be a whole number"),
        ({"n": 0}, "n: must be at least 1"),
        ({"size": "100x64"}, "size: must be a multiple of 16"),
        ({"start": "dark"}, "start: must be 'noise' or 'learned'"),
        ({"colour": "red"}, "colour: unknown parameter"),
    ],
)
def test_what_is_wrong_is_said_as_a_person_says_it(given: dict[str, Any], said: str) -> None:
    assert str(refused(LatentRevisionsParams, **given)) == said


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(MissingError) as missing:
        check(TwoTexts, {})
    assert missing.value.fields == ("prompt", "caption") and missing.value.field == "prompt"
    assert str(missing.value) == "prompt: must be given (and so must caption)"


class TwoTexts(JobParams):
    """Parameters of which two must be given."""

    caption: str


def test_the_variants_of_a_job_differ_in_their_seeds() -> None:
    params = check(LatentRevisionsParams, {"prompt": "a house", "seed": 7, "n": "3", "w0": 2})
    variants = params.variants()
    assert [variant.seed for variant in variants] == [7, 8, 9]
    assert {variant.model_copy(update={"seed": 7, "n": 3}) for variant in variants} == {params}
    last = refused(LatentRevisionsParams, seed=MAX_SEED, n=2)
    assert last.field == "seed" and last.out_of_range
    assert check(LatentRevisionsParams, {"prompt": "a house", "seed": MAX_SEED}).variants()


def test_there_must_be_something_to_aim_at() -> None:
    for nothing in (
        {"w0": 0},
        {"w0": 0, "w1": 1, "w2": 1, "w3": 1},  # nothing that these would weigh
        {"w0": 0, "text_to_add": "a tree"},  # whose weight is 0 when left out
        {"w0": 0, "w3": 1, "img_path": "start.png", "img_enc_path": "towards.png"},
    ):
        error = refused(LatentRevisionsParams, **nothing)
        assert (error.field, error.out_of_range) == ("w0", True)
        assert str(error).count("w0") == 1
    for something in (
        {"text_to_add": "a tree", "w1": -1},
        {"img_enc_path": "towards.png", "w2": 1},
        {"ne_img_enc_path": "away.png", "w3": 1},
    ):
        check(LatentRevisionsParams, {"prompt": "x", "w0": 0, **something})


def test_pictures_are_named_as_their_form_fields() -> None:
    params = check(LatentRevisionsParams, {"prompt": "x", "img_path": "a.png", "ne_img_enc_path": Path("b")})
    assert params.pictures() == {"img": Path("a.png"), "ne_img_enc": Path("b")}


@pytest.mark.parametrize(
    "params",
    [
        LatentRevisionsParams(prompt="ein „Haus“ 🏠\nin Rot"),
        LatentRevisionsParams(
            prompt="7",
            seed=MAX_SEED,
            iterations=3,
            w0=0.1,
            text_to_add="None",
            w1=-1e-7,
            w2=1000,
            w3=2 / 3,
            img_path=Path("a folder/start.png"),
            img_enc_path=Path("/towards.png"),
            ne_img_enc_path=Path("away.png"),
            size=(256, 192),
            start="learned",
            cutouts=5,
        ),
        StyleCLIPParams(prompt="blaue Augen"),
        StyleCLIPParams(prompt="x", seed=0, iterations=1, img_path=Path("face.png"), method="optimisation"),
    ],
)
def test_a_redis_hash_carries_them(params: JobParams) -> None:
    fields = params.model_dump(mode="json", exclude_none=True)
    assert all(isinstance(value, (str, int, float)) for value in fields.values())  # as HSET takes them
    assert check(type(params), {name: str(value) for name, value in fields.items()}) == params
