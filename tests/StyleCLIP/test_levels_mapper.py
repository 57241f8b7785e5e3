"""The mappers of single edits: the published network, with all levels and without some."""

from __future__ import annotations

import pytest
import torch

from mead.nn.state_dict import StateDictError
from StyleCLIP.levels_mapper import LEVELS, LevelsMapper
from tests import parity


@pytest.fixture(scope="module")
def published() -> parity.Fixture:
    return parity.load("levels_mapper")


def test_it_computes_what_the_published_one_does(published: parity.Fixture) -> None:
    mapper = LevelsMapper.from_state_dict(published.state_dict).requires_grad_(False)
    assert {key: tuple(value.shape) for key, value in mapper.state_dict().items()} == published.shapes
    assert mapper.style_dim == 512
    assert parity.error(mapper.offset(published["w_plus"]), published["offset"]) < parity.TOLERANCE
    assert parity.error(mapper(published["w_plus"]), published["edited"]) < parity.TOLERANCE


@pytest.mark.parametrize("absent", LEVELS)
def test_a_missing_level_leaves_its_codes(published: parity.Fixture, absent: str) -> None:
    tensors = {k: v for k, v in published.state_dict.items() if not k.startswith(absent)}
    mapper = LevelsMapper.from_state_dict(tensors).requires_grad_(False)
    edited = mapper(published["w_plus"])
    for level, codes in LEVELS.items():
        expected = published["w_plus" if level == absent else "edited"][:, codes]
        assert parity.error(edited[:, codes], expected) < parity.TOLERANCE


def test_what_is_no_such_network_is_an_error(published: parity.Fixture) -> None:
    with pytest.raises(StateDictError, match="course_mapping, medium_mapping, fine_mapping"):
        LevelsMapper.from_state_dict({})
    tensors = dict(published.state_dict)
    del tensors["medium_mapping.mapping.3.bias"]
    with pytest.raises(StateDictError, match=r"medium_mapping\.mapping\.3\.bias"):
        LevelsMapper.from_state_dict(tensors)
    tensors = dict(published.state_dict) | {"fine_mapping.mapping.4.weight": torch.zeros(511, 512)}
    with pytest.raises(StateDictError, match=r"fine_mapping\.mapping\.4\.weight"):
        LevelsMapper.from_state_dict(tensors)
