"""The layouts of published state dicts, and how they are converted to those our networks load."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mead.weights.checkpoints import CheckpointError, naming, read_checkpoint
from mead.weights.inert_data import in_words, is_name
from mead.weights.numpy_arrays import array_of
from mead.weights.open_clip_config import add_traits
from mead.weights.plain_data import plain


@dataclass(frozen=True)
class Layout:
    """The layout of a published state dict.

    Attributes:
        network: which network it holds.
        signature: a key that no other layout has, without any prefix; or the end of such keys, behind a star,
            where their names are free. Those have no prefix.
        convert: gives the tensors our network loads, by key.
        complete: adds tensors that the file (its path, for errors, and content) keeps elsewhere; may return
            what people should know.
        fits: whether tensors with that key are such a network, if not all are.
    """

    network: str
    signature: str
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    complete: Callable[[Path, Any, dict[str, Tensor]], str | None] | None = None
    fits: Callable[[dict[str, Tensor]], bool] | None = None

    def signatures(self, keys: Iterable[str]) -> list[str]:
        """The keys by which such networks are found, one for each."""
        if self.signature.startswith("*"):
            return [key for key in keys if "." not in key and key.endswith(self.signature[1:])][:1]
        return [key for key in keys if f".{key}".endswith(f".{self.signature}")]

    def prefix(self, key: str) -> str:
        """What stands before the network's keys, by one of its `signatures`."""
        return "" if self.signature.startswith("*") else key.removesuffix(self.signature)


