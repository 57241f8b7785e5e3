"""Tensors in pickles: storages, which are ranges of bytes in a file, and views of them."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mead.weights.inert_data import (
    Budget,
    Name,
    PickleError,
    Placeholder,
    UnsafePickleError,
    in_words,
    is_name,
)


@dataclass(frozen=True)
class Unusable:
    """A tensor of a `kind` that our networks do not use, such as "a sparse tensor"."""

    kind: str


_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
    "_Untyped": torch.uint8,
    # the storages of quantised tensors, which are skipped
    "QInt8": torch.int8,
    "QInt32": torch.int32,
    "QUInt8": torch.uint8,
    "QUInt4x2": torch.uint8,
    "QUInt2x4": torch.uint8,
}
_DTYPES_BY_NAME = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_MAX_REPEATED = 1 << 24  # elements of a tensor that repeats others by a stride of 0
_MAX_AXES = 64
_ALIGNMENT = 16  # bytes of the largest type


@dataclass(frozen=True)
class Storage:
    """A range of a file as numbers of one type, [n]."""

    values: Tensor

    def of_type(self, dtype: torch.dtype) -> Storage:
        """The same bytes as numbers of another type."""
        return self if self.values.dtype == dtype else Storage(self.values.view(torch.uint8).view(dtype))


def aligned(data: Tensor, budget: Budget) -> Tensor:
    """The bytes [n], aligned for any type; copied if they are not, as in old files."""
    if data.storage_offset() % _ALIGNMENT or data.data_ptr() % _ALIGNMENT:
        budget.spend(len(data))
        return data.clone()
    return data


def dtype_of(kind: Any) -> torch.dtype:
    """The type of the numbers in a storage of class `kind`, such as torch.FloatStorage."""
    name = kind.path.rpartition(".")[2] if isinstance(kind, Name) else ""
    dtype = _DTYPES.get(name.removesuffix("Storage"))
    if dtype is None:
        raise PickleError(f"it has tensors of the unknown kind {in_words(kind)}")
    return dtype


def mapped(path: Path) -> Tensor:
    """All bytes of a file, memory-mapped."""
    with path.open("rb") as file:
        # copy on write: writing to a tensor does not change the file
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def slice_of(data: Tensor, start: int, size: int, what: object) -> Tensor:
    """`size` bytes of a file from `start`.

    Raises:
        PickleError: naming `what`, if they are not all within the file.
    """
    if start < 0 or size < 0 or start + size > len(data):
        raise PickleError(f"{what!a} is not within it")
    return data[start : start + size]


def bytes_of(data: Tensor) -> bytes:
    """A copy of mapped bytes."""
    return bytes(data.numpy())


def storage_identity(identity: Any) -> tuple[Any, str, int]:
    """The class, key and length of a storage, of ("storage", class, key, device, length, ...)."""
    match identity:
        case ("storage", kind, str() | int() as key, _, int() as numbers, *_) if numbers >= 0:
            if is_name(str(key)):
                return kind, str(key), numbers
    raise PickleError(f"it refers to {in_words(identity)}, where a tensor's storage is expected")


# What pickles of tensors call.


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None
) -> Tensor:
    if not isinstance(storage, Storage):
        raise PickleError("it has a tensor without a storage")
    values = (storage if dtype is None else storage.of_type(dtype)).values
    size, stride = _lengths(size), _lengths(stride)
    if len(size) != len(stride) or not isinstance(offset, int) or offset < 0:
        raise PickleError(f"it has a tensor of size {_short(size)} with strides {_short(stride)}")
    number = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if number and (last >= len(values) or number > max(len(values), _MAX_REPEATED)):
        raise PickleError(f"it has a tensor of size {_short(size)} in a storage of {len(values)} numbers")
    return values.as_strided(size, stride, values.storage_offset() + (offset if number else 0))


def _rebuild_tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor | Unusable:
    if not isinstance(dtype, Name) or dtype.path not in _DTYPES_BY_NAME:
        return Unusable(f"a tensor of the unknown type {in_words(dtype)}")
    return _rebuild_tensor(storage, offset, size, stride, dtype=_DTYPES_BY_NAME[dtype.path])


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes, which are skipped."""
    path = function.path if isinstance(function, Name) else ""
    if path not in _TENSORS:
        raise UnsafePickleError(f"it would call {path or 'an object that it made'}")
    if not isinstance(arguments, tuple) or len(arguments) > _MAX_AXES:
        raise PickleError("it has a tensor that is made from too many arguments")
    return _TENSORS[path](*arguments)


def _lengths(lengths: Any) -> tuple[int, ...]:
    if not isinstance(lengths, (tuple, list)) or len(lengths) > _MAX_AXES:
        raise PickleError(f"it has a tensor whose size or strides are not a tuple of at most {_MAX_AXES}")
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in lengths):
        raise PickleError("it has a tensor whose size or strides are not integers")
    return tuple(lengths)


def _short(lengths: tuple[int, ...]) -> str:
    return str(lengths)[:80]


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """A NumPy scalar as a number; a placeholder for unusual types."""
    code = dtype.arguments[0] if isinstance(dtype, Placeholder) and dtype.arguments else None
    formats = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "u1": "B", "b1": "?"}
    if code not in formats or not isinstance(data, bytes) or len(data) != struct.calcsize(formats[code]):
        return Placeholder("numpy.generic", (dtype, data))
    return struct.unpack(formats[code], data)[0]


def _device(kind: Any = None, index: Any = None) -> str:
    return in_words(kind)[1:-1] if index is None else f"{in_words(kind)[1:-1]}:{in_words(index)}"


def _unusable(kind: str, *_: Any) -> Unusable:
    return Unusable(f"a {kind} tensor")


def _placeholder(name: str) -> Callable[..., Placeholder]:
    return lambda *arguments: Placeholder(name, arguments)


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": partial(_unusable, "foreign device's"),
    "torch._utils._rebuild_meta_tensor_no_storage": partial(_unusable, "meta"),
    "torch._utils._rebuild_nested_tensor": partial(_unusable, "nested"),
    "torch._utils._rebuild_qtensor": partial(_unusable, "quantised"),
    "torch._utils._rebuild_sparse_csr_tensor": partial(_unusable, "sparse"),
    "torch._utils._rebuild_sparse_tensor": partial(_unusable, "sparse"),
    "torch._utils._rebuild_wrapper_subclass": partial(_unusable, "wrapped"),
}
CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _first,
    "torch.device": _device,
    "torch.nn.Parameter": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.serialization._get_layout": _first,
    # TorchScript's lists and typed values
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    # NumPy 1 and 2
    **{
        f"numpy.{package}.{name}": make
        for package in ("core", "_core")
        for name, make in {
            "multiarray.scalar": _numpy_scalar,
            "multiarray._reconstruct": _placeholder("numpy.ndarray"),
            "numeric._frombuffer": _placeholder("numpy.ndarray"),
        }.items()
    },
    "numpy.dtype": _placeholder("numpy.dtype"),
    "numpy.ndarray": _placeholder("numpy.ndarray"),
    "numpy.random.__RandomState_ctor": _placeholder("numpy.random.RandomState"),
    "numpy.random._pickle.__randomstate_ctor": _placeholder("numpy.random.RandomState"),
}
