"""Group normalisation and a SiLU after it on the CPU, both ways, with features read as seldom as possible.

Features are [N, P, C], channels last, of P positions. Sums are taken over parts of a sample's positions.
Their number follows from its size alone, so that it is normalised the same in any batch, by however many
threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from mead.nn.kernels import FORMATS, OPTIONS, SMALL, Kernel

PART = 2**13  # numbers in a part, if that makes no more than so many:
PARTS = 256

f = np.float32


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, H, W], channels last, normalised; mean and inverse deviation of its groups, [N, groups]."""
    n, channels, height, width = x.shape
    positions = height * width
    parts = _parts(positions, channels)
    sizes = (n, positions, channels, parts, groups, int(swish))
    y = torch.empty_like(x)
    mean, rstd = torch.empty(2, n, groups).unbind()
    sums, line = torch.empty(n, parts, 2, channels), torch.empty(n, 2, channels)
    small = x.numel() < SMALL
    _kernel(_add_up, x.dtype)((x, sums), sizes, n * parts, small)
    _kernel(_find_line, torch.float32)(
        (sums, weight, bias, torch.tensor(eps), mean, rstd, line), sizes, n, True
    )
    _kernel(_apply, x.dtype)((x, line, y), sizes, n * parts, small)
    return y, mean, rstd


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x [N, C, H, W], channels last, and of weight and bias, [C], for that of the result."""
    n, channels, height, width = x.shape
    positions = height * width
    parts = _parts(positions, channels)
    sizes = (n, positions, channels, parts, mean.shape[1], int(swish))
    grad_x = torch.empty_like(x)
    sums, lines, grads = (
        torch.empty(n, parts, 2, channels),
        torch.empty(n, 3, channels),
        torch.empty(n, 2, channels),
    )
    small = x.numel() < SMALL
    _kernel(_add_up_gradients, x.dtype)(
        (grad, x, weight, bias, mean, rstd, grad_x, sums), sizes, n * parts, small
    )
    _kernel(_find_lines, torch.float32)((sums, weight, mean, rstd, lines, grads), sizes, n, True)
    _kernel(_apply_backward, x.dtype)((x, lines, grad_x), sizes, n * parts, small)
    grad_weight, grad_bias = grads.sum(0)
    return grad_x, grad_weight, grad_bias


def compile_kernels(dtype: torch.dtype) -> None:
    """Compile what features of this format need: some seconds, unless that is kept from another time."""
    if dtype in FORMATS:
        for body in (_add_up, _apply, _add_up_gradients, _apply_backward):
            _kernel(body, dtype)
        for body in (_find_line, _find_lines):
            _kernel(body, torch.float32)


def _parts(positions: int, channels: int) -> int:
    return max(1, min(PARTS, positions, positions * channels // PART))


@lru_cache
def _kernel(body: Any, dtype: torch.dtype) -> Kernel:
    return Kernel(body, dtype)


# --- Forward


def _add_up(pointers):  # type: ignore[no-untyped-def]
    """The sums of x and of x² in each part and channel."""
    _, n, positions, channels, parts, _, _ = carray(integers(pointers[0]), 7)
    x = carray(pointers[1], (n, positions, channels))
    sums = carray(floats(pointers[2]), (n, parts, 2, channels))
    while True:
        task = next_task(pointers[0])
        if task >= n * parts:
            return
        sample, part = task // parts, task % parts
        plain, squares = sums[sample, part, 0], sums[sample, part, 1]
        plain[:] = 0
        squares[:] = 0
        for p in range(part * positions // parts, (part + 1) * positions // parts):
            row = x[sample, p]
            for c in range(channels):
                value = load(row[c])
                plain[c] += value
                squares[c] += value * value


def _find_line(pointers):  # type: ignore[no-untyped-def]
    """What each channel is multiplied by, and what is added then."""
    _, n, positions, channels, parts, groups, _ = carray(integers(pointers[0]), 7)
    sums = carray(floats(pointers[1]), (n, parts, 2, channels))
    weight, bias = carray(floats(pointers[2]), channels), carray(floats(pointers[3]), channels)
    eps = carray(floats(pointers[4]), 1)[0]
    mean, rstd = carray(floats(pointers[5]), (n, groups)), carray(floats(pointers[6]), (n, groups))
    line = carray(floats(pointers[7]), (n, 2, channels))
    width = channels // groups
    for sample in range(n):
        totals = line[sample]
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
    _, n, positions, channels, parts, _, swish = carray(integers(pointers[0]), 7)
    x = carray(pointers[1], (n, positions, channels))
    lines = carray(floats(pointers[2]), (n, 2, channels))
    y = carray(pointers[3], (n, positions, channels))
    while True:
        task = next_task(pointers[0])
        if task >= n * parts:
            return
        sample, part = task // parts, task % parts
        factor, summand = lines[sample, 0], lines[sample, 1]
        for p in range(part * positions // parts, (part + 1) * positions // parts):
            row, out = x[sample, p], y[sample, p]
            if swish:
                for c in range(channels):
                    value = load(row[c]) * factor[c] + summand[c]
                    out[c] = rounded(value / (f(1) + exp(-value)), out)
            else:
                for c in range(channels):
                    out[c] = rounded(load(row[c]) * factor[c] + summand[c], out)


# --- Backward: with h = (x - mean) rstd, g = weight · grad, and <> the mean over a group,
# grad_x = rstd (g - <g> - h <g h>) = factor · grad + slope · x + offset


def _add_up_gradients(pointers):  # type: ignore[no-untyped-def]
    """The gradient of what is before the SiLU, left in grad_x, and the sums of it and of it · x."""
    _, n, positions, channels, parts, groups, swish = carray(integers(pointers[0]), 7)
    grad = carray(pointers[1], (n, positions, channels))
    x = carray(pointers[2], (n, positions, channels))
    weight, bias = carray(floats(pointers[3]), channels), carray(floats(pointers[4]), channels)
    mean, rstd = carray(floats(pointers[5]), (n, groups)), carray(floats(pointers[6]), (n, groups))
    grad_x = carray(pointers[7], (n, positions, channels))
    sums = carray(floats(pointers[8]), (n, parts, 2, channels))
    width = channels // groups
    factor, summand = np.empty(channels, np.float32), np.empty(channels, np.float32)
    while True:
        task = next_task(pointers[0])
        if task >= n * parts:
            return
        sample, part = task // parts, task % parts
        for c in range(channels):
            factor[c] = weight[c] * rstd[sample, c // width]
            summand[c] = bias[c] - mean[sample, c // width] * factor[c]
        plain, products = sums[sample, part, 0], sums[sample, part, 1]
        plain[:] = 0
        products[:] = 0
        for p in range(part * positions // parts, (part + 1) * positions // parts):
            row, given, out = x[sample, p], grad[sample, p], grad_x[sample, p]
            if swish:
                for c in range(channels):
                    value = load(row[c])
                    before = value * factor[c] + summand[c]
                    sigmoid = f(1) / (f(1) + exp(-before))
                    through = load(given[c]) * (sigmoid * (f(1) + before * (f(1) - sigmoid)))
                    plain[c] += through
                    products[c] += through * value
                    out[c] = rounded(through, out)
            else:
                for c in range(channels):
                    through = load(given[c])
                    plain[c] += through
                    products[c] += through * load(row[c])
                    out[c] = given[c]


def _find_lines(pointers):  # type: ignore[no-untyped-def]
    """factor, slope and offset of each channel, and the gradients of weight and bias."""
    _, n, positions, channels, parts, groups, _ = carray(integers(pointers[0]), 7)
    sums = carray(floats(pointers[1]), (n, parts, 2, channels))
    weight = carray(floats(pointers[2]), channels)
    mean, rstd = carray(floats(pointers[3]), (n, groups)), carray(floats(pointers[4]), (n, groups))
    lines = carray(floats(pointers[5]), (n, 3, channels))
    grads = carray(floats(pointers[6]), (n, 2, channels))
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
    """grad_x, from the gradient that it holds."""
    _, n, positions, channels, parts, _, _ = carray(integers(pointers[0]), 7)
    x = carray(pointers[1], (n, positions, channels))
    lines = carray(floats(pointers[2]), (n, 3, channels))
    grad_x = carray(pointers[3], (n, positions, channels))
    while True:
        task = next_task(pointers[0])
        if task >= n * parts:
            return
        sample, part = task // parts, task % parts
        factor, slope, offset = lines[sample, 0], lines[sample, 1], lines[sample, 2]
        for p in range(part * positions // parts, (part + 1) * positions // parts):
            row, out = x[sample, p], grad_x[sample, p]
            for c in range(channels):
                value = load(out[c]) * factor[c] + load(row[c]) * slope[c] + offset[c]
                out[c] = rounded(value, out)


# --- What the loops are made of


@intrinsic
def next_task(typing_context: Any, pointer: Any) -> Any:
    """The integer at a pointer, which is one more afterwards, whichever thread asks."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(pointer), generate


