"""Vectors of `LANES` float32 for kernels: +, -, * and / compute lane by lane, and a number stands for all."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from mead.nn.kernels import OPTIONS

LANES = 16  # as many float32 as a register of AVX-512 holds

f = np.float32
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
