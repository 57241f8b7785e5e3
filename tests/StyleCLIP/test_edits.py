"""Edits in one pass, on the demo weights: mappers and sliders, alone, together and beside words."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mead.nn.state_dict import StateDictError
from mead.params import MissingError, ParamsError, check
from mead.revision import run
from mead.weights.errors import WeightsError
from mead.weights.optional import check_optional
from mead.weights.sets import WeightSet
from StyleCLIP.choices import choices
from StyleCLIP.edits import Edits
from StyleCLIP.levels_mapper import LevelsMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.sliders import Sliders
from StyleCLIP.StyleCLIP import StyleCLIP, StyleCLIPPipeline, load_pipeline
from tests.StyleCLIP.test_styleclip import finish, girl
from training.pictures import tensor
from training.reader import Reader

__all__ = ["girl"]

MAPPERS = {"bald", "beard", "curly_hair", "glasses", "smile"}


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    return load_pipeline("demo", "cpu")


def params(**given: Any) -> StyleCLIPParams:
    return check(StyleCLIPParams, {"seed": 1, "upscale": 1, **given})


def test_the_demo_set_offers_them_by_name() -> None:
    offered = choices(WeightSet.find("demo"))
    assert set(offered["mapper"]) == MAPPERS
    assert {"age", "smile", "glasses", "beard", "hat"} <= offered["sliders"].keys()
    age = offered["sliders"]["age"]
    assert age is not None and age.least <= -1 and age.most >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"mapper": "glasses"}, "glasses", "glasses"),
        ({"mapper": "curly_hair"}, "hair_style", "curly"),
        ({"sliders": "glasses:3"}, "glasses", "glasses"),
        ({"sliders": "smile:-3 | glasses:3"}, "expression", "frown"),
        ({"mapper": "curly_hair", "sliders": "glasses:3"}, "glasses", "glasses"),
        ({"mapper": "curly_hair", "sliders": "glasses:3"}, "hair_style", "curly"),
    ],
)
def test_a_face_becomes_what_it_is_told(
    pipeline: StyleCLIPPipeline, girl: Path, given: Any, field: str, value: str
) -> None:
    revision = pipeline.start(params(img_path=girl, **given))
    (picture,) = finish(pipeline, [revision])
    assert (revision.steps, revision.loss) == (21, 0)
    (read,) = Reader.load().read(tensor([picture]))
    assert read[field] == value
    assert (read["hair_colour"], read["gender"]) == ("brown", "female")


@pytest.mark.slow
def test_strength_none_is_the_inversion(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    face = pipeline.image(pipeline.start(params(prompt="x", img_path=girl, start="inversion", refine=0)))
    for given in ({"mapper": "beard"}, {"sliders": "age:2"}):
        pictures = [
            pipeline.image(pipeline.start(params(img_path=girl, strength=strength, refine=0, **given)))
            for strength in (0, 0.5, 1)
        ]
        assert pictures[0].tobytes() == face.tobytes()
        away = [float(np.abs(np.asarray(p, float) - np.asarray(face, float)).mean()) for p in pictures]
        assert 0 < away[1] < away[2]


@pytest.mark.slow
def test_sliders_move_what_was_optimised(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    words = {"prompt": "a girl with blue hair", "img_path": girl, "iterations": 2}
    plain, slid = (pipeline.start(params(**words, **more)) for more in ({}, {"sliders": "glasses:3"}))
    finish(pipeline, [plain, slid])
    assert torch.equal(plain.latents, slid.latents)
    assert pipeline.edits.sliders is not None
    offset = pipeline.edits.sliders.offset({"glasses": 3})
    torch.testing.assert_close(slid.shown, plain.shown + offset)


def test_in_style_space_sliders_are_the_same(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    given = {
        "prompt": "a girl with blue hair",
        "img_path": girl,
        "start": "inversion",
        "sliders": "age:3",
        "refine": 0,
    }
    in_codes, in_styles = (pipeline.start(params(space=space, **given)) for space in ("w+", "s"))
    expected = pipeline.spaces.to_styles(in_codes.shown)
    torch.testing.assert_close(in_styles.shown, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_both_spaces_in_one_batch(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    def started() -> Iterator[Any]:
        for space in ("w+", "s"):
            yield pipeline.start(
                params(prompt="a girl with blue hair", img_path=girl, iterations=2, space=space)
            )

    together = finish(pipeline, list(started()))
    alone = [finish(pipeline, [revision])[0] for revision in started()]
    assert [picture.tobytes() for picture in together] == [picture.tobytes() for picture in alone]
    assert together[0].tobytes() != together[1].tobytes()


@pytest.mark.slow
def test_refining_brings_the_inversion_closer(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    plain = params(img_path=girl, mapper="glasses", strength=0, refine=0)
    refined = plain.model_copy(update={"refine": 10})
    drawn = np.asarray(pipeline.aligned(girl).resize((128, 128)), float)
    off = [float(np.abs(np.asarray(run(pipeline, each), float) - drawn).mean()) for each in (plain, refined)]
    assert off[1] < off[0]
    revision = pipeline.start(refined)
    assert revision.steps == 11
    for _ in range(10):
        pipeline.step([revision])
        assert revision.refinement is not None
    pipeline.step([revision])
    assert revision.refinement is None and revision.finished


def test_refined_faces_are_the_same_in_a_batch(pipeline: StyleCLIPPipeline, girl: Path) -> None:
    words = {"prompt": "a girl with blue hair", "img_path": girl, "iterations": 2, "refine": 3}
    (alone,) = finish(pipeline, [pipeline.start(params(**words))])
    others = [pipeline.start(params(**words)), pipeline.start(params(prompt="a queen", iterations=4))]
    assert finish(pipeline, others)[0].tobytes() == alone.tobytes()


def test_what_must_be_given() -> None:
    assert params(mapper="beard").method == "mapper"
    assert params(sliders="age:1").method == "optimisation"
    with pytest.raises(MissingError, match=r"^prompt: must be given, or sliders or mapper$"):
        params()
    with pytest.raises(ParamsError, match=r'^prompt: must be given for the method "global"$') as missing:
        params(method="global")
    assert not missing.value.out_of_range
    for given, rest in (
        ({"method": "global", "sliders": "age:1"}, '"global"; sliders alone need no method'),
        (
            {"method": "global", "mapper": "beard"},
            '"global"; with the method "mapper", "beard" alone is an edit',
        ),
        (
            {"method": "optimisation", "mapper": "beard"},
            '"optimisation"; with the method "mapper", "beard" alone',
        ),
    ):
        with pytest.raises(ParamsError, match=f"^prompt: must be given for the method {rest}") as refused:
            params(**given)
        assert (refused.value.field, refused.value.out_of_range) == ("prompt", True)
    assert params(sliders={"age": 3, "smile": -0.5}).sliders == "age:3 | smile:-0.5"
    with pytest.raises(ParamsError, match=r'^sliders: "age \| smile" holds \|, which would divide it'):
        params(sliders={"age | smile": 3})
    record = params(sliders="age:1").model_dump(mode="json", exclude_none=True)
    assert record.keys() == {"seed", "n", "upscale", "method", "sliders"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sliders": "age:1 | wisdom:2"}, r'^sliders: there is no "wisdom"; there are age, beard, '),
        ({"sliders": "age: x"}, r'^sliders: age is given "x", which is not a number; it goes from -\S+ to '),
        ({"sliders": "age:"}, r'^sliders: age is given "", which is not a number'),
        ({"sliders": "wisdom:x"}, r'^sliders: there is no "wisdom:x"; there are age, '),
        ({"sliders": "age:9"}, r"^sliders: age goes from -\S+ to \S+ with these weights, not to 9"),
        ({"mapper": "afro"}, r'^mapper: there is no "afro"; there are bald, beard, curly_hair, '),
        ({"method": "mapper"}, r"^mapper: must be named; there are bald, beard, "),
    ],
)
def test_names_that_there_are_not(given: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as refused:
        check_optional(params(**given), "demo")
    assert refused.value.out_of_range


def test_the_full_set_says_what_can_be_fetched() -> None:
    with pytest.raises(ParamsError, match=r"fetch full --with mapper_afro`"):
        check_optional(params(mapper="afro"), "full")
    with pytest.raises(ParamsError, match=r'no "hat"; .* --with` takes mapper_afro, mapper_angry, '):
        check_optional(params(mapper="hat"), "full")
    with pytest.raises(ParamsError, match=r"fetch full --with sliders`"):
        check_optional(params(sliders="age:1"), "full")


@pytest.mark.parametrize("sliders", ["age:1 | age:2", "age:1 |", "age:1e9"])
def test_sliders_that_cannot_be_read(sliders: str) -> None:
    with pytest.raises(ParamsError, match=r"^sliders: "):
        params(sliders=sliders)


def test_what_has_no_effect_is_said() -> None:
    assert params(mapper="beard", prompt="a cat", alpha=2).without_effect() == {
        "prompt": "a mapper makes the edit",
        "alpha": "a mapper makes the edit",
    }
    assert params(sliders="age:1", iterations=3).without_effect() == {"iterations": "sliders make the edit"}
    for method in ("optimisation", "global"):
        assert params(prompt="a", mapper="beard", method=method, sliders="age:1").without_effect() == {
            "mapper": f'the method is "{method}"; leave that out, or make it "mapper"'
        }
    optimised = params(prompt="a", alpha=2, neutral="b").without_effect()
    why = 'the edit is optimised, and it is of the method "global"'
    assert optimised == {"alpha": why, "neutral": why}
    by_words = params(
        prompt="a", method="global", space="s", start="learned", l2=1, frames=3
    ).without_effect()
    assert by_words == dict.fromkeys(["space", "start", "l2", "frames"], "nothing is optimised")


def test_networks_that_do_not_fit(pipeline: StyleCLIPPipeline) -> None:
    spaces = pipeline.spaces
    with pytest.raises(WeightsError, match="mapper_beard is of codes of 6 numbers; stylegan2's have 96"):
        Edits(spaces, None, {"beard": LevelsMapper(6, {"course_mapping": 1})}, None)
    with pytest.raises(WeightsError, match=r"sliders are not of codes of shape \(12, 96\)"):
        Edits(spaces, None, {}, Sliders({"age": 18}, 96))
    with pytest.raises(StateDictError, match="different lengths"):
        Sliders.from_state_dict({"a_direction": torch.zeros(1, 2), "b_direction": torch.zeros(1, 3)})
    with pytest.raises(StateDictError, match="a_range"):
        Sliders.from_state_dict({"a_direction": torch.zeros(1, 2)})
    bare = copy.copy(pipeline)
    bare.edits = Edits(spaces, None, {}, None)
    for given, message in (({"mapper": "beard"}, "mapper: "), ({"sliders": "age:1"}, "sliders: ")):
        with pytest.raises(ParamsError, match=message):
            bare.start(params(**given))


@pytest.mark.slow
def test_another_strength_afterwards(tmp_path: Path, girl: Path) -> None:
    made = StyleCLIP(img_path=girl, mapper="glasses", seed=1, upscale=1, output_path=tmp_path)
    with pytest.raises(RuntimeError, match="run"):
        made.at_strength(0.5)
    whole = Path(made.run())
    again, half = Path(made.at_strength(1)), Path(made.at_strength(0.5))
    assert half.name == f"{whole.stem}-0.5.png"
    direct = StyleCLIP(img_path=girl, mapper="glasses", seed=1, upscale=1, output_path=tmp_path, strength=0.5)
    assert Path(direct.run()).read_bytes() == half.read_bytes() != whole.read_bytes()
    assert again.read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match=r"^strength: must be at most 2"):
        made.at_strength(3)


@pytest.mark.slow
def test_one_of_several_edits_in_another_size_afterwards(tmp_path: Path, girl: Path) -> None:
    given: dict[str, Any] = {"img_path": girl, "iterations": 2, "refine": 0, "start": "inversion"}
    given |= {"output_path": tmp_path}
    made = StyleCLIP("a face with glasses", seed=1, n=2, upscale=1, **given)
    first, second = map(Path, made.run_all())
    again = Path(made.at_strength(1, variant=1))
    assert again.read_bytes() == second.read_bytes() != first.read_bytes()
    large = Path(made.at_strength(0.5, upscale=2, variant=1))
    assert large.name == f"{second.stem}-0.5-x2.png"
    direct = StyleCLIP("a face with glasses", seed=2, upscale=2, strength=0.5, **given)
    assert Path(direct.run()).read_bytes() == large.read_bytes()
    with pytest.raises(ValueError, match=r"^upscale: must be 1, 2 or 4"):
        made.at_strength(1, upscale=3)
    with pytest.raises(IndexError, match=r"^variant: 2, of 2 edits"):
        made.at_strength(1, variant=2)
