"""Converting published weight files, once, to safetensors in the layout our networks load.

A published file may hold several networks, and much that only training needs. `convert` writes one network's
tensors to NAME.safetensors, in the precision they have, and its hyperparameters and origin to NAME.json, for
people to read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mead import registry
from mead.files import atomic_write, write_whole
from mead.nn.state_dict import StateDictError
from mead.weights.building import build_network
from mead.weights.candidates import Candidate, choose, find, shortened, state_dicts
from mead.weights.checkpoints import Checkpoint, CheckpointError, naming, read_checkpoint, reason
from mead.weights.errors import WeightsError
from mead.weights.inert_data import Budget, Placeholder
from mead.weights.plain_data import training_settings
from mead.weights.sets import FOLDER, WeightSet

FLOAT_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
INTEGER_DTYPES = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
INTEGER_TENSORS = {"tokens", "quick_gelu", "heads", "norm_groups", "outcomes", "thing_outcomes"}
MAX_INTEGERS = 1 << 16  # in one tensor


def networks(original: Path) -> tuple[str, ...]:
    """Which networks a weight file holds.

    Raises:
        CheckpointError: if the file cannot be read, or holds none that we know.
    """
    with naming(original):
        found = _find(original, read_checkpoint(original))
        return tuple(_named(network, original) for network in registry.networks() if network in found)


def convert(
    original: Path, network: str, target: Path, say: Callable[[str], None] = lambda line: None
) -> None:
    """Write a network of a published file to `target`, and its description beside it as JSON.

    Both are written atomically. The same file gives the same bytes.

    Args:
        original: a file of any format that `mead.weights.checkpoints` reads.
        network: what it will be called in its set, a name that `registry.network` knows.
        target: the safetensors file to write; the JSON file has the same name with the suffix .json.
        say: called with a line if the file holds several such networks, or something was repaired.

    Raises:
        CheckpointError: naming the file that cannot be read, would run code, does not hold the network, or
            holds several of which none is clearly the right one.
        OSError: if the disk is full or the folder cannot be written.
    """
    with naming(original):
        checkpoint = read_checkpoint(original)
        found = _find(original, checkpoint)
        kind = registry.network(network).name
        if kind not in found:
            raise CheckpointError(f"{original} does not hold {network}, only {' and '.join(found)}")
        chosen, others = choose(original, found[kind])
        tensors, built = _take(original, checkpoint, chosen, others, say)
        description = _describe(original, checkpoint, network, tensors, built)
        if others:
            left = shortened([other.name for other in others])
            description["taken"] = {"from": chosen.name, "instead of": left}
            say(f"{original.name}: {network} is taken from {chosen.name}, not from {left}")
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(_packed(tensors), target)
        text = json.dumps(description, indent=2, allow_nan=False)
        write_whole(target.with_suffix(".json"), f"{text}\n".encode())


def _named(network: str, original: Path) -> str:
    """The name that a network gets; the star in that of one of several stands for the name of its file."""
    prefix, star, _ = network.partition("*")
    own = re.sub(r"[^a-z0-9]+", "_", original.stem.lower()).strip("_") or "own"
    return f"{prefix}{own.removeprefix(prefix)}" if star else network


def _describe(
    original: Path, checkpoint: Checkpoint, network: str, tensors: Mapping[str, Tensor], built: nn.Module
) -> dict[str, Any]:
    """What is written beside the network, for people to read."""
    spec = registry.network(network)
    return {
        "network": network,
        "class": spec.class_of(tensors),
        "hyperparameters": {name: getattr(built, name) for name in spec.hyperparameters},
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "original": {
            "name": original.name,
            "size": original.stat().st_size,
            "format": checkpoint.format,
        },
        "training": training_settings(checkpoint.content),
    }


def _save(tensors: dict[str, Tensor], target: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    with atomic_write(target) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # it gives the system's error number in its message only
            match = re.search(r"os error (\d+)", str(error))
            number = int(match[1]) if match else errno.EIO
            raise OSError(number, os.strerror(number), str(target)) from error


def _find(original: Path, checkpoint: Checkpoint) -> dict[str, list[Candidate]]:
    found = find(checkpoint.content)
    if not found:
        raise CheckpointError(f"{original} ({checkpoint.format}) {_unsupported_content(checkpoint.content)}")
    return found


def _take(
    original: Path,
    checkpoint: Checkpoint,
    chosen: Candidate,
    others: Sequence[Candidate],
    say: Callable[[str], None],
) -> tuple[dict[str, Tensor], nn.Module]:
    """The tensors of a network in the layout ours loads, and the network built from their shapes.

    Raises:
        CheckpointError: naming the tensors that do not fit.
    """
    network = chosen.layout.network
    usable, unusable = chosen.tensors(others)
    tensors = chosen.layout.convert(usable)
    if chosen.layout.complete is not None:
        remark = chosen.layout.complete(original, checkpoint.content, tensors)
        if remark is not None:
            say(remark)
    Budget.to_write(original.stat().st_size).spend(sum(tensor.nbytes for tensor in tensors.values()))
    try:
        for key, tensor in tensors.items():
            if tensor.dtype not in FLOAT_DTYPES | INTEGER_DTYPES:
                raise StateDictError(f"{key} is of type {str(tensor.dtype).removeprefix('torch.')}")
        tensors = _with_integers(tensors, say)
        return tensors, build_network(
            network, {key: _without_values(tensor) for key, tensor in tensors.items()}
        )
    except Exception as error:  # of PyTorch and open_clip too, for networks that cannot be
        said = reason(error) + "".join(f"; {key} is {unusable[key].kind}" for key in list(unusable)[:5])
        raise CheckpointError(f"{original} holds a {network} of a different architecture: {said}") from error


def _with_integers(tensors: Mapping[str, Tensor], say: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors, with integers restored where the whole file was converted to half precision.

    Raises:
        StateDictError: naming a tensor whose integers were rounded.
    """
    taken = dict(tensors)
    for key, tensor in tensors.items():
        if key.endswith(".num_batches_tracked") and tensor.is_floating_point():
            del taken[key]  # only training uses it
        elif key in INTEGER_TENSORS:
            if tensor.numel() > MAX_INTEGERS:
                raise StateDictError(f"{key} has {tensor.numel():,} numbers")
            if tensor.is_floating_point():
                taken[key] = _integers(key, tensor, say)
    return taken


