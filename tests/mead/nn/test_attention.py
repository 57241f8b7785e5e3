"""Attention as written out for bfloat16 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mead.nn.attention import attend

SIZES = {"a tower's": (4, 3, 50, 50, 64), "a pool's": (4, 3, 1, 5, 64), "latents'": (4, 1, 64, 64, 32)}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Each test may change their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def inputs(size: tuple[int, ...]) -> list[Tensor]:
    """Queries, keys, values, and a gradient of what they attend to."""
    n, heads, queries, keys, d = size
    torch.manual_seed(0)
    positions = (queries, keys, keys, queries)
    # views as of one product
    return [torch.randn(n, each, heads, d).bfloat16().transpose(1, 2) for each in positions]


def both_ways(tensors: list[Tensor]) -> list[Tensor]:
    """What they attend to, and the gradients of queries, keys and values."""
    *leaves, grad = (tensor.detach() for tensor in tensors)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    attended = attend(*leaves)
    return [attended.detach(), *torch.autograd.grad(attended, leaves, grad)]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_is_attention_both_ways(size: tuple[int, ...]) -> None:
    tensors = inputs(size)
    *leaves, grad = (tensor.double() for tensor in tensors)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    exact = F.scaled_dot_product_attention(*leaves)
    for ours, theirs in zip(
        both_ways(tensors), [exact, *torch.autograd.grad(exact, leaves, grad)], strict=True
    ):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_rounds_the_same_in_any_batch_and_with_any_number_of_threads(size: tuple[int, ...]) -> None:
    tensors = inputs(size)
    torch.set_num_threads(1)
    expected = both_ways(tensors)
    torch.set_num_threads(2)
    for part in (slice(0, 1), slice(1, 3), slice(0, 4)):
        for one, whole in zip(both_ways([each[part] for each in tensors]), expected, strict=True):
            assert torch.equal(one, whole[part])
