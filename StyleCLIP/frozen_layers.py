"""The layers of StyleGAN2's synthesis network, frozen, each with a backward pass written by hand.

They compute in strips, see `StyleCLIP.feature_maps`, and give gradients to features and styles alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from StyleCLIP.feature_maps import BORDER, Size, flat, inner_products, rows, strips

SLOPE = 0.2  # of the leaky ReLUs
SQRT2 = math.sqrt(2)
TAPS = (1, 3, 3, 1)  # the resampling filter, along one axis, not normalised

Gradient = Callable[[range, int], Tensor]  # that of some rows of a feature map, and a halo


def taps() -> Tensor:
    """The filter [4] for doubling the sides, along one axis."""
    values = torch.tensor(TAPS, dtype=torch.float32)
    return 2 * values / values.sum()


def linear(layer: Any) -> nn.Linear:
    """An `EqualLinear`, its learning rate no longer equalised."""
    scale = layer.lr_mul / math.sqrt(layer.weight.shape[1])
    scaled = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], device="meta")
    scaled.weight = nn.Parameter(layer.weight.float() * scale)
    scaled.bias = nn.Parameter(layer.bias.float() * layer.lr_mul)
    return scaled


@dataclass
class Made:
    """What a convolution made, and what its backward pass needs."""

    features: Tensor  # [1, out, H, W] and a border
    weight: Tensor  # modulated and demodulated
    demodulation: Tensor  # [out], float32


class FrozenStyledConv(nn.Module):
    """A modulated convolution with noise, bias and leaky ReLU; may double the sides.

    Args:
        layer: a `StyleCLIP.stylegan2.StyledConv`.
        noise: the stored noise [1, 1, H, W] of its output.
        dtype: the number format it computes in.
    """

    weight: Tensor
    squares: Tensor
    bias: Tensor
    added: Tensor
    blur: Tensor

    def __init__(self, layer: Any, noise: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.affine = linear(layer.conv.modulation)
        self.upsample: bool = layer.upsample
        weight = layer.conv.scaled_weight().float()  # [out, in, 3, 3]
        self.size: Size = (len(weight), *noise.shape[2:])  # of the output
        self.size_in = weight.shape[1]  # channels of the input
        self.register_buffer("squares", weight.square().sum((2, 3)))
        if self.upsample:
            weight = weight.transpose(0, 1)  # as conv_transpose2d takes it
            blur = taps().to(weight.device, dtype).expand(self.size[0], 1, 1, -1)
            self.register_buffer("blur", blur.contiguous(), persistent=False)
        self.register_buffer("weight", weight.to(dtype, memory_format=torch.channels_last))
        # leaky_relu(x) * sqrt(2) is leaky_relu(x * sqrt(2)): the factor joins weights, bias and noise
        self.register_buffer("bias", (SQRT2 * layer.activate["bias"]).to(dtype))
        grain = SQRT2 * layer.noise["weight"].float() * noise[0, 0].float()
        self.register_buffer("added", torch.stack([torch.ones_like(grain), grain]).to(dtype))

    def strips(self) -> Iterator[tuple[range, range]]:
        """Rows of the output, and the rows of the input that lie under them."""
        channels, height, width = self.size
        if not self.upsample:
            yield from ((strip, strip) for strip in strips(self.size, self.weight))
            return
        for half in strips((4 * channels, height // 2, width // 2), self.weight):
            yield range(2 * half.start, 2 * half.stop), half

    def forward(self, x: Tensor, style: Tensor, features: Tensor) -> Made:
        """Fill `features` from x, both with a border, and style [in]."""
        # a product with a vector is divided among threads, which round it differently
        demodulation = torch.rsqrt((self.squares * style.square()).sum(1) + 1e-8)
        factors = SQRT2 * demodulation[:, None] * style  # [out, in]
        weight = self.weight * (factors.T if self.upsample else factors)[:, :, None, None].to(x.dtype)
        for strip, below in self.strips():
            if self.upsample:
                h = F.conv_transpose2d(rows(x, below, 1), weight, stride=2, padding=(1, 0))
                h = F.conv2d(h, self.blur.mT, groups=len(self.blur))
                h = F.conv2d(h, self.blur, self.bias, padding=(0, 1), groups=len(self.blur))
            else:
                h = F.conv2d(rows(x, below, 1), weight, self.bias, padding=(0, 1))
            noise = self.added[1, strip.start : strip.stop]
            F.leaky_relu_(torch.add(h, noise, out=rows(features, strip)), SLOPE)
        return Made(features, weight, demodulation)

    def backward(
        self,
        x: Tensor,
        style: Tensor,
        made: Made,
        gradient: Gradient,
        consumed: Tensor,
        grad_x: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the style [in], and x · its gradient, summed over the pixels [in].

        Args:
            gradient: of what the layer made.
            consumed: what it made · its gradient, summed over the pixels [out].
            grad_x: filled with the gradient of x; None if nobody asks for it.
        """
        added = torch.zeros(2, len(self.bias), device=x.device)  # g and g · noise, summed over the pixels
        x_grad_x = torch.zeros(len(style), device=x.device)
        halo = 2 if self.upsample else 1
        for strip, below in self.strips():
            g = torch.ops.aten.leaky_relu_backward(
                gradient(strip, halo), rows(made.features, strip, halo), SLOPE, True
            )
            added += inner_products(
                self.added[:, strip.start : strip.stop].flatten(1), flat(g[:, :, halo:-halo])
            )
            if self.upsample:
                h = F.conv2d(g, self.blur, padding=(0, 2), groups=len(self.blur))
                h = F.conv2d(h, self.blur.mT, groups=len(self.blur))
                g = F.conv2d(h, made.weight, stride=2)
            else:
                g = F.conv_transpose2d(g, made.weight, padding=(2, 1))
            x_grad_x += (flat(g) * flat(rows(x, below))).sum(0, dtype=torch.float32)
            if grad_x is not None:
                rows(grad_x, below).copy_(g)
        # Features f = leaky_relu(d c + bias + noise) have f · grad f = g (d c + bias + noise).
        grad_log_demodulation = consumed - self.bias * added[0] - added[1]
        through = grad_log_demodulation * made.demodulation.square()
        through_demodulation = (through[:, None] * self.squares).sum(0)
        return x_grad_x / style - style * through_demodulation, x_grad_x


