"""Loops over features on the CPU, compiled by Numba and divided among PyTorch's own threads.

What takes PyTorch several operations, each of which reads and writes all features, is one loop here. A kernel
is a function of pointers that takes tasks, numbered from 0, until none are left, so that any number of
threads can run it; its result must not depend on which of them does which task. Numba keeps what it has
compiled until the kernel's own file changes, so all that is compiled with it belongs there.
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


class Kernel:
    """A compiled loop.

    Args:
        body: takes pointers to numbers, of which the first leads to integers: the number of the next task
            and the sizes.
        dtype: the numbers' format, one of `FORMATS`.
    """

    def __init__(self, body: Callable[..., None], dtype: torch.dtype) -> None:
        signature = types.void(types.CPointer(types.CPointer(FORMATS[dtype])))
        try:
            self._compiled = cfunc(signature, cache=True, **OPTIONS)(body)
        except RuntimeError:  # there is no folder that it could be kept in
            self._compiled = cfunc(signature, **OPTIONS)(body)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)

    def __call__(self, arguments: Sequence[Tensor], sizes: Sequence[int], tasks: int, small: bool) -> None:
        """Do tasks 0 to `tasks` - 1.

        Args:
            arguments: what the kernel's pointers after the first lead to.
            sizes: what follows the number of the next task.
            small: whether the work is too small for several threads.
        """
        numbers = (ctypes.c_int64 * (1 + len(sizes)))(0, *sizes)
        addresses = [ctypes.addressof(numbers), *(tensor.data_ptr() for tensor in arguments)]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        threads = 1 if small else min(tasks, torch.get_num_threads())
        # PyTorch's own threads; if its OpenMP library is not GNU's, one does all tasks
        parallel = openmp("GOMP_parallel") if threads > 1 else None
        if parallel is None:
            self._function(pointers)
        else:
            parallel(self._function, pointers, threads, 0)
