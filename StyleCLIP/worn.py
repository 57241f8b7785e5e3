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
LEFT = 0.2  # of the change, that need not be made: who is far from wearing a thing cannot be given it
STEPS = 6  # to a slider's least value, at most


class Worn:
    """Takes off what a photo does not show.

    Args:
        things: names of sliders, each with the levels of 255 by which taking it off must change some spot, as
            in "earrings:10 | crown:40": what changes less is not worn.
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
        face, *others = self.synthesise(
            torch.cat([codes, *(codes + off for off in self.off.values())])
        ).split(1)
        taken = torch.zeros_like(codes)
        for without, (name, off) in zip(others, self.off.items(), strict=True):
            if spot(face, without) > self.least[name] and nearer(without, face, photo):
                taken += self._share(codes, off, face, without) * off
        return codes + taken

    def _share(self, codes: Tensor, off: Tensor, face: Tensor, without: Tensor) -> float:
        """How much of the way takes a thing off: the least share with which all but LEFT is done."""
        left = LEFT * spot(face, without)
        shares = (step / STEPS for step in range(1, STEPS))
        return next((s for s in shares if spot(self.synthesise(codes + s * off), without) <= left), 1.0)


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
