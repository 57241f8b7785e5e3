"""Converting published weight files, once, to safetensors in the layout our networks load.

A published file may hold several networks, and much else that only training needs. `convert` takes one
network out of it and writes its tensors as they are, number format included, to NAME.safetensors, and what
else is known of it, its hyperparameters first of all, to NAME.json for people to read.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mead.checkpoints import Checkpoint, CheckpointError, modules, read_checkpoint
from mead.inert_pickle import Name, Placeholder
from mead.state_dict import StateDict, StateDictError, shape

NETWORKS: Mapping[str, str] = {
    "clip": "mead.perceptor.Perceptor",
    "vqgan": "LatentRevisions.vqgan.VQGAN",
    "start": "LatentRevisions.start.LearnedStart",
    "stylegan2": "StyleCLIP.stylegan2.Generator",
    "e4e": "StyleCLIP.e4e.Encoder4Editing",
    "identity": "StyleCLIP.identity.Identity",
    "mapper": "StyleCLIP.mapper.LatentMapper",
}
"""By the name a network has in a weights set: the class it is loaded as."""

# What each class says of itself, beside the shapes of its tensors.
_HYPERPARAMETERS = {
    "clip": ("input_size", "context_length", "embed_dim"),
    "vqgan": ("factor", "embed_dim", "n_embed"),
    "start": (),
    "stylegan2": ("size", "style_dim", "n_latent"),
    "e4e": ("input_size", "n_styles", "style_dim"),
    "identity": ("input_size", "embed_dim"),
    "mapper": ("style_dim", "embed_dim"),
}


def networks(original: Path) -> tuple[str, ...]:
    """Which networks a weight file holds.

    Raises:
        CheckpointError: when the file cannot be read, or holds none that we know.
    """
    found = _find(original, read_checkpoint(original))
    return tuple(network for network in NETWORKS if network in found)


def convert(original: Path, network: str, target: Path) -> None:
    """Write `network` out of a published file to `target`, and its hyperparameters beside it as JSON.

    Both appear under their names only when they are whole; nothing else is left behind. The same file gives
    the same bytes.

    Args:
        original: a file of any format that `mead.checkpoints` reads.
        network: one of `NETWORKS`.
        target: the safetensors file to write; its JSON gets the same name but for the ending.

    Raises:
        CheckpointError: naming the file that cannot be read, would run code, or does not hold the network.
        OSError: when the disk is full or the folder cannot be written.
    """
    checkpoint = read_checkpoint(original)
    found = _find(original, checkpoint)
    if network not in found:
        raise CheckpointError(f"{original} holds no {network}, but {' and '.join(found)}")
    tensors = found[network]
    try:
        built = check(network, {key: _without_values(tensor) for key, tensor in tensors.items()})
    except StateDictError as error:
        raise CheckpointError(f"{original} holds another {network} than ours: {error}") from error
    description = {
        "network": network,
        "class": NETWORKS[network],
        "hyperparameters": {name: getattr(built, name) for name in _HYPERPARAMETERS[network]},
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "original": {"name": original.name, "size": original.stat().st_size, "format": checkpoint.format},
        "training": _training(checkpoint.content),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with _whole(target) as part:
        try:
            save_file(_packed(tensors), part)
        except SafetensorError as error:
            said = re.search(r"os error (\d+)", str(error))  # its way to tell which
            number = int(said[1]) if said else errno.EIO
            raise OSError(number, os.strerror(number), str(target)) from error
    with _whole(target.with_suffix(".json")) as part:
        part.write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", "utf-8")


def check(network: str, tensors: StateDict) -> nn.Module:
    """Build a network of a weights set from its tensors, and so check their keys and shapes.

    Raises:
        StateDictError: naming keys that are missing, unknown or of another shape than they should have.
    """
    module, _, name = NETWORKS[network].rpartition(".")
    kind: Any = getattr(importlib.import_module(module), name)
    if network != "e4e":
        return kind.from_state_dict(tensors)
    average = shape(tensors, "latent_avg")
    encoder = kind.from_state_dict({key: tensor for key, tensor in tensors.items() if key != "latent_avg"})
    expected = (encoder.n_styles, encoder.style_dim)
    if average != expected:
        raise StateDictError(f"latent_avg has the shape {average} instead of {expected}")
    return encoder


def _without_values(tensor: Tensor) -> Tensor:
    """The tensor's shape and type. Counters and token ids stay as they are: they tell what to build."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors each in a run of memory of its own, as safetensors has them; copied only where need be."""
    packed: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.contiguous()
        packed[key] = tensor.clone() if tensor.data_ptr() in taken else tensor
        taken.add(tensor.data_ptr())
    return packed


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name to write `path` under, which becomes its name at the end, if nothing goes wrong."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors' writer lets nobody else read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# Finding networks


