"""Pictures as tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # the caching server does without PyTorch
    import torch


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as [1, 3, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(picture, np.uint8)).permute(2, 0, 1)[None].float() / 255


def to_picture(image: torch.Tensor) -> Image.Image:
    """[1, 3, H, W] in [0, 1] (clipped to it) as an RGB picture.

    Raises:
        FloatingPointError: where a value is not finite.
    """
    if not image.isfinite().all():
        raise FloatingPointError("the picture is not finite")
    levels = image[0].float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
