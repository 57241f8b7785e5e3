"""Converting published weight files, once, to safetensors in the layout our networks load.

A published file may hold several networks, and much else that only training needs. `convert` takes one
network out of it and writes its tensors as they are, number format included, to NAME.safetensors, and what
else is known of it, its hyperparameters first of all, to NAME.json for people to read.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mead import registry
from mead.nn.state_dict import StateDict, StateDictError, shape
from mead.weights.candidates import Candidate, choose, find, some, state_dicts
from mead.weights.checkpoints import Checkpoint, CheckpointError, naming, read_checkpoint, reason
from mead.weights.inert_data import Budget, Placeholder
from mead.weights.plain_data import training_settings
from mead.weights.sets import FOLDER, WeightsError, WeightSet, whole


def networks(original: Path) -> tuple[str, ...]:
    """Which networks a weight file holds.

    Raises:
        CheckpointError: when the file cannot be read, or holds none that we know.
    """
    with naming(original):
        found = _find(original, read_checkpoint(original))
        return tuple(network for network in registry.networks() if network in found)


def convert(
    original: Path, network: str, target: Path, say: Callable[[str], None] = lambda line: None
) -> None:
    """Write `network` out of a published file to `target`, and its hyperparameters beside it as JSON.

    Both appear under their names only when they are whole; nothing else is left behind. The same file gives
    the same bytes.

    Args:
        original: a file of any format that `mead.weights.checkpoints` reads.
        network: one of `registry.networks()`.
        target: the safetensors file to write; its JSON gets the same name but for the ending.
        say: told which others of the kind the file holds, and what was mended.

    Raises:
        CheckpointError: naming the file that cannot be read, would run code, does not hold the network, or
            holds several and not which is meant.
        OSError: when the disk is full or the folder cannot be written.
    """
    with naming(original):
        checkpoint = read_checkpoint(original)
        found = _find(original, checkpoint)
        if network not in found:
            raise CheckpointError(f"{original} holds no {network}, but {' and '.join(found)}")
        spec = registry.networks()[network]
        chosen, others = choose(original, found[network])
        tensors, built = _take(original, checkpoint, chosen, others, say)
        description = {
            "network": network,
            "class": spec.loads,
            "hyperparameters": {name: getattr(built, name) for name in spec.hyperparameters},
            "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
            "original": {
                "name": original.name,
                "size": original.stat().st_size,
                "format": checkpoint.format,
            },
            "training": training_settings(checkpoint.content),
        }
        if others:
            left = some([other.name for other in others])
            description["taken"] = {"from": chosen.name, "instead of": left}
            say(f"{original.name}: {network} is taken from {chosen.name}, not from {left}")
        tensors = _packed(tensors)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as part:
            try:
                save_file(tensors, part)
            except SafetensorError as error:
                said = re.search(r"os error (\d+)", str(error))  # its way to tell which
                number = int(said[1]) if said else errno.EIO
                raise OSError(number, os.strerror(number), str(target)) from error
        with whole(target.with_suffix(".json")) as part:
            part.write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", "utf-8")


# Building networks

_MOST_TENSORS = 4096  # of one network; the largest published ones have some two thousand


def check(network: str, tensors: StateDict) -> nn.Module:
    """Build a network of a weights set from its tensors, and so check their keys and shapes.

    Raises:
        StateDictError: naming keys that are missing, unknown or of another shape than they should have.
    """
    spec = registry.networks()[network]
    if len(tensors) > _MOST_TENSORS:
        raise StateDictError(f"it has {len(tensors):,} tensors, and may have {_MOST_TENSORS:,}")
    given = {name: shape(tensors, name) for name in spec.extra}
    own = {key: tensor for key, tensor in tensors.items() if key not in spec.extra}
    with _no_larger_than(tensors):
        built: nn.Module = spec.load_class().from_state_dict(own)
    for name, attributes in spec.extra.items():
        expected = tuple(getattr(built, attribute) for attribute in attributes)
        if given[name] != expected:
            raise StateDictError(f"{name} has the shape {given[name]} instead of {expected}")
    return built


@contextlib.contextmanager
def _no_larger_than(tensors: StateDict) -> Iterator[None]:
    """Stop building a network as soon as it has far more parameters than there are tensors for it.

    Its size is read off the tensors' names: a few can ask for thousands of layers of thousands of parts.
    """
    thread, left = threading.get_ident(), itertools.count(2 * len(tensors) + 1000, -1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if threading.get_ident() == thread and next(left) < 0:
            raise StateDictError(f"the names of its {len(tensors)} tensors ask for far more of them")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


# Taking the tensors of a network

_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_WHOLE_DTYPES = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
_WHOLE_NUMBERS = {"tokens", "norm_groups", "outcomes", "thing_outcomes"}
_MOST_WHOLE_NUMBERS = 1 << 16  # in one tensor


def _find(original: Path, checkpoint: Checkpoint) -> dict[str, list[Candidate]]:
    found = find(checkpoint.content)
    if not found:
        raise CheckpointError(f"{original} ({checkpoint.format}) {_known_otherwise(checkpoint.content)}")
    return found


def _take(
    original: Path,
    checkpoint: Checkpoint,
    chosen: Candidate,
    others: Sequence[Candidate],
    say: Callable[[str], None],
) -> tuple[dict[str, Tensor], nn.Module]:
    """The tensors of a network as ours loads them, and the network built from their shapes.

    Raises:
        CheckpointError: naming those that do not fit.
    """
    network = chosen.layout.network
    usable, unusable = chosen.tensors(others)
    tensors = chosen.layout.take(usable)
    if chosen.layout.complete is not None:
        chosen.layout.complete(original, checkpoint.content, tensors)
    Budget.to_write(original.stat().st_size).spend(sum(tensor.nbytes for tensor in tensors.values()))
    try:
        for key, tensor in tensors.items():
            if tensor.dtype not in _DTYPES | _WHOLE_DTYPES:
                raise StateDictError(f"{key} is of type {str(tensor.dtype).removeprefix('torch.')}")
        tensors = _with_whole_numbers(tensors, say)
        return tensors, check(network, {key: _without_values(tensor) for key, tensor in tensors.items()})
    except Exception as error:  # of PyTorch and open_clip too, for networks that cannot be
        said = reason(error) + "".join(f"; {key} is {unusable[key].kind}" for key in list(unusable)[:5])
        raise CheckpointError(f"{original} holds another {network} than ours: {said}") from error


def _with_whole_numbers(tensors: Mapping[str, Tensor], say: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors, those of whole numbers as such, also where all of the file was turned to half precision.

    Raises:
        StateDictError: naming one whose numbers that has rounded.
    """
    taken = dict(tensors)
    for key, tensor in tensors.items():
        if key.endswith(".num_batches_tracked") and tensor.is_floating_point():
            del taken[key]  # nothing reads it but training
        elif key in _WHOLE_NUMBERS:
            if tensor.numel() > _MOST_WHOLE_NUMBERS:
                raise StateDictError(f"{key} has {tensor.numel():,} numbers")
            if tensor.is_floating_point():
                taken[key] = _whole_numbers(key, tensor, say)
    return taken


