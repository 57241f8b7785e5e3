"""The latent mapper: built from its weights, the same for every layer, at home with any number of faces."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mead.nn.state_dict import StateDictError
from StyleCLIP.mapper import LatentMapper

CODES = torch.linspace(-1, 1, 3 * 4 * 6).view(3, 4, 6)
SAID = F.normalize(torch.linspace(-1, 2, 3 * 5).view(3, 5), dim=1)


@pytest.fixture
def mapper() -> LatentMapper:
    torch.manual_seed(0)
    return LatentMapper(style_dim=6, embed_dim=5, width=7).requires_grad_(False)


def test_it_is_built_from_its_weights_alone(mapper: LatentMapper) -> None:
    again = LatentMapper.from_state_dict(mapper.state_dict())
    assert (again.style_dim, again.embed_dim) == (6, 5)
    torch.testing.assert_close(again(CODES, SAID), mapper(CODES, SAID))


def test_all_codes_of_a_face_go_the_same_way(mapper: LatentMapper) -> None:
    way = mapper(CODES, SAID) - CODES
    torch.testing.assert_close(way, way[:, :1].expand(-1, 4, -1))
    torch.testing.assert_close(way[:, 0], mapper.offset(CODES.mean(1), SAID))
    for k in range(3):
        torch.testing.assert_close(mapper(CODES[k : k + 1], SAID[k : k + 1])[0], (CODES + way)[k])


def test_other_words_lead_elsewhere(mapper: LatentMapper) -> None:
    assert (mapper(CODES, SAID) - mapper(CODES, -SAID)).abs().max() > 0.1


@pytest.mark.parametrize("key", ["mapper_in.weight", "mapper_out.weight", "mapper_out.bias"])
def test_a_missing_key_is_named(mapper: LatentMapper, key: str) -> None:
    with pytest.raises(StateDictError, match=key):
        LatentMapper.from_state_dict({k: v for k, v in mapper.state_dict().items() if k != key})


def test_a_mapper_that_takes_no_words_is_none(mapper: LatentMapper) -> None:
    with pytest.raises(StateDictError, match="none left for an embedding"):
        LatentMapper.from_state_dict(mapper.state_dict() | {"mapper_in.weight": torch.zeros(7, 6)})
