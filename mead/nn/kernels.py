"""Loops over features on the CPU, compiled by Numba and divided among PyTorch's own threads.

What takes PyTorch several operations, each of which reads and writes all features, is one loop here. A kernel
is a function of pointers that takes tasks, numbered from 0, until none are left, so that any number of
threads can run it; its result must not depend on which of them does which task. Each thread has a share of
the tasks, that of the features which PyTorch gives it as well and which its core still has in its cache, and
helps with others' once it is done. Numba keeps what it has compiled until the kernel's own file changes, so
all that is compiled with it belongs there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numba import cfunc, types
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
        signature = types.void(types.CPointer(types.CPointer(FORMATS[dtype])))
        try:
            self._compiled = cfunc(signature, cache=True, **OPTIONS)(body)
        except RuntimeError:  # there is no folder that it could be kept in
            self._compiled = cfunc(signature, **OPTIONS)(body)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
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