def _integers(key: str, tensor: Tensor, say: Callable[[str], None]) -> Tensor:
    exact = 2 / torch.finfo(tensor.dtype).eps  # the type holds every integer up to here
    if bool(((tensor == tensor.round()) & (tensor.abs() <= exact)).all()):
        return tensor.long()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if key == "tokens":  # the ids of the words it knows; usually those of the demo set
        with contextlib.suppress(WeightsError, KeyError):
            demo = WeightSet.find("demo", FOLDER / "manifest.toml").read("clip")["tokens"]
            if torch.equal(demo.to(tensor.dtype), tensor):
                say(f"tokens was rounded to {dtype}; the demo set's are used, which round to the same")
                return demo
    raise StateDictError(f"{key} holds integers that {dtype} has rounded; save it as int64")


def _without_values(tensor: Tensor) -> Tensor:
    """The tensor's shape and type. Integers keep their values: they determine what is built."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and without shared memory, as safetensors needs them; copied if necessary."""
    packed = {key: tensor.contiguous() for key, tensor in tensors.items()}
    end = 0
    for key, tensor in sorted(packed.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            packed[key] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return packed


def _unsupported_content(content: Any) -> str:
    """What is in a file in which none of our networks was found."""
    keys = [key for _, state_dict in state_dicts(content) for key in state_dict]
    parts = content if isinstance(content, tuple) else ()
    if any(isinstance(part, Placeholder) and part.name.startswith("dnnlib.tflib") for part in parts):
        return (
            "was written by NVIDIA's TensorFlow code; convert it to PyTorch with `legacy.py` of "
            "github.com/NVlabs/stylegan2-ada-pytorch"
        )
    if any(key.endswith("synthesis.input.freqs") for key in keys):
        return "holds StyleGAN3, which is not supported; StyleGAN2 is"
    if any(key.endswith("text_model.embeddings.token_embedding.weight") for key in keys):
        return "holds CLIP in the layout of Hugging Face's transformers; use OpenAI's or open_clip's"
    known = ", ".join(registry.networks())
    return f"holds none of the networks {known}; its tensors are {shortened(keys) or 'none'}"
