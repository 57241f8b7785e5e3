"""Global directions: with the published numbers, and on the demo set with a made-up table."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mead.nn.state_dict import StateDictError
from mead.params import ParamsError, check
from mead.revision import run
from mead.weights.errors import WeightsError
from StyleCLIP.global_directions import (
    ALPHAS,
    GlobalDirections,
    GlobalEdits,
    convolutions,
    imagenet_templates,
    text_direction,
)
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.spaces import StyleRange
from StyleCLIP.StyleCLIP import StyleCLIPPipeline, load_pipeline
from tests import parity


def of(table: torch.Tensor, deviation: torch.Tensor) -> GlobalDirections:
    return GlobalDirections.from_state_dict({"table": table, "deviation": deviation})


def test_matches_the_published_implementation() -> None:
    fixture = parity.load("global_direction")
    directions = of(fixture["channel_table"], fixture["std"])
    direction = text_direction(fixture["text_features_target"], fixture["text_features_neutral"])
    for beta in (0.08, 0.10):
        change = directions.change(direction, beta)
        assert parity.error(change, fixture[f"direction_beta_{beta:.2f}"]) < parity.TOLERANCE
        assert int(change.count_nonzero()) == int(fixture[f"channels_beta_{beta:.2f}"])


def test_automatic_beta_is_the_largest_that_leaves_enough() -> None:
    relevance = torch.linspace(0.3, -0.3, 100)[:, None]
    directions = of(relevance, torch.ones(100))
    change = directions.change(torch.ones(1), "auto")
    assert int(change.count_nonzero()) == 24 and change.abs().max() == 1
    assert torch.equal(change, directions.change(torch.ones(1), 0.23))
    few = of(relevance / 2, torch.ones(100))
    assert torch.equal(few.change(torch.ones(1), "auto"), few.change(torch.ones(1), 0.11))


def test_a_beta_that_leaves_nothing_is_an_error_that_says_which_would() -> None:
    directions = of(torch.tensor([[0.12345], [-0.05]]), torch.ones(2))
    with pytest.raises(ParamsError, match=r"^beta: .* as 0\.5; 0\.123 would keep some$") as error:
        directions.change(torch.ones(1), 0.5)
    assert error.value.out_of_range
    assert directions.change(torch.ones(1), 0.123).tolist() == [1, 0]


def test_there_are_79_templates() -> None:
    texts = [template("face") for template in imagenet_templates()]
    assert len(texts) == 79 and "a bad photo of a face." in texts and "a photo of many face." not in texts


def test_a_table_may_be_a_product() -> None:
    torch.manual_seed(0)
    table, basis, deviation = torch.randn(40, 3), torch.randn(3, 8), torch.rand(40)
    product = {"table": table, "basis": basis, "deviation": deviation}
    directions, direction = GlobalDirections.from_state_dict(product), F.normalize(torch.ones(8), dim=0)
    assert (directions.channels, directions.embed_dim) == (40, 8)
    whole = of(table @ basis, deviation).change(direction, 0.1)
    assert torch.allclose(directions.change(direction, 0.1), whole, atol=1e-6)


def test_what_does_not_fit_is_an_error(pipeline: StyleCLIPPipeline) -> None:
    with pytest.raises(StateDictError, match="deviation"):
        of(torch.zeros(5, 3), torch.zeros(4))
    with pytest.raises(StateDictError, match="table"):
        of(torch.zeros(5), torch.zeros(5))
    with pytest.raises(StateDictError, match="table"):
        GlobalDirections.from_state_dict(
            {"table": torch.zeros(5, 2), "basis": torch.zeros(3, 8), "deviation": torch.zeros(5)}
        )
    parts = pipeline.perceptor, pipeline.generator, pipeline.hyperparameters, pipeline.precision
    with pytest.raises(WeightsError, match=r"5 channels .* stylegan2 has 1696, or 1120 without .* clip 128"):
        GlobalEdits(of(torch.zeros(5, 3), torch.zeros(5)), *parts)


def test_channels_are_those_of_convolutions_unless_there_are_more() -> None:
    assert convolutions([2, 3, 2, 4, 1]).tolist() == [0, 1, 5, 6, 7, 8, 9, 10]


@pytest.fixture(scope="module")
def pipeline() -> StyleCLIPPipeline:
    """As published, with a table that says nothing true, and so has any direction."""
    pipeline = copy.copy(load_pipeline("demo", "cpu"))
    torch.manual_seed(0)
    table = F.normalize(torch.randn(1120, 128), dim=1)
    own = replace(pipeline.hyperparameters, alternatives="", searches_alpha=False)
    parts = pipeline.perceptor, pipeline.generator, own, pipeline.precision
    pipeline.edits = copy.copy(pipeline.edits)
    pipeline.edits.directions = GlobalEdits(of(table, torch.full((1120,), 0.2)), *parts)
    return pipeline


def params(**given: Any) -> StyleCLIPParams:
    return StyleCLIPParams(prompt="a person with blue hair", seed=1, **{"method": "global", **given})


def test_an_edit_takes_one_step_and_goes_as_far_as_alpha_says(pipeline: StyleCLIPPipeline) -> None:
    before = pipeline.start(params(method="optimisation", start="inversion"))
    unedited = pipeline.generator.styles(before.latents)
    revisions = [pipeline.start(params(alpha=alpha, beta="auto")) for alpha in (0, 2, 4, -2)]
    pipeline.step(revisions)
    assert all(revision.finished and revision.steps == 1 and revision.loss == 0 for revision in revisions)
    moved = []
    for revision in revisions:
        assert not revision.optimises
        moved.append(revision.shown - torch.cat(unedited, 1))
    assert not moved[0].any() and int(moved[1].count_nonzero()) > 20
    assert torch.allclose(2 * moved[1], moved[2], atol=1e-5)
    assert torch.allclose(-moved[1], moved[3], atol=1e-5)
    pictures = [pipeline.image(revision).tobytes() for revision in (before, *revisions)]
    assert pictures[0] == pictures[1] and len(set(pictures)) == 4


def test_strength_is_of_the_way_in_style_space(pipeline: StyleCLIPPipeline) -> None:
    before = pipeline.image(pipeline.start(params(method="optimisation", start="inversion")))
    pictures = [
        pipeline.image(pipeline.start(params(alpha=alpha, beta="auto", strength=strength))).tobytes()
        for alpha, strength in ((4, 0), (4, 0.5), (2, 1))
    ]
    assert pictures[0] == before.tobytes() and pictures[1] == pictures[2] != pictures[0]


def test_beyond_the_edit_styles_end_where_faces_usually_do() -> None:
    spaces = load_pipeline("demo", "cpu").spaces
    styles = StyleRange(spaces, torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, 1.0, torch.inf]))
    face, edited = torch.tensor([[0.0, -2.0, 0.0]]), torch.tensor([[0.8, -1.8, 2.0]])
    for strength, expected in ((1, edited), (1.25, [[1, -1.75, 2.5]]), (2, [[1, -1.6, 4]])):
        torch.testing.assert_close(styles.beyond(face, edited, strength), torch.as_tensor(expected).float())
    torch.testing.assert_close(styles.beyond(edited, face, 2), torch.tensor([[-0.8, -2.0, -1.0]]))


@pytest.mark.parametrize(
    "given", [{"method": "global"}, {"start": "learned"}, {"method": "mapper", "mapper": "beard"}], ids=str
)
def test_the_demo_set_ends_there_whatever_the_method(given: dict[str, Any]) -> None:
    pipeline = load_pipeline("demo", "cpu")
    assert pipeline.edits.directions is not None and pipeline.styles is not None
    whole, more = (
        pipeline.start(
            check(StyleCLIPParams, {"prompt": "a person with a white hat", "seed": 1, **given, **s})
        )
        for s in ({}, {"strength": 2})
    )
    ends = [each if each.ndim == 2 else pipeline.spaces.to_styles(each) for each in (whole.face, whole.shown)]
    mean = pipeline.spaces.to_styles(pipeline.average)
    deviation = pipeline.edits.directions.directions.deviation
    away = (more.shown - mean).abs() / deviation
    assert (
        away <= torch.stack([((end - mean) / deviation).abs() for end in ends]).amax(0).clamp(1) + 1e-4
    ).all()
    further = (more.shown - ends[0]).abs() - (ends[1] - ends[0]).abs()
    assert (further > -1e-4).all() and (further > 1e-3).any()
    assert pipeline.image(more).tobytes() != pipeline.image(whole).tobytes()


def test_without_a_range_strength_goes_on(pipeline: StyleCLIPPipeline) -> None:
    """As published, where it is the same as a larger alpha."""
    bare = copy.copy(pipeline)
    bare.styles = None
    twice, far = (
        bare.start(params(beta="auto", **given)) for given in ({"alpha": 2, "strength": 2}, {"alpha": 4})
    )
    torch.testing.assert_close(twice.shown, far.shown)
    assert pipeline.edits.directions is not None
    own = replace(pipeline.edits.directions.hyperparameters, style_range=0.0)
    other = copy.copy(pipeline.edits.directions)
    other.hyperparameters = own
    assert other.range_around(pipeline.average) is None
    other.hyperparameters = replace(own, style_range=2.0)
    styles = other.range_around(pipeline.average)
    assert styles is not None
    reach = (styles.most - styles.least) / 2
    assert torch.allclose(reach[other.places], torch.tensor(0.4)) and int(reach.isinf().sum()) == 1696 - 1120


def test_edits_and_optimisations_share_a_batch(pipeline: StyleCLIPPipeline) -> None:
    edit, other, alone = (
        pipeline.start(params(method=method, iterations=2))
        for method in ("global", "optimisation", "optimisation")
    )
    pipeline.step([edit, other])
    pipeline.step([other])
    while not alone.finished:
        pipeline.step([alone])
    assert pipeline.image(other).tobytes() == pipeline.image(alone).tobytes()
    again = run(pipeline, params(upscale=1))
    assert pipeline.image(edit).tobytes() == again.tobytes()


def test_neutral_words_must_differ(pipeline: StyleCLIPPipeline) -> None:
    with pytest.raises(ParamsError, match=r"^neutral: must differ from the prompt") as refused:
        check(StyleCLIPParams, {"prompt": "a cat", "method": "global", "neutral": "a cat"})
    assert (refused.value.field, refused.value.out_of_range) == ("neutral", True)
    own = pipeline.hyperparameters.neutral
    with pytest.raises(ParamsError, match=r"^neutral: must be given: the weights set's own is the prompt"):
        pipeline.start(StyleCLIPParams(prompt=own, method="global", seed=1))
    there, back = (
        StyleCLIPParams(prompt=a, neutral=b, method="global", seed=1, beta=0.05)
        for a, b in (("a happy man", "a sad man"), ("a sad man", "a happy man"))
    )
    assert pipeline.edits.directions is not None
    codes = pipeline.average
    one, other = (pipeline.edits.directions.styles(codes, each) for each in (there, back))
    middle = torch.cat(pipeline.generator.styles(codes), 1)
    assert torch.allclose(one - middle, middle - other, atol=1e-5)


def test_the_demo_set_edits_what_it_names_from_what_the_face_has() -> None:
    pipeline = load_pipeline("demo", "cpu")
    directions = pipeline.edits.directions
    assert directions is not None
    wanted, codes = params(), pipeline.average
    before = torch.cat(pipeline.generator.styles(codes), 1)
    after = directions.styles(codes, wanted)
    colours = torch.ones(before.shape[1], dtype=torch.bool)
    colours[convolutions(pipeline.generator.style_sizes)] = False
    assert (after != before)[:, colours].any()
    pictures = pipeline.generator.synthesise_styles(
        torch.cat([before, after]).split(pipeline.generator.style_sizes, 1)
    )
    embeddings = pipeline.perceptor.embed_image(pictures.clamp(-1, 1) / 2 + 0.5)
    names = [*directions.kinds[0].instead(wanted.prompt).values(), wanted.prompt]
    seen = (embeddings @ pipeline.perceptor.embed_text(names).T).argmax(1)
    assert names[seen[0]] != wanted.prompt == names[seen[1]]
    # the same, as it is asked for in full; how far CLIP has chosen
    asked = params(neutral=names[seen[0]], alpha=1)
    shares = (after - before) / (directions.styles(codes, asked) - before)
    shares = shares[shares.isfinite()]
    assert torch.allclose(shares, shares.median().expand_as(shares), rtol=1e-2)
    assert any(abs(float(shares.median()) - 2 * share) < 1e-3 for share in ALPHAS)


def test_a_set_without_directions_says_so(pipeline: StyleCLIPPipeline) -> None:
    bare = copy.copy(pipeline)
    bare.edits = copy.copy(bare.edits)
    bare.edits.directions = None
    with pytest.raises(ParamsError, match=r"^method: these weights have no directions"):
        bare.start(params())


@pytest.mark.parametrize("beta", ["auto", " 0.25", "1", 0, 0.25, ".5"])
def test_beta_is_a_number_or_automatic(beta: object) -> None:
    expected = "auto" if beta == "auto" else float(str(beta))
    checked = params(beta=beta)
    assert checked.beta == expected
    assert StyleCLIPParams.model_validate_json(checked.model_dump_json()) == checked


@pytest.mark.parametrize(
    ("given", "out_of_range"),
    [
        ({"beta": "much"}, False),
        ({"beta": "1.01"}, True),
        ({"beta": -0.1}, True),
        ({"beta": True}, False),
        ({"alpha": 11}, True),
        ({"alpha": "nan"}, True),
        ({"alpha": "x"}, False),
        ({"neutral": " "}, False),
        ({"neutral": "a" * 2001}, True),
    ],
)
def test_wrong_parameters_are_named(given: dict[str, Any], out_of_range: bool) -> None:
    with pytest.raises(ParamsError) as error:
        check(StyleCLIPParams, {"prompt": "a smile", "method": "global", **given})
    assert error.value.field in given and error.value.out_of_range is out_of_range


def test_what_has_no_effect_is_noted() -> None:
    idle = params(start="learned", iterations=5, l2=1, identity=0).without_effect()
    assert idle.keys() == {"start", "iterations", "l2", "identity"}
    idle = params(method="optimisation", neutral="a face", alpha=1, beta=0.2).without_effect()
    assert idle.keys() == {"neutral", "alpha", "beta"}
    assert params(neutral="a face", alpha=0).without_effect() == {"the edit": "its alpha is 0"}
