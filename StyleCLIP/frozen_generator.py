"""StyleGAN2's synthesis network, frozen: the same pictures in one number format and less time.

- Weights are modulated and demodulated, not features. Each picture has weights of its own, as in the paper,
  but at most sides they are far fewer numbers.
- Squares of weights, as demodulation needs them, and scaled noise are computed once.
- Convolution, blur, noise and activation run strip by strip, see `StyleCLIP.feature_maps`.
- The backward pass is written by hand. It keeps one feature map for each convolution and gives gradients to
  styles alone.

Each picture is computed apart, so that it does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from StyleCLIP.feature_maps import BORDER, FeatureMaps, flat, rows, unflat
from StyleCLIP.frozen_layers import FrozenStyledConv, FrozenToRGB, Made, doubled, grad_doubled

COLOURS = slice(1, None, 3)  # of all styles, those of colour layers
SMALLEST_STYLE = 1e-9  # gradients are divided by styles

T = TypeVar("T")


@dataclass
class Drawn:
    """A picture's styles, [in] each, and features, for the backward pass."""

    styles: Sequence[Tensor]  # of the convolutions
    colour_styles: Sequence[Tensor]
    made: list[Made]


class FrozenGenerator(nn.Module):
    """w+ -> styles -> picture; its verbs are those of `StyleCLIP.stylegan2.Generator`.

    Args:
        generator: whose weights it takes over.
        dtype: the number format to synthesise in.
    """

    input: Tensor

    @torch.no_grad()
    def __init__(self, generator: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.size: int = generator.size
        self.style_dim: int = generator.style_dim
        self.n_latent: int = generator.n_latent
        layers, noises = [generator.conv1, *generator.convs], generator.noises.buffers()
        self.layers = [FrozenStyledConv(*pair, dtype) for pair in zip(layers, noises, strict=True)]
        self.colours = list(map(FrozenToRGB, [generator.to_rgb1, *generator.to_rgbs]))
        self.modules_in_order = nn.ModuleList(layer for _, layer in self._with_codes())
        first = F.pad(generator.input.input, (0, 0, BORDER, BORDER))
        self.register_buffer("input", first.to(dtype, memory_format=torch.channels_last))
        self._maps = FeatureMaps()
        self.requires_grad_(False)

    @property
    def style_sizes(self) -> list[int]:
        """The lengths of all styles, as `styles` returns them."""
        return [layer.size_in for _, layer in self._with_codes()]

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """w+ [N, n_latent, style_dim] -> styles, see `StyleCLIP.stylegan2.Generator.styles`."""
        # Each row by itself: how a matrix product rounds depends on the number of rows.
        rows_of_codes = w_plus.float().unbind()
        with torch.autocast(w_plus.device.type, enabled=False):
            return [
                torch.stack([layer.affine(codes[code]) for codes in rows_of_codes])
                for code, layer in self._with_codes()
            ]

    def synthesise(self, w_plus: Tensor) -> Tensor:
        """w+ [N, n_latent, style_dim] -> image [N, 3, size, size] in float32, about [-1, 1]."""
        return self.synthesise_styles(self.styles(w_plus))

    def synthesise_styles(self, styles: Sequence[Tensor]) -> Tensor:
        """Styles, as `styles` returns them -> image [N, 3, size, size] in float32, about [-1, 1]."""
        with torch.autocast(self.input.device.type, enabled=False):
            if torch.is_grad_enabled() and any(style.requires_grad for style in styles):
                image: Tensor = _Synthesis.apply(self, *styles)
                return image
            return torch.stack([self.draw(one, keep=False)[0] for one in zip(*styles, strict=True)])

    def draw(self, styles: Sequence[Tensor], keep: bool) -> tuple[Tensor, Drawn]:
        """A picture [3, size, size] of styles [in]; `keep` says whether `gradients` will be asked for."""
        styles = [torch.where(style.abs() < SMALLEST_STYLE, SMALLEST_STYLE, style) for style in styles]
        drawn = Drawn([style for i, style in enumerate(styles) if i % 3 != 1], styles[COLOURS], [])
        x, image = self.input, None
        for i, (layer, style) in enumerate(zip(self.layers, drawn.styles, strict=True)):
            made = layer(x, style, self._maps.take(layer.size, x))
            if keep:
                drawn.made.append(made)
            elif i > 0:
                self._maps.give_back(x)
            x = made.features
            if i % 2 == 0:
                colours = self.colours[i // 2](x, drawn.colour_styles[i // 2])
                image = colours if image is None else colours.add_(doubled(doubled(image, 1), 2))
        if not keep:
            self._maps.give_back(x)
        assert image is not None
        return image, drawn

    def gradients(self, drawn: Drawn, grad: Tensor) -> list[Tensor]:
        """The gradients of a picture's styles from the picture's own, [3, size, size]."""
        grads: list[Tensor] = []
        grad_x: Tensor | None = None
        consumed = torch.zeros((), device=grad.device)
        for i in reversed(range(len(self.layers))):
            made, after = drawn.made[i], grad_x
            grad_colours = weight = None
            if i % 2 == 0:
                colours, style = self.colours[i // 2], drawn.colour_styles[i // 2]
                weight = colours.modulated(style, self.input.dtype)
                grad_colours = F.pad(grad, (0, 0, BORDER, BORDER)).to(self.input.dtype)
                grad_style, product = colours.backward(made.features, style, grad_colours)
                grads.append(grad_style)
                consumed = consumed + product
                if i > 0:
                    grad = grad_doubled(grad_doubled(grad, 1), 2)
            below = drawn.made[i - 1].features if i > 0 else self.input
            grad_x = self._maps.take(self.layers[i - 1].size, below) if i > 0 else None
            gradient = partial(_gradient, after, grad_colours, weight)
            grad_style, consumed = self.layers[i].backward(
                below, drawn.styles[i], made, gradient, consumed, grad_x
            )
            grads.append(grad_style)
            self._maps.give_back(made.features)
            if after is not None:
                self._maps.give_back(after)
        return grads[::-1]

    def _with_codes(self) -> Iterator[tuple[int, FrozenStyledConv | FrozenToRGB]]:
        return with_codes(self.layers, self.colours)


def with_codes(layers: Iterable[T], colours: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Layers and colour layers in the order of their styles, each with the number of its code."""
    remaining = iter(colours)
    for i, layer in enumerate(layers):
        yield i, layer
        if i % 2 == 0:
            # A level's last code goes to its colours and to the next level's first convolution.
            yield i + 1, next(remaining)


def _gradient(
    grad: Tensor | None, grad_colours: Tensor | None, weight: Tensor | None, strip: range, halo: int
) -> Tensor:
    """Some rows of the gradient of a feature map: through a convolution, through its colours, or both."""
    through = None if grad is None else rows(grad, strip, halo)
    if grad_colours is None or weight is None:
        assert through is not None
        return through
    colours = rows(grad_colours[None], strip, halo)[0].flatten(1).T  # [P, 3]
    total = colours @ weight if through is None else torch.addmm(flat(through), colours, weight)
    return unflat(total, grad_colours.shape[2])


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, generator: FrozenGenerator, *styles: Tensor) -> Tensor:
        pictures = [generator.draw(one, keep=True) for one in zip(*styles, strict=True)]
        ctx.generator, ctx.drawn = generator, [drawn for _, drawn in pictures]
        return torch.stack([image for image, _ in pictures])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pictures = zip(ctx.drawn, grads[0], strict=True)
        of_styles = [ctx.generator.gradients(*picture) for picture in pictures]
        ctx.drawn = ()  # their memory goes to other pictures
        return None, *map(torch.stack, zip(*of_styles, strict=True))
