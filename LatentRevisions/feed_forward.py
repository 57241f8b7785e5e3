"""Learned starts as published with feed-forward VQGAN-CLIP: one pass of a mixer over the target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from LatentRevisions.masking import Masked
from LatentRevisions.mixer import Mixer
from LatentRevisions.vqgan import VQGAN
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.resampling import resize


class FeedForward:
    """Draws the learned start of a target, which is always the same.

    Args:
        mixer: draws it, in the one size that it has learned.
        vqgan: whose latents they are.
        encode: pictures [1, 3, H, W] in [0, 1] -> latents [1, embed_dim, h, w].
        decode: the reverse.
        perceptor: CLIP.
        prompt: targets are scaled to the length that CLIP's text tower gives it.
        device: the networks'.
    """

    def __init__(
        self,
        mixer: Mixer,
        vqgan: VQGAN,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        perceptor: Perceptor,
        prompt: str,
        device: torch.device,
    ) -> None:
        self.mixer = mixer
        self.vqgan = vqgan
        self.encode = encode
        self.decode = decode
        self.perceptor = perceptor
        self.prompt = prompt
        self.precision = Precision(device)

    def draw(
        self,
        target: Tensor,
        grid: tuple[int, int],
        generator: torch.Generator,
        scene: Tensor | None = None,
    ) -> Tensor:
        """The learned start, [1, embed_dim, *grid].

        If the mixer has learned another size, its picture is enlarged until it covers what is asked for, and
        the middle of it is encoded.

        Args:
            target: what it should show, [d].
            generator, scene: not used; it leaves nothing open.
        """
        length = self.perceptor.encode_text([self.prompt]).norm()
        with self.precision.autocast():
            latents = self.mixer(length * target[None]).float()
        codes = self.vqgan.codes
        latents = latents.clamp(codes.min(), codes.max())
        if grid == latents.shape[2:]:
            return latents
        picture = self.decode(self.vqgan.quantise(latents)[0])  # as the mixer was trained to
        height, width = (side * self.vqgan.factor for side in grid)
        return self.encode(_cover(picture, height, width)).float()

    def draw_inside(
        self, masked: Masked, kept: Tensor, scene: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The starter's latents, with the learned start where the mask lets them change.

        Args:
            kept: the starter's latents, [1, embed_dim, h, w].
            target: what the learned start should show, [d].
            scene, generator: not used.
        """
        return masked.merge(self.draw(target, (kept.shape[2], kept.shape[3]), generator), kept)


def _cover(picture: Tensor, height: int, width: int) -> Tensor:
    """A square picture [1, 3, S, S] resized and cropped to [1, 3, height, width] around its middle."""
    side = max(height, width)
    picture = resize(picture.float(), (side, side)).clamp(0, 1)
    top, left = (side - height) // 2, (side - width) // 2
    return picture[..., top : top + height, left : left + width]
