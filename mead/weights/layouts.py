"""How published state dicts of the networks look, and how their tensors become those that ours load."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How a published state dict looks.

    Attributes:
        network: which network it holds.
        sign: a key that no other layout has, less any prefix.
        take: turns the keys and tensors under the sign's prefix into those our network loads.
    """

    network: str
    sign: str
    take: Callable[[dict[str, Tensor]], dict[str, Tensor]]


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


LAYOUTS = (
    Layout("clip", "ln_final.weight", _openai_clip),
    Layout("vqgan", "quantize.embedding.weight", _vqgan),
    Layout("vqgan", "quantize.embed.weight", _vqgan),
    Layout("start", "odds_in.weight", _as_it_is),
    Layout("stylegan2", "to_rgb1.conv.weight", _rosinality),
    Layout("stylegan2", "style_conv1.modulated_conv.weight", _basicsr),
    Layout("stylegan2", "synthesis.b4.const", _nvidia),
    Layout("e4e", "styles.0.linear.weight", _as_it_is),
    Layout("identity", "output_layer.3.weight", _as_it_is),
    Layout("mapper", "mapper_in.weight", _as_it_is),
)
