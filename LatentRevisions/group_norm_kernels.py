"""Group normalisation and a SiLU after it on the CPU, both ways, with features read as seldom as possible.

Features are [N, P, C], channels last, of P positions, where C is a multiple of `LANES`. Sums are taken over
parts of a sample's positions. Their number follows from its size alone, so that it is normalised the same in
any batch, by however many threads.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model
from torch import Tensor

from mead.nn.kernels import DONE, FORMATS, OPTIONS, SMALL, TAKEN, Kernel

LANES = 16  # channels that are computed side by side: as many float32 as a register of AVX-512 holds
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


# --- What the loops are made of


@njit(inline="always", **OPTIONS)
def places(task, positions, channels, parts):  # type: ignore[no-untyped-def]
    """Where the features of a task begin and end, counted in numbers."""
    sample, part = task // parts, task % parts
    first = part * positions // parts
    end = (part + 1) * positions // parts
    return (sample * positions + first) * channels, (sample * positions + end) * channels


@intrinsic
def _count(typing_context: Any, pointer: Any, at: Any, number: Any) -> Any:
    """Add to an integer after a pointer, whichever thread asks. What it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, at, number = arguments
        return builder.atomic_rmw("add", builder.gep(pointer, [at]), number, "acq_rel")

    return types.int64(pointer, types.int64, types.int64), generate


@intrinsic
def _call(typing_context: Any, address: Any) -> Any:
    """What the function at an address returns, an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], function), [])

    return types.int32(types.int64), generate


@njit(**OPTIONS)
def next_task(pointer):  # type: ignore[no-untyped-def]
    """A task that no thread has taken, of this thread's share if any is left; -1 if none is."""
    numbers = integers(pointer)
    tasks, threads, thread_number = carray(numbers, 3)
    own = _call(thread_number) if threads > 1 else 0
    for i in range(threads):
        share = (own + i) % threads
        task = share * tasks // threads + _count(numbers, TAKEN + share, 1)
        if task < (share + 1) * tasks // threads:
            return task
    return -1


@njit(**OPTIONS)
def all_done(pointer, done):  # type: ignore[no-untyped-def]
    """Whether all tasks are done, now that a thread has done so many; that is so for exactly one thread."""
    numbers = integers(pointer)
    return done > 0 and _count(numbers, DONE, done) + done == carray(numbers, 1)[0]


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


# --- Vectors of `LANES` float32, for which +, -, * and / compute lane by lane; a number stands for all lanes

FLOATS = ir.VectorType(ir.FloatType(), LANES)
BITS = ir.VectorType(ir.IntType(32), LANES)
BFLOATS = ir.VectorType(ir.IntType(16), LANES)  # bfloat16 as its bits


class Vector(types.Type):
    """The type of a vector."""


vector = Vector("Vector")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, FLOATS)


@infer_global(operator.add)
@infer_global(operator.sub)
@infer_global(operator.mul)
@infer_global(operator.truediv)
class _Operator(AbstractTemplate):
    def generic(self, arguments: Any, keywords: Any) -> Any:
        if vector in arguments and all(each in (vector, types.float32) for each in arguments):
            return signature(vector, vector, vector)
        return None


@lower_builtin(operator.add, vector, vector)
def _add(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fadd(*arguments, flags=("contract",))


@lower_builtin(operator.sub, vector, vector)
def _subtract(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fsub(*arguments, flags=("contract",))


@lower_builtin(operator.mul, vector, vector)
def _multiply(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fmul(*arguments, flags=("contract",))


@lower_builtin(operator.truediv, vector, vector)
def _divide(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fdiv(*arguments, flags=("contract",))


@lower_cast(types.float32, vector)
def _in_all_lanes(context: Any, builder: Any, kind: Any, to: Any, number: Any) -> Any:
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(BITS, [0] * LANES))


@intrinsic
def lanes(typing_context: Any, number: Any) -> Any:
    """A vector with a float32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], types.float32, vector)

    return vector(types.float32), generate


@intrinsic
def load(typing_context: Any, pointer: Any, at: Any) -> Any:
    """The vector that begins `at` so many numbers after a pointer."""
    bfloat16 = pointer.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        if not bfloat16:
            return builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)
        bits = builder.zext(builder.load(builder.bitcast(place, BFLOATS.as_pointer()), align=2), BITS)
        return builder.bitcast(builder.shl(bits, _bits(16)), FLOATS)

    return vector(pointer, types.int64), generate


@intrinsic
def store(typing_context: Any, numbers: Any, pointer: Any, at: Any) -> Any:
    """Store a vector, where `load` finds it, rounded to the nearest, or of two to the even one."""
    bfloat16 = pointer.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, pointer, at = arguments
        place = builder.gep(pointer, [at])
        if not bfloat16:
            builder.store(numbers, builder.bitcast(place, FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()
        bits = builder.bitcast(numbers, BITS)
        even = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
        bits = builder.lshr(builder.add(builder.add(bits, _bits(0x7FFF)), even), _bits(16))
        builder.store(builder.trunc(bits, BFLOATS), builder.bitcast(place, BFLOATS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.none(numbers, pointer, types.int64), generate


@intrinsic
def clamped(typing_context: Any, numbers: Any, least: Any, most: Any) -> Any:
    """A vector's numbers, and the bound of those that exceed it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, least, most = arguments
        numbers = builder.select(builder.fcmp_ordered("<", numbers, least), least, numbers)
        return builder.select(builder.fcmp_ordered(">", numbers, most), most, numbers)

    return vector(vector, vector, vector), generate


@intrinsic
def power_of_two(typing_context: Any, exponents: Any) -> Any:
    """2 to the integers that are the last bits of a vector's numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.bitcast(arguments[0], BITS), _bits(23))
        return builder.bitcast(builder.add(bits, _bits(0x3F800000)), FLOATS)

    return vector(vector), generate


def _bits(number: int) -> Any:
    return ir.Constant(BITS, [number] * LANES)


@njit(inline="always", **OPTIONS)
def exp(x):  # type: ignore[no-untyped-def]
    """e to the x, in float32 and within two units of its last place.

    x is n ln 2 + r: 2^n goes into the exponent's bits, and e^r, of |r| < 0.35, is its Taylor polynomial.
    """
    x = clamped(x, lanes(f(-87)), lanes(f(88)))
    shifted = x * f(1.44269504) + f(12582912)  # 1.5 · 2^23: the last bits are those of n
    n = shifted - f(12582912)
    r = x - n * f(0.693359375) + n * f(2.12194440e-4)  # ln 2 in two parts
    e = r * f(1 / 720) + f(1 / 120)
    e = e * r + f(1 / 24)
    e = e * r + f(1 / 6)
    e = e * r + f(0.5)
    e = e * r + f(1)
    e = e * r + f(1)
    return e * power_of_two(shifted)
