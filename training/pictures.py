"""Drawings as training batches, and the losses that compare pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from training.world import Drawing, draw, sample


def tensor(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size as [N, 3, H, W] in [-1, 1]."""
    array = np.stack([np.asarray(picture, np.uint8) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, Sequence[Drawing]]:
    """`size` fresh drawings: [size, 3, 128, 128] in [-1, 1] and what they show."""
    drawings = [sample(rng) for _ in range(size)]
    return tensor(draw(drawing) for drawing in drawings), drawings


def picture_loss(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 at three scales plus L1 between edges, which plain L1 would leave soft; small things count most."""
    loss = drawn.new_zeros(())
    for scale in range(3):
        weight = 1 + 4 * detail(wanted)
        loss = loss + (weight * (drawn - wanted).abs()).mean() / weight.mean()
        if scale < 2:
            for axis in (-1, -2):
                loss = loss + F.l1_loss(drawn.diff(dim=axis), wanted.diff(dim=axis))
            drawn, wanted = F.avg_pool2d(drawn, 2), F.avg_pool2d(wanted, 2)
    return loss


def pair_loss(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far the change from one of a pair to the other is off, of that change, squared.

    So an earring counts as much as a background. drawn and wanted are pictures or latents [N, C, H, W]; pairs
    stand one behind the other.
    """
    change = (wanted[::2] - wanted[1::2]).flatten(1)
    off = (drawn[::2] - drawn[1::2]).flatten(1) - change
    far = change.square().sum(1)
    return (off.square().sum(1) / far.clamp_min(0.05 * far.mean())).mean()  # some is hardly to be seen


def detail(pictures: torch.Tensor) -> torch.Tensor:
    """How far each place [N, 1, H, W] stands out from what is around it: mouths, not large areas."""
    around = F.avg_pool2d(F.pad(pictures, (4, 4, 4, 4), mode="replicate"), 9, stride=1)
    return F.avg_pool2d((pictures - around).abs().mean(1, keepdim=True), 3, stride=1, padding=1)
