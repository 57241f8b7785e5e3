"""Enlarging finished pictures by the weights set's upscaler, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mead.imaging.tensors import to_picture, to_tensor
from mead.nn.precision import Precision
from mead.nn.upscaler import SRVGGNetCompact
from mead.params import ParamsError, lacking

TILE = 256  # pixels of the picture that are enlarged at once


class Upscaler:
    """The network on its device.

    Args:
        network: enlarges pictures.
        device: the network's device.
    """

    def __init__(self, network: SRVGGNetCompact, device: torch.device) -> None:
        self.network = network.to(memory_format=torch.channels_last)
        self.device = device
        self.precision = Precision(device)

    @torch.inference_mode()
    def enlarge(self, picture: Image.Image, factor: int) -> Iterator[Image.Image | None]:
        """Enlarge a picture in tiles, each computed with as much around it as counts, so they leave no trace.

        Args:
            picture: RGB.
            factor: how many times as wide and high it becomes. A network that enlarges more than that is
                followed by a reduction that averages.

        Yields:
            None after each tile but the last, then the large picture.
        """
        width, height = picture.size
        enlarged = Image.new("RGB", (factor * width, factor * height))
        whole = to_tensor(picture)
        for top, left in product(range(0, height, TILE), range(0, width, TILE)):
            if (top, left) != (0, 0):
                yield None
            tile = self._tile(whole, top, left, factor)
            enlarged.paste(to_picture(tile), (factor * left, factor * top))
        yield enlarged

    def _tile(self, whole: Tensor, top: int, left: int, factor: int) -> Tensor:
        """A tile of the picture [1, 3, H, W] in [0, 1], enlarged."""
        reach, scale = self.network.reach, self.network.scale
        above, before = min(reach, top), min(reach, left)
        part = whole[..., top - above : top + TILE + reach, left - before : left + TILE + reach]
        part = part.to(self.device).contiguous(memory_format=torch.channels_last)
        with self.precision.autocast():
            enlarged = self.network(part)
        rows = slice(scale * above, scale * (above + TILE))
        columns = slice(scale * before, scale * (before + TILE))
        enlarged = enlarged[..., rows, columns].clamp(0, 1)
        return F.avg_pool2d(enlarged, scale // factor) if scale > factor else enlarged


def chosen_factor(asked: int | None, own: int, upscaler: Upscaler | None) -> int:
    """How many times as wide and high a job's picture becomes.

    Args:
        asked: by the job.
        own: the weights set's default, which counts only if it has an upscaler.
        upscaler: the weights set's.

    Raises:
        ParamsError: for a factor that the weights set cannot do.
    """
    scale = upscaler.network.scale if upscaler is not None else 1
    if asked is None:
        return own if scale % own == 0 else 1
    if upscaler is None and asked > 1:
        raise lacking("upscale", "upscaler")
    if scale % asked:
        raise ParamsError("upscale", f"these weights enlarge {scale} times, not {asked}", out_of_range=True)
    return asked
