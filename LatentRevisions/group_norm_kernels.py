"""Group normalisation and a SiLU after it on the CPU, both ways, with features read as seldom as possible.

Features are [N, P, C], channels last, of P positions, where C is a multiple of `LANES`. Sums are taken over
parts of a sample's positions. Their number follows from its size alone, so that it is normalised the same in
any batch, by however many threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from mead.nn.kernels import FORMATS, OPTIONS, SMALL, Kernel, all_done, floats, integers, next_task
from mead.nn.vectors import LANES, exp, lanes, load, store

PART = 2**13  # numbers in a part, if that makes no more than so many:
PARTS = 256

f = np.float32


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise x [N, C, H, W], channels last.

    Returns:
        The result, and for `backward`: mean and inverse deviation of the groups, [N, groups], and what each
        channel was multiplied by and what was added then, [N, 2, C].
    """
    n, channels, height, width = x.shape
    positions = height * width
    parts = _parts(positions, channels)
    sizes = (n, positions, channels, parts, groups, int(swish))
    y, mean, rstd = torch.empty_like(x), torch.empty(n, groups), torch.empty(n, groups)
    sums, lines = torch.empty(n, parts, 2, channels), torch.empty(n, 2, channels)
    small = x.numel() < SMALL
    _kernel(_add_up, x.dtype)(
        (x, sums, weight, bias, _number(eps), mean, rstd, lines), sizes, n * parts, small
    )
    _kernel(_apply, x.dtype)((x, lines, y), sizes, n * parts, small)
    return y, mean, rstd, lines


