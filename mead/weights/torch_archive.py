"""The zip archives of torch.save and torch.jit.save: a pickle and the storages it refers to."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mead.weights.inert_data import Budget, PickleError
from mead.weights.inert_pickle import read
from mead.weights.tensor_pickle import (
    CONSTRUCTORS,
    Storage,
    aligned,
    bytes_of,
    dtype_of,
    slice_of,
    storage_identity,
)


class TorchArchive:
    """A zip archive of torch.save or torch.jit.save.

    Args:
        entries: by name.
        folder: prefix of the names that belong to the checkpoint.
        file_bytes: all of the archive, mapped.
    """

    def __init__(
        self, entries: Mapping[str, zipfile.ZipInfo], folder: str, file_bytes: Tensor, budget: Budget
    ) -> None:
        self.entries = entries
        self.folder = folder
        self.file_bytes = file_bytes
        self.budget = budget
        self.storages: dict[str, Tensor] = {}

    @property
    def is_scripted(self) -> bool:
        """Whether torch.jit.save wrote it."""
        return f"{self.folder}constants.pkl" in self.entries

    def read(self) -> Any:
        """The archive's content.

        Raises:
            PickleError: if it is damaged.
        """
        if f"{self.folder}byteorder" in self.entries and bytes_of(self._entry("byteorder")) != b"little":
            raise PickleError("it was saved on a big-endian machine; save it again on a little-endian one")
        pickled = io.BytesIO(bytes_of(self._entry("data.pkl")))
        return read(pickled, CONSTRUCTORS, self._storage, self.budget)

    def _entry(self, name: str) -> Tensor:
        """The bytes of an entry, mapped."""
        path = f"{self.folder}{name}"
        if path not in self.entries:
            raise PickleError(f"{path!a} is missing")
        entry = self.entries[path]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise PickleError(f"{path!a} is compressed, which is not supported")
        header = bytes_of(slice_of(self.file_bytes, entry.header_offset, 30, path))
        name_length, extra_length = struct.unpack("<HH", header[26:])
        start = entry.header_offset + 30 + name_length + extra_length
        return slice_of(self.file_bytes, start, entry.file_size, path)

    def _storage(self, identity: Any) -> Storage:
        """The storage that a persistent id stands for."""
        kind, key, numbers = storage_identity(identity)
        if key not in self.storages:
            self.storages[key] = aligned(self._entry(f"data/{key}"), self.budget)
        dtype = dtype_of(kind)
        return Storage(slice_of(self.storages[key], 0, numbers * dtype.itemsize, key).view(dtype))
