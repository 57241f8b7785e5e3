"""What an inversion wears and its photo does not: taken off on trial, it stays off if the photo says so.

An encoder sees earrings in a lock of hair, and a crown where hair shines. Whether they are there is told by
analysis by synthesis: of the face with the thing and the face without it, the one nearer to the photo is
right. Only where the two differ counts, and the photo's light and tint there do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mead.weighted_texts import weighted_texts
from StyleCLIP.sliders import RANGE, Sliders

BRIGHTNESS = 0.05  # what its squared differences count beside those of colour: light and shadow fall anywhere
SPOT = 5  # pixels, the side of the smallest change that is seen


class Worn:
    """Takes off what a photo does not show.

    Args:
        things: names of sliders, each with the levels of 255 by which taking it off must change some spot, as
            in "earrings:14 | crown:40": what changes less is not worn.
        sliders: the weights set's, whose least values take things off; None if it has none.
        synthesise: codes w+ [N, n_latent, style_dim] -> faces [N, 3, S, S] in [-1, 1].
    """

    def __init__(self, things: str, sliders: Sliders | None, synthesise: Callable[[Tensor], Tensor]) -> None:
        self.synthesise = synthesise
        self.off: Mapping[str, Tensor] = {}
        self.least: Mapping[str, float] = {}
        if sliders is not None and things:
            self.least = {name: least for name, least in weighted_texts(things) if name in sliders.codes}
            self.off = {
                name: sliders.offset({name: float(sliders.get_buffer(f"{name}{RANGE}")[0])})
                for name in self.least
            }

    @torch.no_grad()
    def taken_off(self, codes: Tensor, photo: Tensor) -> Tensor:
        """The codes w+ [1, n_latent, style_dim] of a face, without what the photo does not show.

        Args:
            photo: the aligned face, of the size of what `synthesise` makes, [1, 3, S, S] in [-1, 1].
        """
        if not self.off:
            return codes
        faces = self.synthesise(torch.cat([codes, *(codes + off for off in self.off.values())]))
        for without, (name, off) in zip(faces[1:].split(1), self.off.items(), strict=True):
            if spot(faces[:1], without) > self.least[name] and nearer(without, faces[:1], photo):
                codes = codes + off
        return codes


def spot(a: Tensor, b: Tensor) -> float:
    """How much faces [1, 3, S, S] in [-1, 1] differ where they differ most, in levels of 255."""
    return 127.5 * float(F.avg_pool2d((a - b).abs().mean(1, keepdim=True), SPOT, 1).amax())


def nearer(one: Tensor, other: Tensor, photo: Tensor) -> bool:
    """Whether a photo is nearer to one face than to the other, all [1, 3, S, S] in [-1, 1].

    Pixels count as the faces differ there; in the mean of these, all are made equal.
    """
    way = one - other
    where = way.square().mean(1, keepdim=True)
    where = where / where.sum().clamp_min(1e-12)
    way, off = (x - (where * x).sum((2, 3), keepdim=True) for x in (way, photo - (one + other) / 2))
    bright = 3 * (way.mean(1) * off.mean(1)).sum()
    colour = (way * off).sum() - bright
    return float(colour + BRIGHTNESS * bright) > 0