@dataclass(frozen=True)
class _Layout:
    """How a published state dict looks.

    Attributes:
        network: which network it holds.
        sign: a key that no other layout has, less any prefix.
        take: turns the keys and tensors under the sign's prefix into those our network loads.
    """

    network: str
    sign: str
    take: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _find(original: Path, checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """The state dicts of all known networks in a checkpoint.

    Raises:
        CheckpointError: naming what the file holds where that is no network of ours.
    """
    found: dict[str, dict[str, Tensor]] = {}
    state_dicts = list(_state_dicts(checkpoint.content))
    for state_dict in state_dicts:
        for layout in _LAYOUTS:
            prefix = _prefix(state_dict, layout.sign)
            if prefix is not None and layout.network not in found:
                under = {
                    key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)
                }
                found[layout.network] = layout.take(under)
    if "e4e" in found and "latent_avg" not in found["e4e"]:
        _complete_e4e(original, checkpoint.content, found["e4e"])
    if not found:
        raise CheckpointError(
            f"{original} ({checkpoint.format}) {_known_otherwise(checkpoint.content, state_dicts)}"
        )
    return found


def _state_dicts(content: Any) -> Iterator[dict[str, Tensor]]:
    """All state dicts of a checkpoint; those of averaged weights first, for they draw better."""
    parts = [("", content)]
    if isinstance(content, dict):
        parts += [(str(key), value) for key, value in content.items()]
    for _, part in sorted(parts, key=lambda part: "ema" not in part[0].lower()):
        if isinstance(part, Placeholder):
            yield modules(part)
        elif isinstance(part, dict):
            yield {
                key: value
                for key, value in part.items()
                if isinstance(key, str) and isinstance(value, Tensor)
            }


def _prefix(state_dict: Mapping[str, Tensor], sign: str) -> str | None:
    """What stands before `sign`, such as "decoder." or DataParallel's "module."; None where it is not."""
    prefixes = [key.removesuffix(sign) for key in state_dict if f".{key}".endswith(f".{sign}")]
    return min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix)), default=None)


def _complete_e4e(original: Path, content: Any, tensors: dict[str, Tensor]) -> None:
    """Add the average face's codes, which e4e's own file keeps beside the networks, and check its kind."""
    settings = _plain(content.get("opts")) if isinstance(content, dict) else None
    kind = settings.get("encoder_type", "Encoder4Editing") if isinstance(settings, dict) else None
    if kind not in (None, "Encoder4Editing"):
        raise CheckpointError(
            f"{original} holds the encoder {kind}, which has e4e's keys but computes something else"
        )
    average = content.get("latent_avg") if isinstance(content, dict) else None
    if not isinstance(average, Tensor) or average.ndim not in (1, 2):
        raise CheckpointError(f"{original} holds e4e without the average face's codes, 'latent_avg'")
    if average.ndim == 1:  # the same for every layer
        n_styles = len({key.split(".")[1] for key in tensors if key.startswith("styles.")})
        average = average.repeat(n_styles, 1)
    tensors["latent_avg"] = average


def _known_otherwise(content: Any, state_dicts: list[dict[str, Tensor]]) -> str:
    """What a file holds in which no network of ours was found."""
    keys = [key for state_dict in state_dicts for key in state_dict]
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
    some = ", ".join(keys[:5]) or "none at all"
    return (
        f"holds none of the networks {', '.join(NETWORKS)}; its tensors are {some}{', ...' * (len(keys) > 5)}"
    )


# Layouts


