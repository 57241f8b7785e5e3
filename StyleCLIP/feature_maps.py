"""Feature maps, computed in strips of rows: what one operation leaves, the next finds in cache.

A map [1, C, H, W] is channels-last and lies between `BORDER` rows of zeros above and below: a strip with the
neighbours that a convolution needs is a view of it, and the zeros are the convolution's padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mead.nn.threads import own_threads

BORDER = 2  # rows of zeros above and below
STRIP = 4 * 2**20  # bytes, of one feature map; on the CPU
SPARE = 3  # maps of one shape that are kept: a level's two and a gradient

Size = tuple[int, int, int]  # channels, height, width


class FeatureMaps:
    """Hands out feature maps in one number format, and on the CPU keeps them for the next pass.

    There, fresh memory of this size costs more time than what is computed in it.
    """

    def __init__(self) -> None:
        self._spare: dict[Size, list[Tensor]] = {}

    def take(self, size: Size, like: Tensor) -> Tensor:
        """A map with its border, in the dtype and on the device of `like`; what is inside is not set."""
        spare = self._spare.get(size)
        try:
            if spare is not None:
                return spare.pop()
        except IndexError:
            pass
        channels, height, width = size
        shape = (1, channels, height + 2 * BORDER, width)
        features = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
        features[:, :, :BORDER] = 0
        features[:, :, -BORDER:] = 0
        return features

    def give_back(self, features: Tensor) -> None:
        """A map that is not needed any more."""
        if features.device.type != "cpu":
            return  # GPUs have PyTorch's own pool
        _, channels, height, width = features.shape
        spare = self._spare.setdefault((channels, height - 2 * BORDER, width), [])
        if len(spare) < SPARE:
            spare.append(features)


def rows(features: Tensor, strip: range, halo: int = 0) -> Tensor:
    """The rows of a strip and `halo` more above and below: a view."""
    return features[:, :, strip.start + BORDER - halo : strip.stop + BORDER + halo]


def strips(size: Size, like: Tensor) -> Iterator[range]:
    """Split the rows of a map into strips; all rows at once on a GPU.

    The size alone decides, so that a picture is the same in any batch.
    """
    channels, height, width = size
    step = height
    if like.device.type == "cpu":
        step = max(1, STRIP // (channels * width * like.element_size()))
    for start in range(0, height, step):
        yield range(start, min(start + step, height))


def flat(features: Tensor) -> Tensor:
    """[1, C, H, W] -> [H W, C], a view of a channels-last map."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def unflat(features: Tensor, width: int) -> Tensor:
    """[H W, C] -> [1, C, H, W], channels-last."""
    return features.view(1, -1, width, features.shape[1]).permute(0, 3, 1, 2)


def inner_products(maps: Tensor, features: Tensor) -> Tensor:
    """maps [k, H W], features [H W, C] -> their products, summed over the pixels, [k, C] in float32."""
    with own_threads(1):  # several would divide the sums, which changes how they round
        return (maps * 2**-10 @ features).float() * 2**10  # float16 holds the smaller sums too
