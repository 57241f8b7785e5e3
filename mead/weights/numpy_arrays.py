"""NumPy's arrays in weight files: in files of their own, and in pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mead.weights.inert_data import PickleError, Placeholder, in_words

MAGIC = b"\x93NUMPY"
_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


def read_npy(path: Path) -> Tensor:
    """The array in a file of `numpy.save`.

    Raises:
        PickleError: if it is damaged, or holds other objects than numbers.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError) as error:
        raise PickleError(f"it is no array of numbers: {error}") from error


def array_of(value: Any) -> Tensor:
    """The array that a pickle describes, read as `mead.weights.inert_pickle` does.

    Raises:
        PickleError: for anything else.
    """
    shape: Any
    match value:
        case Placeholder(name="numpy.ndarray", state=(_, tuple() as shape, kind, fortran, bytes() as data)):
            columns_first = bool(fortran)
        case Placeholder(
            name="numpy.ndarray", arguments=(bytes() as data, kind, tuple() as shape, ("C" | "F") as order)
        ):
            columns_first = order == "F"
        case _:
            raise PickleError(f"it has {in_words(value)} where an array is expected")
    code = kind.arguments[0] if isinstance(kind, Placeholder) and kind.arguments else None
    end = kind.state[1] if isinstance(kind, Placeholder) and isinstance(kind.state, tuple) else "<"
    if code not in _TYPES or end not in ("<", "|", "="):
        raise PickleError(f"it has an array of {in_words(code)}, which is no number")
    values = np.frombuffer(data, np.dtype(f"<{code}"))
    try:
        return torch.from_numpy(
            np.array(values.reshape(shape, order="F" if columns_first else "C"), order="C")
        )
    except (ValueError, TypeError) as error:
        raise PickleError(f"it has an array of a wrong shape: {error}") from error
