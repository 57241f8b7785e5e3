"""Weight files in the formats they are published in, made from any tensors.

Each has around its networks what the published files have: training state, settings, and objects of
classes that are installed only while the file is written.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
import sys
import types
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


@contextlib.contextmanager
def installed(*names: str) -> Iterator[list[Any]]:
    """Classes of these full names, importable as long as the context lasts."""
    before = set(sys.modules)
    classes = []
    for name in names:
        package, _, kind = name.rpartition(".")
        parts = package.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            sys.modules.setdefault(path, types.ModuleType(path))
        made = type(kind, (dict,) if kind.endswith("Dict") else (), {"__module__": package})
        setattr(sys.modules[package], kind, made)
        classes.append(made)
    try:
        yield classes
    finally:
        for path in set(sys.modules) - before:
            del sys.modules[path]


def vqgan(tensors: Tensors, path: Path) -> None:
    """CompVis/taming-transformers: a PyTorch Lightning checkpoint, with the losses' networks."""
    names = (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "main.SetupCallback",
    )
    losses = {
        "loss.perceptual_loss.net.slice1.0.weight": torch.ones(64, 3, 3, 3),
        "loss.discriminator.main.0.weight": torch.ones(64, 3, 4, 4),
        "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
    }
    optimiser = {"state": {0: {"step": 3, "exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 1e-5}]}
    with installed(*names) as (model_checkpoint, attribute_dict, list_config, metadata, callback):
        config, about, setup = list_config(), metadata(), callback()
        about.__dict__ = {"ref_type": Any, "object_type": list, "optional": True}
        config.__dict__ = {"_metadata": about, "_content": [1, 1, 2, 2, 4]}
        setup.__dict__ = {"resume": Path("logs/last.ckpt"), "now": np.float64(2.5)}
        checkpoint = {
            "epoch": 11,
            "global_step": 123_456,
            "pytorch-lightning_version": "1.0.8",
            "state_dict": OrderedDict({**tensors, **losses}),
            "callbacks": {
                model_checkpoint: {"best_model_score": torch.tensor(0.5), "best_model_path": "x.ckpt"},
                callback: setup,
            },
            "optimizer_states": [optimiser],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": attribute_dict(
                ch_mult=config, losses=defaultdict(list), device=torch.device("cpu")
            ),
        }
        torch.save(checkpoint, path)


def e4e(encoder: Tensors, generator: Tensors, latent_avg: Tensor, path: Path) -> None:
    """omertov/encoder4editing: the encoder, the generator and the average codes in one file."""
    state_dict = {f"encoder.{key}": tensor for key, tensor in encoder.items()}
    state_dict |= {f"decoder.{key}": tensor for key, tensor in {**generator, **_kernels()}.items()}
    options = argparse.Namespace(
        encoder_type="Encoder4Editing", stylegan_size=1024, device="cuda:0", lpips_lambda=0.8
    )
    torch.save({"state_dict": state_dict, "latent_avg": latent_avg, "opts": options}, path)


def mapper(tensors: Tensors, generator: Tensors, path: Path) -> None:
    """orpatashnik/StyleCLIP: a mapper, and the generator it was trained with."""
    state_dict = {f"mapper.{key}": tensor for key, tensor in tensors.items()}
    state_dict |= {f"decoder.{key}": tensor for key, tensor in {**generator, **_kernels()}.items()}
    options = argparse.Namespace(mapper_type="LevelsMapper", no_fine_mapper=False, description="afro")
    torch.save({"state_dict": state_dict, "opts": vars(options)}, path)


def stylegan2(tensors: Tensors, path: Path) -> None:
    """rosinality/stylegan2-pytorch: a training's checkpoint, with the averaged generator as `g_ema`."""
    last = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    checkpoint = {
        "g": last,
        "d": {"convs.0.0.weight": torch.ones(8, 3, 1, 1)},
        "g_ema": {**tensors, **_kernels()},
        "g_optim": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(size=32, batch=16, path="/data"),
        "ada_aug_p": 0.0,
    }
    torch.save(checkpoint, path)


def basicsr(tensors: Tensors, path: Path) -> None:
    """XPixelGroup/BasicSR: the generator as `params_ema`, with names of its own; takes rosinality's."""
    renames = (
        (r"\.conv\.(weight|modulation)", r".modulated_conv.\1"),
        (r"^style\.", "style_mlp."),
        (r"^input\.input$", "constant_input.weight"),
        (r"^conv(s\.\d+|1)\.noise\.weight$", r"style_conv\1.weight"),
        (r"^conv(s\.\d+|1)\.", r"style_conv\1."),
        (r"^noises\.noise_", "noises.noise"),
    )
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    last = {key: torch.zeros_like(tensor) for key, tensor in renamed.items()}
    torch.save({"params": last, "params_ema": renamed}, path)


def nvidia(tensors: Tensors, path: Path) -> None:
    """NVlabs/stylegan2-ada-pytorch: pickled modules that carry their source; takes NVIDIA's names."""

    def module(under: Tensors) -> Any:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in under.items():
            if "." in key:
                part, _, rest = key.partition(".")
                parts.setdefault(part, {})[rest] = tensor
        own = {key: tensor for key, tensor in under.items() if "." not in key}
        made = persistent()
        made.state = {
            "training": False,
            "_parameters": OrderedDict((key, nn.Parameter(tensor)) for key, tensor in own.items()),
            "_buffers": OrderedDict(resample_filter=torch.ones(4, 4)),
            "_modules": OrderedDict((name, module(part)) for name, part in parts.items()),
            "init_kwargs": easy_dict(z_dim=32, c_dim=0),
        }
        return made

    def reduce(self: Any) -> tuple[Any, ...]:
        source = f"raise SystemExit('the source code in {path.name} was run')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Generator"}
        return reconstruct, ({**meta, "state": self.state},)

    with installed("torch_utils.persistence.Decorator", "dnnlib.util.EasyDict") as (persistent, easy_dict):
        reconstruct = types.FunctionType((lambda meta: None).__code__, {}, "_reconstruct_persistent_obj")
        reconstruct.__module__ = "torch_utils.persistence"
        reconstruct.__qualname__ = reconstruct.__name__
        sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
        persistent.__reduce__ = reduce
        networks = {"G": None, "D": None, "G_ema": module(tensors), "augment_pipe": None}
        path.write_bytes(pickle.dumps(networks))


def identity(tensors: Tensors, path: Path) -> None:
    """TreB1eN/InsightFace_Pytorch: a bare state dict, in the format from before PyTorch 1.6."""
    torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=False)


