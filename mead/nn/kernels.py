"""Loops over features on the CPU, compiled by Numba and divided among PyTorch's own threads.

What takes PyTorch several operations, each of which reads and writes all features, is one loop here. A kernel
is a function of pointers that takes tasks, numbered from 0, until none are left, so that any number of
threads can run it; its result must not depend on which of them does which task. Each thread has a share of
the tasks, that of the features which PyTorch gives it as well and which its core still has in its cache, and
helps with others' once it is done. Numba keeps what it has compiled until the kernel's own file changes, or
one of what all kernels are made of: this one and `mead.nn.vectors`. Nothing else belongs into a kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from torch import Tensor

from mead.nn.threads import openmp

FORMATS = {torch.bfloat16: types.uint16, torch.float32: types.float32}
"""How a kernel sees the numbers of each format that it can read: bfloat16 as its bits."""

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
SMALL = 2**14  # numbers, which one thread reads before others are awake
DONE, TAKEN = 3, 4  # places among the first integers of a kernel, see `Kernel`


class Kernel:
    """A compiled loop.

    Args:
        body: takes pointers to numbers. The first leads to integers: the number of tasks, that of threads,
            the address of OpenMP's `omp_get_thread_num`, how many tasks are done, and how many of each
            thread's share are taken. The second leads to the sizes, also integers.
        dtype: the numbers' format, one of `FORMATS`.
    """

    def __init__(self, body: Callable[..., None], dtype: torch.dtype) -> None:
        pointers = types.CPointer(types.CPointer(FORMATS[dtype]))
        compiled: Any = CFunc(body, ((pointers,), types.void), locals={}, options=OPTIONS)
        with suppress(RuntimeError):  # there is no folder that it could be kept in
            compiled._cache = _Cache(body)
        compiled.compile()
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)
        self._compiled = compiled  # which owns the code
        # PyTorch's own threads; if its OpenMP library is not GNU's, one does all tasks
        self._parallel = openmp("GOMP_parallel")
        self._thread_number = ctypes.cast(openmp("omp_get_thread_num"), ctypes.c_void_p).value or 0

    def __call__(self, arguments: Sequence[Tensor], sizes: Sequence[int], tasks: int, small: bool) -> None:
        """Do tasks 0 to `tasks` - 1.

        Args:
            arguments: what the kernel's pointers after the first two lead to.
            sizes: what the second leads to.
            small: whether the work is too small for several threads.
        """
        threads = 1 if small or self._parallel is None else min(tasks, torch.get_num_threads())
        shares = (ctypes.c_int64 * (TAKEN + threads))(tasks, threads, self._thread_number)
        numbers = (ctypes.c_int64 * len(sizes))(*sizes)
        addresses = [ctypes.addressof(shares), ctypes.addressof(numbers)]
        addresses += [tensor.data_ptr() for tensor in arguments]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        if threads == 1:
            self._function(pointers)
        else:
            self._parallel(self._function, pointers, threads, 0)


class _Cache(FunctionCache):
    """Keeps what is compiled of a kernel."""

    def _index_key(self, *described: Any) -> Any:
        return (*super()._index_key(*described), *_digests())


@lru_cache
def _digests() -> list[str]:
    """Of the files of what kernels are made of."""
    here = Path(__file__)
    return [sha256(path.read_bytes()).hexdigest() for path in (here, here.with_name("vectors.py"))]


# --- What kernels are made of


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
