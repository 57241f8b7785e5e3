"""The published files at full size, with made-up weights, and the golden numbers of the networks in them.

The weights are made by the rule of tests/parity.py, so that the published implementations' numbers hold.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from mead.weights.lock import sha256_of
from mead.weights.sets import FOLDER, WeightSet
from tests import originals, parity


def write(file_name: str, path: Path) -> None:
    """Write the published file of that name (see weights/manifest.toml) to `path`."""
    WRITERS[file_name](path)


def errors(network: str, built: Any) -> dict[str, float]:
    """How far a loaded network's outputs are from the published implementation's, relative to the largest."""
    with torch.inference_mode():
        return NUMBERS[network](built)


def describe(home: Path, published: Mapping[str, Path], mirrors: Mapping[str, Sequence[str]]) -> None:
    """Write the manifest of a set in `home`: part of the full one, with other mirrors and checksums.

    Args:
        published: the published files, by name.
        mirrors: their addresses.
    """
    full = WeightSet.find("full", FOLDER / "manifest.toml").downloads
    lines = ['description = "The published networks with made-up weights."']
    for name, path in published.items():
        lines += [
            f"[downloads.{json.dumps(name)}]",
            f"mirrors = {json.dumps(list(mirrors[name]))}",
            f"size = {path.stat().st_size}",
            f'sha256 = "{sha256_of(path)}"',
            f"licence = {json.dumps(full[name][0].licence)}",
        ]
        for network in full[name][1]:
            lines += [f"[files.{network}]", f"download = {json.dumps(name)}"]
    home.mkdir(parents=True, exist_ok=True)
    (home / "manifest.toml").write_text("\n".join(lines) + "\n")


def mapped(path: Path) -> memoryview:
    """A file's content, not read before it is used."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write_clip(path: Path) -> None:
    tensors = parity.load("clip_vit_b_32").state_dict
    originals.clip(tensors | {"logit_scale": torch.tensor(math.log(100))}, path)


def _write_vqgan(path: Path) -> None:
    originals.vqgan(parity.load("vqgan_imagenet_f16_16384").state_dict, path)


def _write_e4e(path: Path) -> None:
    encoder, generator = parity.load("e4e_ffhq_1024"), parity.load("stylegan2_ffhq_1024")
    average = torch.randn(18, 512, generator=torch.Generator().manual_seed(1))
    originals.e4e(encoder.state_dict, generator.state_dict, average, path)


def _write_identity(path: Path) -> None:
    originals.identity(parity.load("ir_se50").state_dict, path)


def _write_upscaler(path: Path) -> None:
    originals.upscaler(parity.load("srvgg_general_x4v3").state_dict, path)


def _clip_numbers(perceptor: Any) -> dict[str, float]:
    golden = parity.load("clip_vit_b_32", with_weights=False)
    return {
        "image_features": parity.error(
            perceptor.model.encode_image(golden["image"]), golden["image_features"]
        ),
        "text_features": parity.error(perceptor.model.encode_text(golden["tokens"]), golden["text_features"]),
    }


def _vqgan_numbers(vqgan: Any) -> dict[str, float]:
    golden = parity.load("vqgan_imagenet_f16_16384", with_weights=False)
    return {
        "z": parity.error(vqgan.encode(golden["image"]), golden["z"]),
        "decoded_z": parity.error(vqgan.decode(golden["z"]), golden["decoded_z"]),
    }


def _stylegan2_numbers(generator: Any) -> dict[str, float]:
    golden = parity.load("stylegan2_ffhq_1024", with_weights=False)
    image = generator.synthesise(golden["w_plus"])
    pooled = F.adaptive_avg_pool2d(image, golden["image_pooled"].shape[-1])
    centre = slice(generator.size // 2 - 16, generator.size // 2 + 16)
    return {
        "w": parity.error(generator.map(golden["z"]), golden["w"]),
        "image_pooled": parity.error(pooled, golden["image_pooled"]),
        "image_crop": parity.error(image[..., centre, centre], golden["image_crop"]),
    }


def _e4e_numbers(encoder: Any) -> dict[str, float]:
    golden = parity.load("e4e_ffhq_1024", with_weights=False)
    return {"codes": parity.error(encoder(golden["image"]), golden["codes"])}


def _identity_numbers(identity: Any) -> dict[str, float]:
    golden = parity.load("ir_se50", with_weights=False)
    return {"features": parity.error(identity(golden["image"]), golden["features"])}


def _upscaler_numbers(network: Any) -> dict[str, float]:
    golden = parity.load("srvgg_general_x4v3", with_weights=False)
    return {"upscaled": parity.error(network(golden["image"]), golden["upscaled"])}


WRITERS: dict[str, Callable[[Path], None]] = {
    "ViT-B-32.pt": _write_clip,
    "vqgan_imagenet_f16_16384.ckpt": _write_vqgan,
    "e4e_ffhq_encode.pt": _write_e4e,
    "model_ir_se50.pth": _write_identity,
    "realesr-general-x4v3.pth": _write_upscaler,
}
NUMBERS: dict[str, Callable[[Any], dict[str, float]]] = {
    "clip": _clip_numbers,
    "vqgan": _vqgan_numbers,
    "stylegan2": _stylegan2_numbers,
    "e4e": _e4e_numbers,
    "identity": _identity_numbers,
    "upscaler": _upscaler_numbers,
}