def upscaler(tensors: Tensors, path: Path) -> None:
    """xinntao/Real-ESRGAN: a BasicSR state dict, as `params`."""
    torch.save({"params": OrderedDict(tensors)}, path)


def mixer(tensors: Tensors, path: Path) -> None:
    """mehdidc/feed_forward_vqgan_clip: the state dict, with its settings as OmegaConf's objects."""
    with _omegaconf({"model_type": "mlp_mixer", "depth": 32, "augs": ["Af", "Pe"]}) as config:
        checkpoint = {"state_dict": OrderedDict(tensors), "config": config, "step": 120_000, "epoch": 7}
        torch.save(checkpoint, path)


def mixer_module(tensors: Tensors, path: Path) -> None:
    """The same project's older releases: the whole module."""

    def module(kind: Any, under: Tensors) -> Any:
        own = {key: nn.Parameter(tensor) for key, tensor in under.items() if "." not in key}
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in under.items():
            if "." in key:
                part, _, rest = key.partition(".")
                parts[part][rest] = tensor
        made = kind()
        made.__dict__ = {
            "training": True,
            "_parameters": OrderedDict(own),
            "_buffers": OrderedDict(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict((name, module(inner, part)) for name, part in parts.items()),
        }
        return made

    names = ("mlp_mixer_pytorch.Mixer", "mlp_mixer_pytorch.PreNormResidual")
    with installed(*names) as (outer, inner), _omegaconf({"model_type": "mlp_mixer"}) as config:
        net = module(outer, tensors)
        net.__dict__ |= {"config": config, "input_dim": 512, "NOISE": torch.zeros(4, 3)}
        torch.save(net, path)


@contextlib.contextmanager
def _omegaconf(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Settings as OmegaConf holds them: nodes that know their parents."""
    names = ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode", "base.ContainerMetadata")
    with installed(*[f"omegaconf.{name}" for name in names]) as (dict_config, list_config, node, metadata):

        def of(value: Any, parent: Any) -> Any:
            kind = (
                dict_config if isinstance(value, dict) else list_config if isinstance(value, list) else node
            )
            made = kind()
            about = metadata()
            about.__dict__ = {"ref_type": Any, "object_type": dict, "optional": True, "flags": {}}
            made.__dict__ = {"_metadata": about, "_parent": parent}
            if isinstance(value, dict):
                made._content = {key: of(inside, made) for key, inside in value.items()}
            elif isinstance(value, list):
                made._content = [of(inside, made) for inside in value]
            else:
                made._val = value
            return made

        yield of(dict(settings), None)


def clip(tensors: Tensors, path: Path) -> None:
    """openai/CLIP: a TorchScript archive, with its sizes and a mask as tensors."""
    others = {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49_408),
        "transformer.attn_mask": torch.zeros(77, 77),
    }
    root = _Scripted()
    for key, tensor in {**tensors, **others}.items():
        module: nn.Module = root
        *parts, name = key.split(".")
        for part in parts:
            if part not in dict(module.named_children()):
                module.add_module(part, _Scripted())
            module = module.get_submodule(part)
        if tensor.is_floating_point():
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript has no future, but published files
        torch.jit.save(torch.jit.script(root), path)


class _Scripted(nn.Module):
    """A module that only holds tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _kernels() -> dict[str, Tensor]:
    """Constants that rosinality's state dicts hold beside the weights."""
    return {"convs.0.conv.blur.kernel": torch.ones(4, 4), "to_rgbs.0.upsample.kernel": torch.ones(4, 4)}
