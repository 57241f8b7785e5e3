from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mead.nn.frozen import FrozenConv2d, FrozenUpsample, freeze


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Conv2d(4, 6, 2, padding=1, bias=False),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
    ],
)
def test_a_frozen_convolution_is_the_same_both_ways(conv: nn.Conv2d) -> None:
    torch.manual_seed(0)
    frozen = FrozenConv2d(conv, torch.float32)
    x = torch.randn(2, conv.in_channels, 7, 9, requires_grad=True)
    ours, theirs = frozen(x), conv(x)
    grad = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    (one,), (other,) = (torch.autograd.grad(y, x, grad) for y in (ours, theirs))
    torch.testing.assert_close(one, other)


def test_a_frozen_convolution_adds_and_cuts_off_what_is_negative() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean)
    x, addend = torch.randn(2, 4, 7, 9, requires_grad=True), torch.randn(2, 6, 7, 9, requires_grad=True)
    theirs = (norm.eval()(conv(x)) + addend).relu()
    ours = FrozenConv2d.with_norm(conv, norm, torch.float32, relu=True)(x, addend)
    grad = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(y, (x, addend), grad) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_convolution_can_be_copied_after_it_was_used() -> None:
    frozen = FrozenConv2d(nn.Conv2d(4, 6, 3), torch.float32)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    frozen(x).sum().backward()
    copied = copy.deepcopy(frozen)
    assert torch.equal(copied(x), frozen(x))
    assert copied.weight is not frozen.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_shortcut_are_added(dtype: torch.dtype, stride: int) -> None:
    """In float64 and with a stride, oneDNN's own layout of weights is not used, as on a GPU."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride, padding=1).to(dtype)
    frozen, x = FrozenConv2d(conv, dtype), torch.randn(2, 4, 7, 9, dtype=dtype, requires_grad=True)
    y, skipped = frozen.convolve(x.detach()), torch.randn_like(x)
    (exact,) = torch.autograd.grad(conv(x).sum() + (skipped * x).sum(), x)
    torch.testing.assert_close(frozen.gradient(torch.ones_like(y), x.shape, skipped.clone()), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_frozen_upsampling_is_a_convolution_of_twice_as_many_pixels(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1).to(dtype)
    frozen = FrozenUpsample(conv, dtype)
    x, addend = (
        torch.randn(2, *shape, dtype=dtype, requires_grad=True) for shape in ((4, 5, 7), (6, 10, 14))
    )
    theirs = conv(F.interpolate(x, scale_factor=2.0, mode="nearest")) + addend
    ours = frozen(x, addend)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(copy.deepcopy(frozen)(x, addend), theirs)  # after its weights are rearranged
    grad = torch.randn_like(theirs)
    for one, other in zip(*(torch.autograd.grad(y, (x, addend), grad) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
    skipped = torch.randn_like(x)
    (exact,) = torch.autograd.grad(ours.sum() + (skipped * x).sum(), x)
    torch.testing.assert_close(frozen.gradient(torch.ones_like(ours), x.shape, skipped), exact)


@pytest.mark.parametrize("frozen", [FrozenConv2d, FrozenUpsample])
def test_threads_may_use_it_first_at_the_same_time(
    frozen: Callable[[nn.Conv2d, torch.dtype], nn.Module],
) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 8, 8, requires_grad=True)
    barrier = threading.Barrier(4)

    def both_ways(network: nn.Module) -> list[torch.Tensor]:
        barrier.wait()
        y = network(x)
        return [y.detach(), *torch.autograd.grad(y.sum(), x)]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            first, *others = pool.map(both_ways, [frozen(conv, torch.float32)] * 4)
            for other in others:
                assert all(map(torch.equal, first, other))


def test_padding_by_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be numbers, not 'same'"):
        FrozenConv2d(nn.Conv2d(4, 4, 3, padding="same"), torch.float32)


def test_a_frozen_convolution_keeps_no_features() -> None:
    frozen = FrozenConv2d(nn.Conv2d(4, 4, 3), torch.float32)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        frozen(torch.randn(1, 4, 8, 8, requires_grad=True))
    assert kept == []


def test_weights_are_cast_once_and_normalisations_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2))
    x = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = network.eval()(x)
        frozen = freeze(network, torch.bfloat16)
        after = frozen(x)
    assert torch.equal(before, after)
    formats = {name: parameter.dtype for name, parameter in frozen.named_parameters()}
    assert formats.pop("1.weight") == formats.pop("1.bias") == torch.float32
    assert set(formats.values()) == {torch.bfloat16} and len(formats) == 4
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
