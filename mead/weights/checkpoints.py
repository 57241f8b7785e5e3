"""Reading weight files in the formats they are published in, without running any code in them.

- PyTorch's own (`torch.save`), as a zip archive and in the format used before version 1.6, whatever classes
  its pickle names: PyTorch Lightning's checkpoints, dicts with an argparse.Namespace, whole modules;
- TorchScript archives, of which only the tensors are read;
- NVIDIA's network pickles; the source code they contain is ignored;
- an array as NumPy saves it;
- safetensors.

Tensors are memory-mapped from the file: they take memory only when they are used.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import stat
import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
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
from mead.weights.inert_pickle import read
from mead.weights.numpy_arrays import MAGIC, read_npy
from mead.weights.tensor_pickle import (
    CONSTRUCTORS,
    Storage,
    Unusable,
    aligned,
    bytes_of,
    dtype_of,
    mapped,
    slice_of,
    storage_identity,
)
from mead.weights.torch_archive import TorchArchive


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names it and gives the reason."""


class UnsafeCheckpointError(CheckpointError):
    """A weight file that would run code if pickle loaded it; the message names what it would call."""


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        format: of the file, for people to read.
        content: dicts, lists, tuples, numbers, strings, tensors, and a `Placeholder` for any other object.
    """

    format: str
    content: Any


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error about the content of a file into a CheckpointError that names the file."""
    try:
        yield
    except UnsafePickleError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: {error} when loaded, which weights never do; no code was run"
        ) from error
    except (CheckpointError, OSError):  # of the disk and its files
        raise
    except Exception as error:  # files come from others: nonsense may fail anywhere, in PyTorch too
        raise CheckpointError(
            f"{path} cannot be read ({reason(error)}); if it is incomplete, download it again"
        ) from error


def reason(error: Exception) -> str:
    """An error's message in one line, without the C++ stack trace that PyTorch may add."""
    message = str(error).partition("Exception raised from")[0]
    return " ".join(message.split())[:500] or type(error).__name__


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file of any format above. Its tensors are mapped from it, so it must not be changed.

    Raises:
        UnsafeCheckpointError: naming the function that unpickling it would call.
        CheckpointError: for any other file that cannot be read.
        FileNotFoundError: if there is no such file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    budget = Budget.to_read(status.st_size)
    with naming(path), path.open("rb") as file:
        start = file.read(512)
        if start.startswith(b"PK"):
            return _read_zip(path, file, budget)
        if start[8:9] == b"{":
            return Checkpoint("safetensors", _read_safetensors(path, start))
        if start.startswith(b"\x80"):
            return _read_pickle(path, file, budget)
        if start.startswith(MAGIC):
            return Checkpoint("NumPy array", {"array": read_npy(path)})
    raise CheckpointError(f"{path} is not a weight file: {_describe(start)}")


MODULE_COST = 1024  # bytes of the budget, for each part of a module


def modules(root: Any, budget: Budget | None = None) -> dict[str, Tensor | Unusable]:
    """The state dict of a module that was pickled or saved by TorchScript: {"a.b.weight": tensor}.

    Modules that contain each other are followed until the budget is spent.
    """
    budget = budget or Budget.to_read(0)
    tensors: dict[str, Tensor | Unusable] = {}
    waiting = deque([("", root)])
    while waiting:
        prefix, module = waiting.popleft()
        state = module.state if isinstance(module, Placeholder) else None
        if not isinstance(state, dict):
            continue
        kinds = [state[kind] for kind in ("_parameters", "_buffers", "_modules") if kind in state]
        # TorchScript does not distinguish these: they are all attributes of the module.
        for kind in kinds or [state]:
            for name, value in kind.items() if isinstance(kind, dict) else ():
                if budget.left < MODULE_COST:
                    return tensors
                budget.spend(MODULE_COST)
                key = f"{prefix}{name}" if is_name(name) else ""
                if not is_name(key):
                    continue
                if isinstance(value, (Tensor, Unusable)):
                    tensors[key] = value
                elif isinstance(value, Placeholder):
                    waiting.append((f"{key}.", value))
    return tensors