def _as_it_is(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def _vqgan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CompVis/taming-transformers, without the discriminator and the perceptual loss it was trained with."""
    rooms = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.", "norm_groups")
    # `used` and the like belong to codes that were numbered anew, `temperature` to training
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key.startswith(rooms)
        and (not key.startswith("quantize.") or re.match(r"quantize\.(embedding|embed|proj)\.", key))
    }


def _openai_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """openai/CLIP; its TorchScript archive holds sizes and masks among the weights."""
    weights = (
        r"(.*[._])?(weight|bias|proj|projection|embedding|logit_scale|tokens"
        r"|running_mean|running_var|num_batches_tracked)"
    )
    return {key: tensor for key, tensor in tensors.items() if re.fullmatch(weights, key)}


def _rosinality(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """rosinality/stylegan2-pytorch, without the resampling filter, which is always the same."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".kernel")}


def _basicsr(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """XPixelGroup/BasicSR, rosinality's generator with other names."""
    renames = (
        (r"^style_mlp\.", "style."),
        (r"^constant_input\.weight$", "input.input"),
        (r"^style_conv(1|s\.\d+)\.weight$", r"conv\1.noise.weight"),
        (r"^style_conv(1|s\.\d+)\.", r"conv\1."),
        (r"\.modulated_conv\.", ".conv."),
        (r"^noises\.noise(\d+)$", r"noises.noise_\1"),
    )
    renamed = {}
    for key, tensor in _rosinality(tensors).items():
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


def _nvidia(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """NVlabs/stylegan2-ada-pytorch: the same sums by other names, with axes of length one left out.

    Its weights at 1x1 and 3x3 are not scaled as the others', which demodulation makes the same.
    """
    taken: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.endswith("resample_filter"):  # always the same
            continue
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
            taken[f"style.{int(match[1]) + 1}.{match[2]}"] = tensor
        elif key == "synthesis.b4.const":
            taken["input.input"] = tensor[None]
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", key):
            level = int(math.log2(int(match[1]))) - 2  # 0 at 4x4
            layer = 2 * level - 1 + (match[2] == "conv1")  # 0 at 4x4, then two a level
            if match[2] == "torgb":
                room = f"to_rgbs.{level - 1}" if level else "to_rgb1"
            else:
                room = f"convs.{layer - 1}" if level else "conv1"
            match match[3]:
                case "weight":
                    taken[f"{room}.conv.weight"] = tensor[None]
                case "bias" if match[2] == "torgb":
                    taken[f"{room}.bias"] = tensor[None, :, None, None]
                case "bias":
                    taken[f"{room}.activate.bias"] = tensor
                case "noise_strength":
                    taken[f"{room}.noise.weight"] = tensor.reshape(1)
                case "noise_const":
                    taken[f"noises.noise_{layer}"] = tensor[None, None]
                case part:
                    taken[f"{room}.{part.replace('affine', 'conv.modulation')}"] = tensor
        elif key != "mapping.w_avg":
            taken[key] = tensor  # such as a class's embedding: building the network will name it
    return taken


_LAYOUTS = (
    _Layout("clip", "ln_final.weight", _openai_clip),
    _Layout("vqgan", "quantize.embedding.weight", _vqgan),
    _Layout("vqgan", "quantize.embed.weight", _vqgan),
    _Layout("start", "odds_in.weight", _as_it_is),
    _Layout("stylegan2", "to_rgb1.conv.weight", _rosinality),
    _Layout("stylegan2", "style_conv1.modulated_conv.weight", _basicsr),
    _Layout("stylegan2", "synthesis.b4.const", _nvidia),
    _Layout("e4e", "styles.0.linear.weight", _as_it_is),
    _Layout("identity", "output_layer.3.weight", _as_it_is),
    _Layout("mapper", "mapper_in.weight", _as_it_is),
)


# What else a file says

_MOST_SETTINGS = 500  # dicts and lists


def _training(content: Any) -> Any:
    """The settings a network was trained with, where its file names them, as plain data."""
    if not isinstance(content, dict):
        return {}
    names = ("opts", "args", "hyper_parameters", "hparams", "config", "epoch", "global_step")
    return {name: _plain(content[name]) for name in names if name in content}


def _plain(value: Any) -> Any:
    """Settings as JSON can say them; of anything else, or too many, the name of what it is."""
    left = itertools.count(_MOST_SETTINGS, -1)

    def plain(value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Name):
            return value.path
        if isinstance(value, Placeholder):
            inside = value.state if isinstance(value.state, dict) else value.entries
            return plain(inside, depth) if inside else value.name
        if depth and next(left) > 0:
            if isinstance(value, dict):
                return {
                    str(key.path if isinstance(key, Name) else key): plain(each, depth - 1)
                    for key, each in value.items()
                }
            if isinstance(value, (list, tuple)):
                return [plain(each, depth - 1) for each in value]
        return type(value).__name__

    return plain(value, depth=10)
