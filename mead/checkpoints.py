"""Reading weight files in the formats they are published in, without running anything that is in them.

- PyTorch's own (`torch.save`), as a zip archive and in the form from before version 1.6, whatever classes
  its pickle names: PyTorch Lightning's checkpoints, dicts with an argparse.Namespace, whole modules;
- TorchScript archives, of which only the tensors are read and not the code;
- NVIDIA's network pickles, which carry their source code as text: it stays text;
- safetensors.

Tensors are mapped from the file: they take memory only when they are looked at, and never twice.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mead.inert_pickle import Name, PickleError, Placeholder, UnsafePickleError, in_words, read


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names it and says why."""


class UnsafeCheckpointError(CheckpointError):
    """A weight file that would run code if it were loaded by pickle; the message names what it would call."""


_MOST_MODULES = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        format: what kind of file it is, in words.
        content: dicts, lists, tuples, numbers, texts, tensors, and a `Placeholder` for any other object.
    """

    format: str
    content: Any


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file of any format above. Its tensors are mapped from it: leave the file as it is.

    Raises:
        UnsafeCheckpointError: naming the function that unpickling it would call.
        CheckpointError: for any other file that cannot be read.
        FileNotFoundError: where there is none.
    """
    with path.open("rb") as file:
        start = file.read(512)
        try:
            if start.startswith(b"PK"):
                return _read_zip(path, file)
            if start[8:9] == b"{":
                return Checkpoint("safetensors", load_file(path))
            if start.startswith(b"\x80"):
                return _read_pickle(path, file)
        except UnsafePickleError as error:
            raise UnsafeCheckpointError(
                f"{path} is refused: {error} when loaded, and weights call nothing; nothing was run"
            ) from error
        except (PickleError, SafetensorError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); if its download was cut off, fetch it again"
            ) from error
    raise CheckpointError(f"{path} is no weight file: {_what(start)}")


def modules(root: Any) -> dict[str, Tensor]:
    """The state dict of a whole module that was pickled, or saved by TorchScript: {"a.b.weight": tensor}."""
    tensors: dict[str, Tensor] = {}
    waiting = deque([("", root)])
    for _ in range(_MOST_MODULES):  # a module may be part of itself
        if not waiting:
            break
        prefix, module = waiting.popleft()
        state = module.state if isinstance(module, Placeholder) else None
        if not isinstance(state, dict):
            continue
        kinds = [state[kind] for kind in ("_parameters", "_buffers", "_modules") if kind in state]
        # TorchScript knows no such kinds: a module's attributes are all of them.
        for kind in kinds or [state]:
            for name, value in kind.items() if isinstance(kind, dict) else ():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value
                elif isinstance(value, Placeholder):
                    waiting.append((f"{prefix}{name}.", value))
    return tensors


def _what(start: bytes) -> str:
    """What a file that begins like this is, for whoever took it for weights."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, perhaps the host's error message or a link to click"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; `git lfs pull` brings the file itself"
    if b"ustar" in start:
        return "it is a tar archive; PyTorch's of before 2017 must be saved again by PyTorch"
    return "it is neither safetensors nor made by torch.save, torch.jit.save or NVIDIA's StyleGAN code"


# Storages: runs of bytes, of which tensors are views.

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
}
_MOST_REPEATED = 1 << 24  # numbers of a tensor that says the same ones again, by a stride of 0
_DTYPES_BY_NAME = {str(dtype): dtype for dtype in _DTYPES.values()}


@dataclass(frozen=True)
class _Storage:
    values: Tensor  # [n]

    def of_type(self, dtype: torch.dtype) -> _Storage:
        return self if self.values.dtype == dtype else _Storage(_as(self.values.view(torch.uint8), dtype))


def _as(data: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes [n] as numbers of a type."""
    if data.storage_offset() % dtype.itemsize or data.data_ptr() % dtype.itemsize:  # as in old files
        data = data.clone()
    return data.view(dtype)


def _dtype(kind: Any) -> torch.dtype:
    """The type of the numbers in the storage class `kind`, such as torch.FloatStorage."""
    name = kind.path.rpartition(".")[2] if isinstance(kind, Name) else ""
    dtype = _DTYPES.get(name.removesuffix("Storage"))
    if dtype is None:
        raise PickleError(f"it has tensors of the unknown kind {in_words(kind)}")
    return dtype


