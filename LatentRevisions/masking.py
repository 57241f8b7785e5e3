"""Masks: what of a starter picture may change, and how the rest stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor
from torch.nn import functional as F

from mead.imaging.pictures import check_mask, read_picture
from mead.imaging.tensors import to_tensor
from mead.upscaling import Upscaler

AROUND = 2  # places of the latents next to a mask, to which what is in it should fit

Enlarged = Iterator[Image.Image | None]


@dataclass(frozen=True, eq=False)
class Masked:
    """A starter picture and how much of each of its pixels is made anew.

    Attributes:
        starter: RGB, of the size that the picture is made in.
        alpha: 0 (the starter's pixel stays) to 255 (it is made anew), mode L, of the same size.
        large_starter: RGB, of the finished picture's size; None if it is enlarged as the picture is.
        large_alpha: mode L, of the finished picture's size.
        pixels: `starter` as [1, 3, H, W] in [0, 1].
        shares: `alpha` as [1, 1, H, W] in [0, 1].
        free: whether each place of the latents may change, [1, 1, h, w].
    """

    starter: Image.Image
    alpha: Image.Image
    large_starter: Image.Image | None
    large_alpha: Image.Image
    pixels: Tensor
    shares: Tensor
    free: Tensor

    @classmethod
    def of(
        cls,
        starter: Image.Image,
        mask: Path,
        size: tuple[int, int],
        upscale: int,
        feather: float,
        factor: int,
        device: torch.device,
    ) -> Masked:
        """The mask in a file over a starter picture.

        The mask is stretched over the whole starter, whatever its own size, and cropped with it.

        Args:
            starter: RGB, as it was given.
            size: width and height in which the picture is made.
            upscale: how many times as wide and high the finished picture is.
            feather: width of the soft border inside the mask, in shorter sides of the picture.
            factor: pixels to a place of the latents, across and down.

        Raises:
            PictureError: the mask cannot be read, or is all black or all white in what is left of it.
        """
        over = read_picture(mask, "mask", mask=True).resize(starter.size, Image.Resampling.BILINEAR)
        hard = _fit(over, size)
        check_mask(hard, "mask")
        shares = feathered(_levels(hard), round(feather * min(size)))
        alpha = Image.fromarray((shares[0, 0] * 255).round().byte().numpy())
        fitted = ImageOps.fit(starter, size, Image.Resampling.LANCZOS)
        large = (upscale * size[0], upscale * size[1])
        has_detail = min(starter.width / size[0], starter.height / size[1]) > 1
        return cls(
            starter=fitted,
            alpha=alpha,
            large_starter=ImageOps.fit(starter, large, Image.Resampling.LANCZOS) if has_detail else None,
            large_alpha=ImageChops.darker(alpha.resize(large, Image.Resampling.BILINEAR), _fit(over, large)),
            pixels=to_tensor(fitted).to(device),
            shares=shares.to(device),
            free=F.max_pool2d(shares, factor).to(device) > 0,
        )

    def over(self, picture: Tensor) -> Tensor:
        """A picture [1, 3, H, W] in [0, 1] over the starter, through the mask."""
        return torch.lerp(self.pixels, picture, self.shares)

    def merge(self, latents: Tensor, kept: Tensor) -> Tensor:
        """Latents [N, embed_dim, h, w] where they may change, else the starter's [1, embed_dim, h, w]."""
        return torch.where(self.free, latents, kept)

    def misfits(self, latents: Tensor, kept: Tensor) -> Tensor:
        """Mean squared difference of latents [N, embed_dim, h, w] from the starter's around the mask, [N]."""
        reach = 2 * AROUND + 1
        around = (F.max_pool2d(self.free.float(), reach, stride=1, padding=AROUND) > 0) & ~self.free
        squared = (latents - kept).square().mean(1, keepdim=True) * around
        return squared.sum((1, 2, 3)) / around.sum().clamp_min(1)

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of what may change: x and y in half sides from the centre of the picture."""
        height, width = self.free.shape[2:]
        _, _, rows, columns = self.free.nonzero(as_tuple=True)
        x, y = columns.float().mean().item(), rows.float().mean().item()
        return (2 * x + 1) / width - 1, (2 * y + 1) / height - 1

    def blend(self, picture: Image.Image) -> Image.Image:
        """A picture over the starter, through the mask: where that is black, the starter's own pixels."""
        return Image.composite(picture, self.starter, self.alpha)

    def enlarge(self, picture: Image.Image, upscaler: Upscaler, factor: int) -> Enlarged:
        """Enlarge a picture and put it over the starter, which is enlarged too if it is no larger itself.

        Yields:
            As `Upscaler.enlarge`.
        """
        starter = self.large_starter or self.starter
        if self.large_starter is None:
            for part in upscaler.enlarge(self.starter, factor):
                starter = part or starter
                yield None
        for part in upscaler.enlarge(picture, factor):
            yield part and Image.composite(part, starter, self.large_alpha)


def feathered(mask: Tensor, width: int) -> Tensor:
    """A mask whose border rises over `width` pixels, all of them inside: nowhere more than the mask itself.

    Each pixel's depth in the mask, as a share of the largest depth around it, at most `width` + 1, so that
    narrow masks are not lost.

    Args:
        mask: [1, 1, H, W] in [0, 1].
    """
    depth, eroded = mask.clone(), mask
    for _ in range(width):
        eroded = -F.max_pool2d(-eroded, 3, stride=1, padding=1)
        depth += eroded
    deepest = F.max_pool2d(depth, 2 * width + 1, stride=1, padding=width)
    return torch.minimum(mask, depth / deepest.clamp_min(1e-6))


def _fit(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(mask, size, Image.Resampling.BILINEAR)


def _levels(mask: Image.Image) -> Tensor:
    """A picture of mode L as [1, 1, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(mask, np.uint8))[None, None].float() / 255