def backward(
    grad: Tensor,
    skipped: Tensor | None,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    lines: Tensor,
    swish: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x [N, C, H, W], channels last, and of weight and bias for each sample, [N, 2, C].

    Args:
        grad: that of the result.
        skipped: one of x by another way, which is added.
    """
    n, channels, height, width = x.shape
    positions = height * width
    parts = _parts(positions, channels)
    sizes = (n, positions, channels, parts, mean.shape[1], int(swish), int(skipped is not None))
    grad_x, sums = torch.empty_like(x), torch.empty(n, parts, 2, channels)
    grad_lines, grads = torch.empty(n, 3, channels), torch.empty(n, 2, channels)
    small = x.numel() < SMALL
    _kernel(_add_up_gradients, x.dtype)(
        (grad, x, lines, grad_x, sums, weight, mean, rstd, grad_lines, grads), sizes, n * parts, small
    )
    _kernel(_apply_backward, x.dtype)(
        (x, grad_lines, grad_x if skipped is None else skipped, grad_x), sizes, n * parts, small
    )
    return grad_x, grads


def compile_kernels(dtype: torch.dtype) -> None:
    """Compile what features of this format need: some seconds, unless that is kept from another time."""
    if dtype in FORMATS:
        for body in (_add_up, _apply, _add_up_gradients, _apply_backward):
            _kernel(body, dtype)


def _parts(positions: int, channels: int) -> int:
    return max(1, min(PARTS, positions, positions * channels // PART))


@lru_cache
def _number(value: float) -> Tensor:
    return torch.tensor(value)


@lru_cache
def _kernel(body: Any, dtype: torch.dtype) -> Kernel:
    return Kernel(body, dtype)


# --- Forward


def _add_up(pointers):  # type: ignore[no-untyped-def]
    """The sums of x and of x² in each part and channel."""
    _, positions, channels, parts, _, _ = carray(integers(pointers[1]), 6)
    x, sums = pointers[2], floats(pointers[3])
    done, task = 0, next_task(pointers[0])
    while task >= 0:
        first, end = places(task, positions, channels, parts)
        for c in range(0, channels, LANES):
            plain, squares = lanes(f(0)), lanes(f(0))
            for at in range(first + c, end, channels):
                value = load(x, at)
                plain = plain + value
                squares = squares + value * value
            store(plain, sums, 2 * task * channels + c)
            store(squares, sums, (2 * task + 1) * channels + c)
        done, task = done + 1, next_task(pointers[0])
    if all_done(pointers[0], done):
        _find_lines(sums, pointers)


@njit(**OPTIONS)
def _find_lines(sums, pointers):  # type: ignore[no-untyped-def]
    """What each channel is multiplied by, and what is added then."""
    n, positions, channels, parts, groups, _ = carray(integers(pointers[1]), 6)
    sums = carray(sums, (n, parts, 2, channels))
    weight, bias = carray(floats(pointers[4]), channels), carray(floats(pointers[5]), channels)
    eps = carray(floats(pointers[6]), 1)[0]
    mean, rstd = carray(floats(pointers[7]), (n, groups)), carray(floats(pointers[8]), (n, groups))
    lines = carray(floats(pointers[9]), (n, 2, channels))
    width = channels // groups
    for sample in range(n):
        totals = lines[sample]
        totals[:] = 0
        for part in range(parts):
            for c in range(channels):
                totals[0, c] += sums[sample, part, 0, c]
                totals[1, c] += sums[sample, part, 1, c]
        for group in range(groups):
            total, square = 0.0, 0.0
            for c in range(group * width, (group + 1) * width):
                total += totals[0, c]
                square += totals[1, c]
            total /= positions * width
            square /= positions * width
            inverse = 1 / np.sqrt(max(square - total * total, 0.0) + eps)
            mean[sample, group], rstd[sample, group] = total, inverse
            for c in range(group * width, (group + 1) * width):
                factor = weight[c] * inverse
                totals[0, c], totals[1, c] = factor, bias[c] - total * factor


def _apply(pointers):  # type: ignore[no-untyped-def]
    """y = factor · x + summand, or its SiLU."""
    _, positions, channels, parts, _, swish = carray(integers(pointers[1]), 6)
    x, lines, y = pointers[2], floats(pointers[3]), pointers[4]
    task = next_task(pointers[0])
    while task >= 0:
        first, end = places(task, positions, channels, parts)
        line = 2 * (task // parts) * channels
        for c in range(0, channels, LANES):
            factor, summand = load(lines, line + c), load(lines, line + channels + c)
            if swish:
                for at in range(first + c, end, channels):
                    value = load(x, at) * factor + summand
                    store(value / (exp(f(0) - value) + f(1)), y, at)
            else:
                for at in range(first + c, end, channels):
                    store(load(x, at) * factor + summand, y, at)
        task = next_task(pointers[0])


# --- Backward: with h = (x - mean) rstd, g = weight · grad, and <> the mean over a group,
# grad_x = rstd (g - <g> - h <g h>) = factor · grad + slope · x + offset


def _add_up_gradients(pointers):  # type: ignore[no-untyped-def]
    """The gradient of what is before the SiLU, left in grad_x, and the sums of it and of it · x."""
    _, positions, channels, parts, _, swish, _ = carray(integers(pointers[1]), 7)
    grad, x, lines, grad_x, sums = (
        pointers[2],
        pointers[3],
        floats(pointers[4]),
        pointers[5],
        floats(pointers[6]),
    )
    done, task = 0, next_task(pointers[0])
    while task >= 0:
        first, end = places(task, positions, channels, parts)
        line = 2 * (task // parts) * channels
        for c in range(0, channels, LANES):
            factor, summand = load(lines, line + c), load(lines, line + channels + c)
            plain, products = lanes(f(0)), lanes(f(0))
            for at in range(first + c, end, channels):
                value, through = load(x, at), load(grad, at)
                if swish:
                    before = value * factor + summand
                    sigmoid = f(1) / (exp(f(0) - before) + f(1))
                    through = through * (sigmoid * (before * (f(1) - sigmoid) + f(1)))
                plain = plain + through
                products = products + through * value
                store(through, grad_x, at)
            store(plain, sums, 2 * task * channels + c)
            store(products, sums, (2 * task + 1) * channels + c)
        done, task = done + 1, next_task(pointers[0])
    if all_done(pointers[0], done):
        _find_gradient_lines(sums, pointers)


@njit(**OPTIONS)
def _find_gradient_lines(sums, pointers):  # type: ignore[no-untyped-def]
    """factor, slope and offset of each channel, and the gradients of weight and bias."""
    n, positions, channels, parts, groups, _, _ = carray(integers(pointers[1]), 7)
    sums = carray(sums, (n, parts, 2, channels))
    weight = carray(floats(pointers[7]), channels)
    mean, rstd = carray(floats(pointers[8]), (n, groups)), carray(floats(pointers[9]), (n, groups))
    lines = carray(floats(pointers[10]), (n, 3, channels))
    grads = carray(floats(pointers[11]), (n, 2, channels))
    width = channels // groups
    for sample in range(n):
        totals = grads[sample]
        totals[:] = 0
        for part in range(parts):
            for c in range(channels):
                totals[1, c] += sums[sample, part, 0, c]
                totals[0, c] += sums[sample, part, 1, c]
        for group in range(groups):
            average, inverse = mean[sample, group], rstd[sample, group]
            total, product = 0.0, 0.0
            for c in range(group * width, (group + 1) * width):
                totals[0, c] = (totals[0, c] - totals[1, c] * average) * inverse
                total += weight[c] * totals[1, c]
                product += weight[c] * totals[0, c]
            slope = -product * inverse * inverse / (positions * width)
            offset = -total * inverse / (positions * width) - slope * average
            for c in range(group * width, (group + 1) * width):
                lines[sample, 0, c] = weight[c] * inverse
                lines[sample, 1, c], lines[sample, 2, c] = slope, offset


def _apply_backward(pointers):  # type: ignore[no-untyped-def]
    """grad_x, from the gradient that it holds, with what is skipped."""
    _, positions, channels, parts, _, _, skips = carray(integers(pointers[1]), 7)
    x, lines, skipped, grad_x = pointers[2], floats(pointers[3]), pointers[4], pointers[5]
    task = next_task(pointers[0])
    while task >= 0:
        first, end = places(task, positions, channels, parts)
        line = 3 * (task // parts) * channels
        for c in range(0, channels, LANES):
            factor, slope = load(lines, line + c), load(lines, line + channels + c)
            offset = load(lines, line + 2 * channels + c)
            for at in range(first + c, end, channels):
                value = load(grad_x, at) * factor + load(x, at) * slope + offset
                if skips:
                    value = value + load(skipped, at)
                store(value, grad_x, at)
        task = next_task(pointers[0])


@njit(inline="always", **OPTIONS)
def places(task, positions, channels, parts):  # type: ignore[no-untyped-def]
    """Where the features of a task begin and end, counted in numbers."""
    sample, part = task // parts, task % parts
    first = part * positions // parts
    end = (part + 1) * positions // parts
    return (sample * positions + first) * channels, (sample * positions + end) * channels
