from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mead.nn.resampling import _weights, gradient_of_sampling


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 1, 5, 9)])
def test_the_gradient_of_sampling(shape: tuple[int, ...]) -> None:
    """Points inside, on the edge and outside; the integers round by less than a millionth of the largest."""
    torch.manual_seed(0)
    pictures = torch.randn(shape, requires_grad=True)
    grid = 2.6 * torch.rand(shape[0], 30, 20, 2) - 1.3
    sampled = F.grid_sample(pictures, grid, align_corners=False)
    for scale in (1e-8, 1.0, 1e8):
        grad = scale * torch.randn_like(sampled)
        (expected,) = torch.autograd.grad(sampled, pictures, grad, retain_graph=True)
        found = gradient_of_sampling(grad, grid, pictures.shape)
        assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
    zero = gradient_of_sampling(torch.zeros_like(sampled), grid, pictures.shape)
    assert not zero.any()


def test_the_gradient_of_sampling_does_not_depend_on_the_order() -> None:
    torch.manual_seed(0)
    grid, grad = 2 * torch.rand(1, 1, 5000, 2) - 1, torch.randn(1, 3, 1, 5000)
    order = torch.randperm(5000)
    one = gradient_of_sampling(grad, grid, torch.Size([1, 3, 16, 16]))
    other = gradient_of_sampling(grad[..., order], grid[:, :, order], torch.Size([1, 3, 16, 16]))
    assert torch.equal(one, other)


@pytest.mark.parametrize(("before", "after"), [((64, 48), (16, 32)), ((10, 12), (40, 31))])
def test_resizing_is_two_products(before: tuple[int, int], after: tuple[int, int]) -> None:
    pictures = torch.rand(2, 3, *before)
    expected = F.interpolate(pictures, after, mode="bicubic", align_corners=False, antialias=True)
    down, across = (_weights(*sides, torch.device("cpu")) for sides in zip(before, after, strict=True))
    torch.testing.assert_close(down @ pictures @ across.mT, expected, atol=1e-5, rtol=1e-5)