@intrinsic
def floats(typing_context: Any, pointer: Any) -> Any:
    """A pointer as one to float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(pointer), generate


@intrinsic
def integers(typing_context: Any, pointer: Any) -> Any:
    """A pointer as one to int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(pointer), generate


@intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


def load(stored: Any) -> Any:
    """A stored number, as float32."""
    raise NotImplementedError("only compiled")


@overload(load, inline="always")
def _load(stored):  # type: ignore[no-untyped-def]
    if stored == types.uint16:
        return lambda stored: _as_float(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


def rounded(number: Any, out: Any) -> Any:
    """A float32 in the format of the array `out`, rounded to the nearest, or of two to the even one."""
    raise NotImplementedError("only compiled")


@overload(rounded, inline="always")
def _rounded(number, out):  # type: ignore[no-untyped-def]
    if out.dtype == types.uint16:

        def to_bfloat16(number, out):  # type: ignore[no-untyped-def]
            bits = _as_bits(number)
            even = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

        return to_bfloat16
    return lambda number, out: number


@njit(inline="always", **OPTIONS)
def exp(x):  # type: ignore[no-untyped-def]
    """e to the x, in float32 and within two units of its last place; written so that it is vectorised.

    x is n ln 2 + r: 2^n goes into the exponent's bits, and e^r, of |r| < 0.35, is its Taylor polynomial.
    """
    x = min(max(x, f(-87.0)), f(88.0))
    shifted = x * f(1.44269504) + f(12582912.0)  # 1.5 · 2^23: the last bits are those of n
    n = shifted - f(12582912.0)
    r = x - n * f(0.693359375) + n * f(2.12194440e-4)  # ln 2 in two parts
    e = f(1 / 720)
    e = e * r + f(1 / 120)
    e = e * r + f(1 / 24)
    e = e * r + f(1 / 6)
    e = e * r + f(0.5)
    e = e * r + f(1.0)
    e = e * r + f(1.0)
    return e * _as_float((_as_bits(shifted) << np.uint32(23)) + np.uint32(0x3F800000))