def _as_it_is(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def _vqgan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CompVis/taming-transformers, without the discriminator and the perceptual loss it was trained with."""
    prefixes = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.", "norm_groups")
    # `used` and the like are of remapped codes, `temperature` of training
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key.startswith(prefixes)
        and (not key.startswith("quantize.") or re.match(r"quantize\.(embedding|embed|proj)\.", key))
    }


def _openai_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """openai/CLIP and open_clip; TorchScript archives hold sizes and masks among the weights."""
    weights = (
        r"(.*[._])?(weight|bias|proj|projection|embedding|logit_scale|tokens"
        r"|running_mean|running_var|num_batches_tracked)|quick_gelu|heads|mean|std"
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
    """NVlabs/stylegan2-ada-pytorch: the same computation with other names, and without axes of length one.

    It scales its weights differently, which demodulation cancels.
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
            layer = 2 * level - 1 + (match[2] == "conv1")  # 0 at 4x4, then two per level
            if match[2] == "torgb":
                layer_name = f"to_rgbs.{level - 1}" if level else "to_rgb1"
            else:
                layer_name = f"convs.{layer - 1}" if level else "conv1"
            match match[3]:
                case "weight":
                    taken[f"{layer_name}.conv.weight"] = tensor[None]
                case "bias" if match[2] == "torgb":
                    taken[f"{layer_name}.bias"] = tensor[None, :, None, None]
                case "bias":
                    taken[f"{layer_name}.activate.bias"] = tensor
                case "noise_strength":
                    taken[f"{layer_name}.noise.weight"] = tensor.reshape(1)
                case "noise_const":
                    taken[f"noises.noise_{layer}"] = tensor[None, None]
                case part:
                    taken[f"{layer_name}.{part.replace('affine', 'conv.modulation')}"] = tensor
        elif key != "mapping.w_avg":
            taken[key] = tensor  # such as a class embedding: building the network will reject it by name
    return taken


def _with_average(original: Path, content: Any, tensors: dict[str, Tensor]) -> None:
    """Add the average latent codes, which e4e's file keeps beside the networks; check the encoder's kind."""
    if "latent_avg" in tensors:
        return
    settings = plain(content.get("opts")) if isinstance(content, dict) else None
    kind = settings.get("encoder_type", "Encoder4Editing") if isinstance(settings, dict) else None
    if kind not in (None, "Encoder4Editing"):
        raise CheckpointError(
            f"{original} holds the encoder {kind if is_name(kind) else in_words(kind)}, "
            "which has e4e's keys but is another network"
        )
    average = content.get("latent_avg") if isinstance(content, dict) else None
    if not isinstance(average, Tensor) or average.ndim not in (1, 2):
        raise CheckpointError(f"{original} holds e4e without its average latent codes, 'latent_avg'")
    if average.ndim == 1:  # the same for every layer
        n_styles = len({key.split(".")[1] for key in tensors if key.startswith("styles.")})
        average = average.expand(n_styles, -1)
    tensors["latent_avg"] = average


ARRAY = "array"  # the name of a tensor that a file holds alone
MOST_CODES = 64  # of a picture; the styles of one have thousands of channels
STATISTICS = "S_mean_std"  # the published file beside the channels' directions


def _global_directions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """orpatashnik/StyleCLIP, what each channel of the styles does: an array without a name."""
    return {"table": tensors[ARRAY]}


def _is_table(tensors: dict[str, Tensor]) -> bool:
    return not _is_direction(tensors)


def _with_deviations(original: Path, content: Any, tensors: dict[str, Tensor]) -> None:
    """Add the channels' standard deviations, which are in a file of their own.

    It holds means and deviations of all styles. Colour layers, each after the layers of its side, have no
    directions.
    """
    path = original.with_name(STATISTICS)
    if not path.is_file():
        raise CheckpointError(
            f"{original} holds the directions of styles; their deviations are missing: put the file "
            f"{STATISTICS} that was published with it beside it"
        )
    with naming(path):
        match read_checkpoint(path).content:
            case [_, list() as deviations] | (_, list() as deviations):
                parts = [array_of(each) for i, each in enumerate(deviations) if i % 3 != 1]
            case _:
                raise CheckpointError(f"{path} does not hold the means and deviations of styles")
    if not parts or any(part.ndim != 1 or not part.is_floating_point() for part in parts):
        raise CheckpointError(f"{path} does not hold the means and deviations of styles")
    tensors["deviation"] = torch.cat(parts)


SLIDER_BYTES = 1 << 18  # that a file of a direction may have
SLIDER_RANGE = (-5.0, 5.0)  # of a published direction, as in e4e's notebook


def _is_direction(tensors: dict[str, Tensor]) -> bool:
    array = tensors.get(ARRAY)
    return array is not None and (array.ndim == 1 or (array.ndim == 2 and len(array) <= MOST_CODES))


def _with_sliders(original: Path, content: Any, tensors: dict[str, Tensor]) -> None:
    """A slider for the direction in the file, and for those in other files of its folder, by their names.

    encoder4editing has [1, 512], the same for all codes, STIT [18, 512].
    """
    del tensors[ARRAY]
    for path in sorted(original.parent.iterdir()):
        if path.suffix not in (".pt", ".npy") or path.stat().st_size > SLIDER_BYTES:
            continue
        with naming(path):
            content = read_checkpoint(path).content
        array = content.get(ARRAY) if isinstance(content, dict) else content
        if not isinstance(array, Tensor) or not _is_direction({ARRAY: array}):
            continue
        name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
        if not name or f"{name}_direction" in tensors:
            raise CheckpointError(f"{path} holds a direction; give the file a name of its own, such as smile")
        tensors[f"{name}_direction"] = array.float().reshape(-1, array.shape[-1])
        tensors[f"{name}_range"] = torch.tensor(SLIDER_RANGE)


LEVEL_SIGNATURES = [f"{level}_mapping.mapping.1.weight" for level in ("course", "medium", "fine")]


def _first_level(signature: str) -> Callable[[dict[str, Tensor]], bool]:
    """Whether a mapper has no level before that of the key `signature`."""
    before = LEVEL_SIGNATURES[: LEVEL_SIGNATURES.index(signature)]
    return lambda tensors: not any(key in tensors for key in before)


LAYOUTS = (
    Layout("clip", "ln_final.weight", _openai_clip, add_traits),
    Layout("vqgan", "quantize.embedding.weight", _vqgan),
    Layout("vqgan", "quantize.embed.weight", _vqgan),
    Layout("start", "odds_in.weight", _as_it_is),
    Layout("start", "mixer.1.weight", _as_it_is),
    Layout("stylegan2", "to_rgb1.conv.weight", _rosinality),
    Layout("stylegan2", "style_conv1.modulated_conv.weight", _basicsr),
    Layout("stylegan2", "synthesis.b4.const", _nvidia),
    Layout("e4e", "styles.0.linear.weight", _as_it_is, _with_average),
    Layout("identity", "output_layer.3.weight", _as_it_is),
    Layout("denoiser", "hints_in.weight", _as_it_is),
    Layout("mapper", "mapper_in.weight", _as_it_is),
    *(
        Layout("mapper_*", signature, _as_it_is, fits=_first_level(signature))
        for signature in LEVEL_SIGNATURES
    ),
    Layout("directions", ARRAY, _global_directions, _with_deviations, _is_table),
    Layout("sliders", ARRAY, _as_it_is, _with_sliders, _is_direction),
    Layout("sliders", "*_direction", _as_it_is),
    Layout("directions", "table", _as_it_is),
    Layout("upscaler", "body.0.weight", _as_it_is),
    Layout("face", "face_out.weight", _as_it_is),
)
