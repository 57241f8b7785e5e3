"""3x3 convolutions of float32 features on the CPU, in a quarter of the multiplications.

Winograd's minimal filtering F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016 (arXiv 1509.09308). Each tile of 4x4 results comes from 6x6 features. These are transformed to 36
numbers, which are multiplied by the transformed weights and summed over the channels; the sums are
transformed to the results. In float32, these differ from a plain sum's by about a hundred thousandth of the
greatest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from mead.nn.kernels import OPTIONS, Kernel, integers, next_task
from mead.nn.vectors import LANES, lanes, load, store

TILE = 4  # a side of a tile's results
NUMBERS = 36  # of a transformed tile
CHUNK = 128  # tiles at a time, whose numbers stay in the processor's cache
TASK = 8  # tiles that a thread takes at a time
LEAST_TILES, LEAST_CHANNELS = 256, 64  # with fewer, the transforms take longer than they save

WEIGHTS = [[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6]]
WEIGHTS += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
"""G of the publication, which transforms weights along an axis."""

f = np.float32


def is_faster(x: Tensor, channels_out: int) -> bool:
    """Whether features [N, C, H, W] are better convolved so."""
    channels = (x.shape[1], channels_out)
    if x.device.type != "cpu" or x.dtype != torch.float32 or any(number % LANES for number in channels):
        return False
    return min(channels) >= LEAST_CHANNELS and _tiles(*x.shape[2:]) >= LEAST_TILES


def transform(weight: Tensor) -> Tensor:
    """Weights [C', C, 3, 3] -> [36, C, C']."""
    along = torch.tensor(WEIGHTS, dtype=torch.float64)
    transformed = torch.einsum("ia, jb, ocab -> ijco", along, along, weight.double())
    return transformed.flatten(0, 1).to(weight.dtype)


def convolve(x: Tensor, transformed: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    """Convolve x [N, C, H, W], channels last, with one pixel of zeros around it, by transformed weights.

    Args:
        bias: [C'].
        addend: of the result's shape.
    """
    n, channels, height, width = x.shape
    channels_out = transformed.shape[2]
    y = torch.empty(n, channels_out, height, width, memory_format=torch.channels_last)
    bias = torch.zeros(channels_out) if bias is None else bias
    added = y if addend is None else addend.contiguous(memory_format=torch.channels_last)
    tiles = _tiles(height, width)
    chunk = min(CHUNK, tiles)
    features, sums = torch.empty(NUMBERS * chunk * channels), torch.empty(NUMBERS * chunk * channels_out)
    for sample in range(n):  # each alone: the same in any batch
        for first in range(0, tiles, chunk):
            number = min(chunk, tiles - first)
            tasks = -(-number // TASK)
            into = features[: NUMBERS * number * channels].view(NUMBERS, number, channels)
            _kernel(_transform)((x[sample], into), (height, width, channels, first, number), tasks, False)
            out = sums[: NUMBERS * number * channels_out].view(NUMBERS, number, channels_out)
            torch.bmm(into, transformed, out=out)
            sizes = (height, width, channels_out, first, number, int(addend is not None))
            _kernel(_restore)((out, bias, added[sample], y[sample]), sizes, tasks, False)
    return y


def compile_kernels() -> None:
    """Compile what is needed: some seconds, unless that is kept from another time."""
    for body in (_transform, _restore):
        _kernel(body)


def _tiles(height: int, width: int) -> int:
    return -(-height // TILE) * -(-width // TILE)


@lru_cache
def _kernel(body: Any) -> Kernel:
    return Kernel(body, torch.float32)


# --- Features -> [36, tiles, channels]


def _transform(pointers):  # type: ignore[no-untyped-def]
    """6x6 features of each tile, zeros beyond the border, transformed along both axes."""
    height, width, channels, first, tiles = carray(integers(pointers[1]), 5)
    x, out = pointers[2], pointers[3]
    across, step = (width + TILE - 1) // TILE, tiles * channels
    task = next_task(pointers[0])
    while task >= 0:
        for tile in range(task * TASK, min(task * TASK + TASK, tiles)):
            top, left = (first + tile) // across * TILE - 1, (first + tile) % across * TILE - 1
            place = top, left, height, width, channels
            for c in range(0, channels, LANES):
                k0, k1, k2 = _column(x, place, c, 0), _column(x, place, c, 1), _column(x, place, c, 2)
                k3, k4, k5 = _column(x, place, c, 3), _column(x, place, c, 4), _column(x, place, c, 5)
                at = tile * channels + c
                _put(_filtered(k0[0], k1[0], k2[0], k3[0], k4[0], k5[0]), out, at, step)
                _put(_filtered(k0[1], k1[1], k2[1], k3[1], k4[1], k5[1]), out, at + 6 * step, step)
                _put(_filtered(k0[2], k1[2], k2[2], k3[2], k4[2], k5[2]), out, at + 12 * step, step)
                _put(_filtered(k0[3], k1[3], k2[3], k3[3], k4[3], k5[3]), out, at + 18 * step, step)
                _put(_filtered(k0[4], k1[4], k2[4], k3[4], k4[4], k5[4]), out, at + 24 * step, step)
                _put(_filtered(k0[5], k1[5], k2[5], k3[5], k4[5], k5[5]), out, at + 30 * step, step)
        task = next_task(pointers[0])


@njit(inline="always", **OPTIONS)
def _column(x, place, c, column):  # type: ignore[no-untyped-def]
    """A column of a tile's features, transformed."""
    return _filtered(
        _feature(x, place, c, 0, column),
        _feature(x, place, c, 1, column),
        _feature(x, place, c, 2, column),
        _feature(x, place, c, 3, column),
        _feature(x, place, c, 4, column),
        _feature(x, place, c, 5, column),
    )


@njit(inline="always", **OPTIONS)
def _feature(x, place, c, row, column):  # type: ignore[no-untyped-def]
    top, left, height, width, channels = place
    row, column = top + row, left + column
    if 0 <= row < height and 0 <= column < width:
        return load(x, (row * width + column) * channels + c)
    return lanes(f(0))


@njit(inline="always", **OPTIONS)
def _filtered(a, b, c, d, e, g):  # type: ignore[no-untyped-def]
    """Bᵀ of the publication."""
    even, odd, inner, outer = e - c * f(4), d - b * f(4), e - c, (d - b) * f(2)
    first, last = a * f(4) - c * f(5) + e, b * f(4) - d * f(5) + g
    return first, even + odd, even - odd, inner + outer, inner - outer, last


@njit(inline="always", **OPTIONS)
def _put(six, out, at, step):  # type: ignore[no-untyped-def]
    store(six[0], out, at)
    store(six[1], out, at + step)
    store(six[2], out, at + 2 * step)
    store(six[3], out, at + 3 * step)
    store(six[4], out, at + 4 * step)
    store(six[5], out, at + 5 * step)


# --- [36, tiles, channels] -> results


def _restore(pointers):  # type: ignore[no-untyped-def]
    """4x4 results of each tile, as far as they are within the border."""
    height, width, channels, first, tiles, adds = carray(integers(pointers[1]), 6)
    sums, bias, addend, y = pointers[2], pointers[3], pointers[4], pointers[5]
    across, step = (width + TILE - 1) // TILE, tiles * channels
    task = next_task(pointers[0])
    while task >= 0:
        for tile in range(task * TASK, min(task * TASK + TASK, tiles)):
            top, left = (first + tile) // across * TILE, (first + tile) % across * TILE
            columns = min(TILE, width - left)
            for c in range(0, channels, LANES):
                at, more = tile * channels + c, load(bias, c)
                k0, k1 = _sums(sums, at, step), _sums(sums, at + step, step)
                k2, k3 = _sums(sums, at + 2 * step, step), _sums(sums, at + 3 * step, step)
                k4, k5 = _sums(sums, at + 4 * step, step), _sums(sums, at + 5 * step, step)
                to, line = (top * width + left) * channels + c, width * channels
                row = _results(k0[0], k1[0], k2[0], k3[0], k4[0], k5[0])
                _give(row, more, addend, adds, y, to, channels, columns)
                if top + 1 < height:
                    row = _results(k0[1], k1[1], k2[1], k3[1], k4[1], k5[1])
                    _give(row, more, addend, adds, y, to + line, channels, columns)
                if top + 2 < height:
                    row = _results(k0[2], k1[2], k2[2], k3[2], k4[2], k5[2])
                    _give(row, more, addend, adds, y, to + 2 * line, channels, columns)
                if top + 3 < height:
                    row = _results(k0[3], k1[3], k2[3], k3[3], k4[3], k5[3])
                    _give(row, more, addend, adds, y, to + 3 * line, channels, columns)
        task = next_task(pointers[0])


@njit(inline="always", **OPTIONS)
def _sums(sums, at, step):  # type: ignore[no-untyped-def]
    """A column of a tile's sums, transformed."""
    return _results(
        load(sums, at),
        load(sums, at + 6 * step),
        load(sums, at + 12 * step),
        load(sums, at + 18 * step),
        load(sums, at + 24 * step),
        load(sums, at + 30 * step),
    )


@njit(inline="always", **OPTIONS)
def _results(a, b, c, d, e, g):  # type: ignore[no-untyped-def]
    """Aᵀ of the publication."""
    even, odd, outer, steep = b + c, b - c, d + e, d - e
    return a + even + outer, odd + steep * f(2), even + outer * f(4), odd + steep * f(8) + g


@njit(inline="always", **OPTIONS)
def _give(row, more, addend, adds, y, at, channels, columns):  # type: ignore[no-untyped-def]
    """Store a row of results."""
    _give_one(row[0] + more, addend, adds, y, at)
    if columns > 1:
        _give_one(row[1] + more, addend, adds, y, at + channels)
    if columns > 2:
        _give_one(row[2] + more, addend, adds, y, at + 2 * channels)
    if columns > 3:
        _give_one(row[3] + more, addend, adds, y, at + 3 * channels)


@njit(inline="always", **OPTIONS)
def _give_one(result, addend, adds, y, at):  # type: ignore[no-untyped-def]
    store(result + load(addend, at) if adds else result, y, at)