def _describe(start: bytes) -> str:
    """What kind of file it is that begins like this."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, perhaps an error message or a download page"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` to get the file"
    if b"ustar" in start:
        return "it is a tar archive; save files of PyTorch from before 2017 again with a later version"
    return "it is neither safetensors nor written by torch.save, torch.jit.save or NVIDIA's StyleGAN code"


# The zip archives of torch.save and torch.jit.save.


def _read_zip(path: Path, file: IO[bytes], budget: Budget) -> Checkpoint:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    (folder, *others) = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")] or [
        ""
    ]
    if not folder or others:
        raise CheckpointError(f"{path} is a zip archive, but not one of torch.save or torch.jit.save")
    torch_archive = TorchArchive(entries, folder, mapped(path), budget)
    file_format = "TorchScript archive" if torch_archive.is_scripted else "torch.save archive"
    return Checkpoint(file_format, torch_archive.read())


# Files that begin with a pickle: those of torch.save before PyTorch 1.6, and NVIDIA's networks.

_MAGIC = 0x1950A86A20F9469CFC6C  # in the first pickle of torch.save's old format


def _read_pickle(path: Path, file: IO[bytes], budget: Budget) -> Checkpoint:
    constructors = {
        **CONSTRUCTORS,
        "torch.storage._load_from_bytes": partial(_storage_from_bytes, budget),
        # of ({"module_src": the source code of the class, "class_name": ..., "state": what it holds},)
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    }
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        content = read(stream, constructors, None, budget)  # type: ignore[arg-type]  # it has what a file has
        if content == _MAGIC:
            return Checkpoint("torch.save file", _read_old(stream, mapped(path), budget))  # type: ignore[arg-type]
    return Checkpoint("NVIDIA network pickle", content)


def _read_old(stream: IO[bytes], file_bytes: Tensor, budget: Budget) -> Any:
    """The content of torch.save's old format, from after the magic number.

    The storages come after the pickle that refers to them, so it is read twice, first without them.
    """
    if read(stream, budget=budget) != 1001:
        raise PickleError("it has an unknown version")
    system = read(stream, budget=budget)
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise PickleError("it was saved on a big-endian machine; save it again on a little-endian one")
    begin = stream.tell()
    kinds: dict[str, tuple[torch.dtype, int]] = {}
    data: dict[str, Tensor] | None = None

    def persistent(identity: Any) -> Any:
        match identity:
            case ("module", Name() as kind, *_):  # a class, beside its source code
                return kind
        kind, key, numbers = storage_identity(identity)
        dtype = dtype_of(kind)
        kinds[key] = dtype, numbers
        values = torch.empty(numbers, dtype=dtype, device="meta") if data is None else data[key]
        match identity[5] if len(identity) > 5 else None:
            case (_, int() as first, int() as length):
                values = slice_of(values, first, length, key)
        return Storage(values)

    read(stream, CONSTRUCTORS, persistent, budget)
    keys = read(stream, budget=budget)
    if not isinstance(keys, list):
        raise PickleError("it does not list its storages")
    data = {}
    position = stream.tell()
    for key in keys:
        if key not in kinds:
            raise PickleError(f"storage {in_words(key)} is not referred to")
        dtype, numbers = kinds[key]
        (length,) = struct.unpack("<q", bytes_of(slice_of(file_bytes, position, 8, key)))
        if length != numbers:
            raise PickleError(f"storage {in_words(key)} has {length} numbers instead of {numbers}")
        data[key] = aligned(slice_of(file_bytes, position + 8, numbers * dtype.itemsize, key), budget).view(
            dtype
        )
        position += 8 + numbers * dtype.itemsize
    stream.seek(begin)
    return read(stream, CONSTRUCTORS, persistent, budget)


def _storage_from_bytes(budget: Budget, data: Any) -> Any:
    """A storage in a pickle that torch.save did not write: it is a file in the old format."""
    if not isinstance(data, bytes) or not data:
        raise PickleError("it has a storage that is not bytes")
    stream = io.BytesIO(data)
    if read(stream, budget=budget) != _MAGIC:
        raise PickleError("it has a storage in an unknown format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bytes are read-only; nothing writes to them
        file_bytes = torch.frombuffer(data, dtype=torch.uint8)
    return _read_old(stream, file_bytes, budget)


def _persistent_object(meta: Any) -> Placeholder:
    if not isinstance(meta, dict):
        raise PickleError("it has a persistent object without a description")
    name = meta.get("class_name")
    return Placeholder(str(name) if is_name(name) else "object without a name", state=meta.get("state"))


# safetensors

_LONGEST_HEADER = 8 << 20  # bytes; less than a tenth is enough for the largest published networks


def _read_safetensors(path: Path, start: bytes) -> dict[str, Tensor | Unusable]:
    (length,) = struct.unpack("<Q", start[:8])
    if length > _LONGEST_HEADER:
        raise PickleError(f"its header has {length:,} bytes; at most {_LONGEST_HEADER:,} are accepted")
    tensors: dict[str, Tensor | Unusable] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  (it is no dict)
            try:
                tensors[key] = file.get_tensor(key)
            except (
                SafetensorError,
                KeyError,
                AttributeError,
                TypeError,
            ) as error:  # an unknown type
                tensors[key] = Unusable(f"a tensor that PyTorch cannot read ({error})")
    return tensors