class FrozenToRGB(nn.Module):
    """Modulated 1x1 convolution to colours.

    Args:
        layer: a `StyleCLIP.stylegan2.ToRGB`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.affine = linear(layer.conv.modulation)
        self.register_buffer("weight", layer.conv.scaled_weight()[:, :, 0, 0].float())
        self.size_in = self.weight.shape[1]  # channels of the features
        self.register_buffer("bias", layer.bias.float()[0])

    def modulated(self, style: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights [3, in] for style [in]."""
        return (self.weight * style).to(dtype)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """features [1, in, H, W] with a border, style [in] -> colours [3, H, W] in float32."""
        size = features.shape[1], features.shape[2] - 2 * BORDER, features.shape[3]
        weight = self.modulated(style, features.dtype)
        colours = [
            (weight @ flat(rows(features, strip)).T).view(3, -1, size[2]) for strip in strips(size, features)
        ]
        return torch.cat(colours, 1).float().add_(self.bias)

    def backward(self, features: Tensor, style: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the style [in], and features · their gradient, summed over the pixels [in].

        Args:
            grad: of the colours [3, H, W], with a border and in the dtype of the features.
        """
        size = features.shape[1], features.shape[2] - 2 * BORDER, features.shape[3]
        grad_weight = torch.zeros_like(self.weight)
        for strip in strips(size, features):
            part = rows(grad[None], strip)[0]
            grad_weight += inner_products(part.flatten(1), flat(rows(features, strip)))
        grad_style = (grad_weight * self.weight).sum(0)
        return grad_style, style * grad_style


def doubled(image: Tensor, dim: int) -> Tensor:
    """An image, twice as long along an axis, by the filter `TAPS`."""
    n = image.shape[dim]
    near, far = image * 0.75, image * 0.25
    even, odd = near.clone(), near
    even.narrow(dim, 1, n - 1).add_(far.narrow(dim, 0, n - 1))
    odd.narrow(dim, 0, n - 1).add_(far.narrow(dim, 1, n - 1))
    return torch.stack([even, odd], dim + 1).flatten(dim, dim + 1)


def grad_doubled(grad: Tensor, dim: int) -> Tensor:
    """The gradient of what was doubled along an axis."""
    n = grad.shape[dim] // 2
    even, odd = grad.unflatten(dim, (n, 2)).unbind(dim + 1)
    result = (even + odd).mul_(0.75)
    result.narrow(dim, 0, n - 1).add_(even.narrow(dim, 1, n - 1), alpha=0.25)
    result.narrow(dim, 1, n - 1).add_(odd.narrow(dim, 0, n - 1), alpha=0.25)
    return result
