from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mead.nn import winograd
from mead.nn.frozen import FrozenConv2d
from mead.nn.threads import own_threads

SIZES = [(64, 64), (61, 67), (33, 130), (3, 1025)]  # whole tiles, and tiles that the border cuts


def of_features(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(n, channels, height, width).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("adds", [False, True])
def test_it_is_a_convolution(height: int, width: int, adds: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = of_features(2, 64, height, width), torch.randn(80, 64, 3, 3), torch.randn(80)
    addend = torch.randn(2, 80, height, width) if adds else None
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    if addend is not None:
        expected += addend
    y = winograd.convolve(x, winograd.transform(weight), bias, addend)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_result_is_the_same_in_any_batch_and_by_any_number_of_threads() -> None:
    torch.manual_seed(0)
    x, weight = of_features(3, 64, 61, 67), winograd.transform(torch.randn(64, 64, 3, 3))
    together = winograd.convolve(x, weight, None, None)
    with own_threads(1):
        alone = [winograd.convolve(each[None], weight, None, None) for each in x]
    assert torch.equal(together, torch.cat(alone))


def test_a_frozen_convolution_of_a_large_picture_uses_it_both_ways() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 96, 3, padding=1)
    frozen = FrozenConv2d(conv, torch.float32)
    small, large = of_features(1, 64, 16, 16), of_features(1, 64, 64, 72).requires_grad_()
    frozen(small)  # rearranges the weights
    ours, theirs = frozen(large), conv(large)
    grad = torch.randn_like(theirs)
    (one,), (other,) = (torch.autograd.grad(y, large, grad) for y in (ours, theirs))
    assert winograd.is_faster(large, 96) and winograd.is_faster(grad, 64)
    for a, b in ((ours, theirs), (one, other)):
        assert not torch.equal(a, b)  # another algorithm
        assert (a - b).abs().max() < 2e-5 * b.abs().max()
    assert torch.equal(copy.deepcopy(frozen)(large), ours)


@pytest.mark.parametrize(
    ("x", "channels_out"),
    [
        (torch.zeros(1, 64, 16, 16), 64),  # few tiles
        (torch.zeros(1, 64, 64, 64), 32),  # few channels
        (torch.zeros(1, 72, 64, 64), 64),  # not as many as vectors have
        (torch.zeros(1, 64, 64, 64, dtype=torch.bfloat16), 64),
        (torch.zeros(1, 64, 64, 64, dtype=torch.float64), 64),
        (torch.zeros(1, 64, 64, 64, device="meta"), 64),
    ],
)
def test_other_features_are_convolved_as_ever(x: torch.Tensor, channels_out: int) -> None:
    assert not winograd.is_faster(x, channels_out)
    assert winograd.is_faster(torch.zeros(1, 64, 64, 64), 64)