def _whole(path: Path) -> Tensor:
    """All bytes of a file, mapped."""
    size = path.stat().st_size
    # private to this process: what is written to a tensor does not reach the file
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def _slice(data: Tensor, start: int, size: int, what: object) -> Tensor:
    if start < 0 or size < 0 or start + size > len(data):
        raise PickleError(f"storage {what} does not lie within it")
    return data[start : start + size]


def _bytes(data: Tensor) -> bytes:
    return bytes(data.numpy())


# What a pickle of tensors calls.


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None
) -> Tensor:
    if not isinstance(storage, _Storage):
        raise PickleError("it has a tensor without a storage")
    values = (storage if dtype is None else storage.of_type(dtype)).values
    size, stride = _lengths(size), _lengths(stride)
    if len(size) != len(stride) or not isinstance(offset, int) or offset < 0:
        raise PickleError(f"it has a tensor of size {size} with strides {stride}")
    number = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if number and (last >= len(values) or number > max(len(values), _MOST_REPEATED)):
        raise PickleError(f"it has a tensor of size {size} in a storage of {len(values)} numbers")
    return values.as_strided(size, stride, values.storage_offset() + (offset if number else 0))


def _rebuild_tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    if not isinstance(dtype, Name) or dtype.path not in _DTYPES_BY_NAME:
        raise PickleError(f"it has a tensor of the unknown type {in_words(dtype)}")
    return _rebuild_tensor(storage, offset, size, stride, dtype=_DTYPES_BY_NAME[dtype.path])


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes of its own, which are left."""
    path = function.path if isinstance(function, Name) else ""
    if path not in _TENSORS:
        raise UnsafePickleError(f"it would call {path or 'an object that it made'}")
    return _TENSORS[path](*arguments)


def _lengths(lengths: Any) -> tuple[int, ...]:
    if not isinstance(lengths, (tuple, list)) or not all(type(n) is int and n >= 0 for n in lengths):
        raise PickleError("it has a tensor with a size or strides that are no whole numbers")
    return tuple(lengths)


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """A number out of NumPy; of an unusual type, a placeholder."""
    code = dtype.arguments[0] if isinstance(dtype, Placeholder) and dtype.arguments else None
    formats = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "u1": "B", "b1": "?"}
    if code not in formats or not isinstance(data, bytes) or len(data) != struct.calcsize(formats[code]):
        return Placeholder("numpy.generic", (dtype, data))
    return struct.unpack(formats[code], data)[0]


def _placeholder(name: str) -> Callable[..., Placeholder]:
    return lambda *arguments: Placeholder(name, arguments)


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
_CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _first,
    "torch.device": lambda *name: ":".join(map(str, name)),
    "torch.nn.Parameter": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.serialization._get_layout": _first,
    # TorchScript's lists, and values with a type beside them
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    # NumPy, old and new
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


# torch.save and torch.jit.save: a zip archive of a pickle and the storages it refers to.


def _read_zip(path: Path, file: IO[bytes]) -> Checkpoint:
    try:
        archive = zipfile.ZipFile(file)
    except (ValueError, NotImplementedError, struct.error) as error:  # beside BadZipFile
        raise PickleError(f"damaged archive: {error}") from error
    with archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (folder, *others) = [
            name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")
        ] or [""]
        if not folder or others:
            raise CheckpointError(f"{path} is a zip archive, but none that torch.save or torch.jit.save made")
        scripted = f"{folder}constants.pkl" in entries
        whole = _whole(path)
        storages: dict[str, Tensor] = {}

        def record(name: str) -> Tensor:
            """The bytes of an entry, mapped."""
            if name not in entries:
                raise PickleError(f"{name} is missing")
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED:
                raise PickleError(f"{name} is compressed, which PyTorch's archives never are")
            header = _bytes(_slice(whole, entry.header_offset, 30, name))
            name_length, extra_length = struct.unpack("<HH", header[26:])
            return _slice(whole, entry.header_offset + 30 + name_length + extra_length, entry.file_size, name)

        if f"{folder}byteorder" in entries and _bytes(record(f"{folder}byteorder")) != b"little":
            raise PickleError("it was saved on a big-endian machine; save it again on another")

        def persistent(identity: Any) -> _Storage:
            kind, key, numbers = _storage_identity(identity)
            if key not in storages:
                storages[key] = record(f"{folder}data/{key}")
            dtype = _dtype(kind)
            return _Storage(_as(_slice(storages[key], 0, numbers * dtype.itemsize, key), dtype))

        content = read(io.BytesIO(_bytes(record(f"{folder}data.pkl"))), _CONSTRUCTORS, persistent)
        return Checkpoint("TorchScript archive" if scripted else "torch.save archive", content)


def _storage_identity(identity: Any) -> tuple[Any, str, int]:
    """The class, key and length of a storage, of ("storage", class, key, device, length, ...)."""
    match identity:
        case ("storage", kind, str() | int() as key, _, int() as numbers, *_) if numbers >= 0:
            return kind, str(key), numbers
    raise PickleError(f"it refers to {in_words(identity)}, where a storage is expected")


# Files that begin with a pickle: torch.save's from before PyTorch 1.6, and NVIDIA's networks.

_MAGIC = 0x1950A86A20F9469CFC6C  # what the first pickle in torch.save's old files holds


def _read_pickle(path: Path, file: IO[bytes]) -> Checkpoint:
    constructors = {
        **_CONSTRUCTORS,
        "torch.storage._load_from_bytes": _storage_from_bytes,
        # of ({"module_src": the source code of the class, "class_name": ..., "state": what it holds},)
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    }
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        content = read(stream, constructors)  # type: ignore[arg-type]  # it has what a file has
        if content == _MAGIC:
            return Checkpoint("torch.save file", _read_old(stream, _whole(path)))  # type: ignore[arg-type]
    return Checkpoint("NVIDIA network pickle", content)


def _read_old(stream: IO[bytes], whole: Tensor) -> Any:
    """What torch.save's old format holds, from just behind the magic number on.

    The storages follow the pickle that refers to them; so it is read twice, first without them.
    """
    if read(stream) != 1001:
        raise PickleError("it has an unknown version")
    system = read(stream)
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise PickleError("it was saved on a big-endian machine; save it again on another")
    begin = stream.tell()
    kinds: dict[str, tuple[torch.dtype, int]] = {}
    data: dict[str, Tensor] | None = None

    def persistent(identity: Any) -> Any:
        match identity:
            case ("module", Name() as kind, *_):  # a class, beside its source code
                return kind
        kind, key, numbers = _storage_identity(identity)
        dtype = _dtype(kind)
        kinds[key] = dtype, numbers
        values = torch.empty(numbers, dtype=dtype, device="meta") if data is None else data[key]
        match identity[5] if len(identity) > 5 else None:
            case (_, int() as first, int() as length):
                values = _slice(values, first, length, key)
        return _Storage(values)

    read(stream, _CONSTRUCTORS, persistent)
    keys = read(stream)
    data = {}
    position = stream.tell()
    for key in map(str, keys):
        if key not in kinds:
            raise PickleError(f"storage {key} is not referred to")
        dtype, numbers = kinds[key]
        (length,) = struct.unpack("<q", _bytes(_slice(whole, position, 8, key)))
        if length != numbers:
            raise PickleError(f"storage {key} has {length} numbers instead of {numbers}")
        data[key] = _as(_slice(whole, position + 8, numbers * dtype.itemsize, key), dtype)
        position += 8 + numbers * dtype.itemsize
    stream.seek(begin)
    return read(stream, _CONSTRUCTORS, persistent)


def _storage_from_bytes(data: Any) -> Any:
    """A storage out of a pickle that was not made by torch.save, as a file of its own in the old format."""
    if not isinstance(data, bytes) or not data:
        raise PickleError("it has a storage that is no bytes")
    stream = io.BytesIO(data)
    if read(stream) != _MAGIC:
        raise PickleError("it has a storage in an unknown format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bytes cannot be written to; nobody does
        whole = torch.frombuffer(data, dtype=torch.uint8)
    return _read_old(stream, whole)


def _persistent_object(meta: Any) -> Placeholder:
    if not isinstance(meta, dict):
        raise PickleError("it has a persistent object without a description")
    return Placeholder(str(meta.get("class_name")), state=meta.get("state"))
