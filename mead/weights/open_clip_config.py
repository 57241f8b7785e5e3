"""What open_clip's checkpoints leave to the file `open_clip_config.json` that is published beside them.

A state dict does not tell which GELU its network has, into how many heads it splits its features, or how its
pictures were normalised. OpenAI's CLIPs are all alike in this, and are what is assumed without such a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from mead.weights.checkpoints import CheckpointError
from mead.weights.inert_data import Placeholder
from mead.weights.manifest import first_problem

NAME = "open_clip_config.json"


class _Tower(BaseModel):
    width: int = Field(ge=1)
    heads: int | None = Field(None, ge=1)
    head_width: int = Field(64, ge=1)
    layers: int | list[int]


class _Model(BaseModel):
    quick_gelu: bool = False
    vision_cfg: _Tower
    text_cfg: _Tower


class _Preprocess(BaseModel):
    mean: list[float] | None = Field(None, min_length=3, max_length=3)
    std: list[float] | None = Field(None, min_length=3, max_length=3)


class _Config(BaseModel):
    model_cfg: _Model
    preprocess_cfg: _Preprocess = _Preprocess()


def add_traits(original: Path, content: Any, tensors: dict[str, Tensor]) -> str | None:
    """Add what the configuration beside a CLIP's checkpoint says, see `mead.nn.perceptor.Traits`.

    Returns:
        What is assumed, if there is no such file.

    Raises:
        CheckpointError: naming the configuration, if it is not one.
    """
    if isinstance(content, Placeholder) or {"quick_gelu", "tokens"} & tensors.keys():
        return None  # OpenAI's archive, or a file of ours
    path = original.with_name(NAME)
    try:
        read = json.loads(path.read_text("utf-8"))
        config = _Config.model_validate(read if "model_cfg" in read else {"model_cfg": read})
    except FileNotFoundError:
        return (
            f"{original.name}: clip is taken to be like OpenAI's, with quick GELUs; if open_clip made it, "
            f"put its {NAME} beside it"
        )
    except ValidationError as error:
        raise CheckpointError(f"{path} does not describe a CLIP: {first_problem(error)}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    vision, text = config.model_cfg.vision_cfg, config.model_cfg.text_cfg
    width = (
        vision.width if isinstance(vision.layers, int) else 32 * vision.width
    )  # of the last layer's features
    tensors["quick_gelu"] = torch.tensor(int(config.model_cfg.quick_gelu))
    tensors["heads"] = torch.tensor([width // vision.head_width, text.heads or text.width // text.head_width])
    for name in ("mean", "std"):
        values = getattr(config.preprocess_cfg, name)
        if values is not None:
            tensors[name] = torch.tensor(values)
    return None