def _whole_numbers(key: str, tensor: Tensor, say: Callable[[str], None]) -> Tensor:
    exact = 2 / torch.finfo(tensor.dtype).eps  # up to here every whole number is one of the type
    if bool(((tensor == tensor.round()) & (tensor.abs() <= exact)).all()):
        return tensor.long()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if key == "tokens":  # the ids of the words it knows: those of the demo set, as a rule
        with contextlib.suppress(WeightsError, KeyError):
            demo = WeightSet.find("demo", FOLDER / "manifest.toml").read("clip")["tokens"]
            if torch.equal(demo.to(tensor.dtype), tensor):
                say(f"tokens was rounded to {dtype}; the demo set's, which round to the same, are taken")
                return demo
    raise StateDictError(f"{key} has whole numbers, which are lost in {dtype}; save it as int64")


def _without_values(tensor: Tensor) -> Tensor:
    """The tensor's shape and type. Counters and token ids stay as they are: they tell what to build."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors each in a run of memory of its own, as safetensors has them; copied only where need be."""
    packed = {key: tensor.contiguous() for key, tensor in tensors.items()}
    end = 0
    for key, tensor in sorted(packed.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            packed[key] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return packed


def _known_otherwise(content: Any) -> str:
    """What a file holds in which no network of ours was found."""
    keys = [key for _, state_dict in state_dicts(content) for key in state_dict]
    parts = content if isinstance(content, tuple) else ()
    if any(isinstance(part, Placeholder) and part.name.startswith("dnnlib.tflib") for part in parts):
        return (
            "was made by NVIDIA's TensorFlow code; "
            "`legacy.py` of github.com/NVlabs/stylegan2-ada-pytorch turns it into a pickle that can be read"
        )
    if any(key.endswith("synthesis.input.freqs") for key in keys):
        return "holds a StyleGAN3; there is no such network here, only StyleGAN2"
    if any(key.endswith("text_model.embeddings.token_embedding.weight") for key in keys):
        return "holds a CLIP in the layout of Hugging Face's transformers; take it in OpenAI's or open_clip's"
    known = ", ".join(registry.networks())
    return f"holds none of the networks {known}; its tensors are {some(keys) or 'none at all'}"
