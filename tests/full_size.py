"""The published files at full size, with made-up weights, and the golden numbers of the networks in them.

The weights are made by the rule of tests/parity.py, so that the published implementations' numbers hold.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    full = WeightSet.find("full", FOLDER / "manifest.toml")
    entries = {**full.files, **full.absent}
    lines = ['description = "The published networks with made-up weights."']
    for name, path in published.items():
        lines += [
            f"[downloads.{json.dumps(name)}]",
            f"mirrors = {json.dumps(list(mirrors[name]))}",
            f"size = {path.stat().st_size}",
            f'sha256 = "{sha256_of(path)}"',
            f"licence = {json.dumps(full.downloads[name][0].licence)}",
        ]
        for network in full.downloads[name][1]:
            if name not in entries[network].beside:
                lines += [f"[files.{network}]", f"download = {json.dumps(name)}"]
                lines += [f"beside = {json.dumps(sorted(entries[network].beside))}"]
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


def _write_start(path: Path) -> None:
    originals.mixer(parity.load("mixer_32x1024").state_dict, path)


def _write_directions(path: Path) -> None:
    rows = np.random.default_rng(5).standard_normal((sum(channels()), 512))
    np.save(path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))


def _write_statistics(path: Path) -> None:
    rng = np.random.default_rng(6)
    sizes = [size for side in channels_by_side() for size in side]
    arrays = [[rng.random(size, np.float32) for size in sizes] for _ in range(2)]
    path.write_bytes(pickle.dumps(arrays, protocol=4))


def _write_mapper(path: Path) -> None:
    mapper = parity.load("levels_mapper").state_dict
    originals.mapper(mapper, parity.load("stylegan2_small").state_dict, path)


def _write_direction(path: Path) -> None:
    """Of encoder4editing, the same for all codes, or of STIT, for each of them."""
    rng = np.random.default_rng(len(path.stem))
    if path.suffix == ".pt":
        torch.save(torch.from_numpy(rng.standard_normal((1, 512), np.float32)), path)
    else:
        np.save(path, rng.standard_normal((18, 512)))


def channels_by_side() -> list[list[int]]:
    """The channels of StyleGAN2's styles at each side: those of its convolutions, then its colours'."""
    shapes = parity.load("stylegan2_ffhq_1024", with_weights=False).shapes
    of = {
        name.removesuffix(".conv.weight"): shape[2]
        for name, shape in shapes.items()
        if name.endswith(".conv.weight")
    }
    sides = [[of[f"convs.{2 * i}"], of[f"convs.{2 * i + 1}"], of[f"to_rgbs.{i}"]] for i in range(8)]
    return [[of["conv1"], of["to_rgb1"]], *sides]


def channels() -> list[int]:
    """The same without colours."""
    return [size for side in channels_by_side() for size in side[:-1]]


def _clip_numbers(perceptor: Any) -> dict[str, float]:
    golden = parity.load("clip_vit_b_32", with_weights=False)
    return {
        "image_features": parity.error(
            perceptor.model.encode_image(golden["image"]), golden["image_features"]
        ),
        "text_features": parity.error(perceptor.encode_tokens(golden["tokens"]), golden["text_features"]),
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


def _start_numbers(mixer: Any) -> dict[str, float]:
    golden = parity.load("mixer_32x1024", with_weights=False)
    return {"z": parity.error(mixer(golden["embedding"]), golden["z"])}


def _directions_numbers(directions: Any) -> dict[str, float]:
    """Of what was written, not of published numbers."""
    rng = np.random.default_rng(6)
    written = [
        rng.random(size, np.float32) for _ in range(2) for side in channels_by_side() for size in side
    ][26:]
    deviations = [part for i, part in enumerate(written) if i % 3 != 1]
    return {
        "lengths": float((directions.table.norm(dim=1) - 1).abs().max()),
        "deviation": parity.error(directions.deviation, torch.from_numpy(np.concatenate(deviations))),
    }


def _mapper_numbers(mapper: Any) -> dict[str, float]:
    golden = parity.load("levels_mapper", with_weights=False)
    return {
        "offset": parity.error(mapper.offset(golden["w_plus"]), golden["offset"]),
        "edited": parity.error(mapper(golden["w_plus"]), golden["edited"]),
    }


def _sliders_numbers(sliders: Any) -> dict[str, float]:
    """Of what was written, not of published numbers."""
    age = np.random.default_rng(3).standard_normal((1, 512), np.float32)
    gender = np.random.default_rng(6).standard_normal((18, 512))
    offset = sliders.offset({"age": 2.0, "gender": -1.0})
    return {"offset": parity.error(offset, torch.from_numpy(2 * age - gender).float()[None])}


WRITERS: dict[str, Callable[[Path], None]] = {
    "ViT-B-32.pt": _write_clip,
    "vqgan_imagenet_f16_16384.ckpt": _write_vqgan,
    "e4e_ffhq_encode.pt": _write_e4e,
    "model_ir_se50.pth": _write_identity,
    "realesr-general-x4v3.pth": _write_upscaler,
    "cc12m_32x1024_mlp_mixer_clip_ViTB32_pixelrecons_256x256_v0.4.th": _write_start,
    "fs3.npy": _write_directions,
    "S_mean_std": _write_statistics,
    "mapper_afro.pt": _write_mapper,
    "age.pt": _write_direction,
    "gender.npy": _write_direction,
}
NUMBERS: dict[str, Callable[[Any], dict[str, float]]] = {
    "clip": _clip_numbers,
    "vqgan": _vqgan_numbers,
    "stylegan2": _stylegan2_numbers,
    "e4e": _e4e_numbers,
    "identity": _identity_numbers,
    "upscaler": _upscaler_numbers,
    "start": _start_numbers,
    "directions": _directions_numbers,
    "mapper_afro": _mapper_numbers,
    "sliders": _sliders_numbers,
}
