"""What a weights set offers by name: sliders and mappers. Loads no PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from mead.params import Choices, Range
from mead.weights.sets import WeightSet

MAPPER = "mapper_"
"""What the networks of mappers are called before their own names."""
_RANGE = "_range"


def choices(weights: WeightSet) -> Choices:
    """The names that `sliders` and `mapper` may have, the former with their ranges."""
    file = weights.files.get("sliders")
    there = file is not None and file.path.is_file()
    sliders = _sliders(file.path, file.path.stat().st_mtime_ns) if file is not None and there else {}
    mappers = sorted(name.removeprefix(MAPPER) for name in weights.files if name.startswith(MAPPER))
    return {"sliders": sliders, "mapper": dict.fromkeys(mappers)}


@functools.lru_cache(8)
def _sliders(path: Path, modified: int) -> Mapping[str, Range]:
    """The ranges of the sliders in a file, as it was when it was modified."""
    with safe_open(path, framework="np") as tensors:
        keys: list[str] = list(tensors.keys())
        names = sorted(key.removesuffix(_RANGE) for key in keys if key.endswith(_RANGE))
        ranges = {name: tensors.get_tensor(f"{name}{_RANGE}").tolist() for name in names}
    return {name: Range(float(least), float(most)) for name, (least, most) in ranges.items()}
