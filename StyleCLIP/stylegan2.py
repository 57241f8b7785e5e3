"""The StyleGAN2 generator, as it is trained; `StyleCLIP.frozen_generator` is faster.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv 1912.04958), in the
state-dict layout of rosinality/stylegan2-pytorch.

The paper scales a convolution's weights by each sample's style, which makes a grouped convolution of every
batch. Here the input is scaled instead and the output demodulated: the same sum, with weights that all
samples share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.modulation import multiply_add
from mead.nn.state_dict import StateDict, build, count, shape
from StyleCLIP.frozen_generator import FrozenGenerator, with_codes

BLUR = (1, 3, 3, 1)  # the resampling filter, along one axis, not normalised
SQRT2 = math.sqrt(2)


def _blur_kernel(gain: float) -> Tensor:
    """The two-dimensional resampling filter [1, 1, 4, 4], which sums to `gain`."""
    # On the CPU by name: a network is built on the meta device, where a constant would have no value.
    taps = torch.tensor(BLUR, dtype=torch.float32, device="cpu")
    return (torch.outer(taps, taps) * (gain / taps.sum() ** 2))[None, None]


class PixelNorm(nn.Module):
    """Scale each vector to a mean square of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _batch_invariant_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, in] times weight [out, in] -> [N, out], where no row's rounding depends on the batch size.

    A matrix product's would. These rows are styles of the whole picture, and a job's picture must not depend
    on its batch.
    """
    return (x[:, None] * weight).sum(-1)


class EqualLinear(nn.Module):
    """A linear layer with its learning rate equalised: weights of unit variance, scaled at run time."""

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias)))
        self.lr_mul = lr_mul

    def forward(self, x: Tensor) -> Tensor:
        scale = self.lr_mul / math.sqrt(self.weight.shape[1])
        return _batch_invariant_linear(x, self.weight * scale) + self.bias * self.lr_mul


class MappingLayer(EqualLinear):
    """One layer of the mapping network."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.2) * SQRT2


class ModulatedConv2d(nn.Module):
    """The weights of a convolution and the layer that reads each sample's style off its w."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channels, bias=1.0)

    def scaled_weight(self) -> Tensor:
        """The weights [out, in, k, k], with the learning rate equalised."""
        weight = self.weight[0]
        return weight / math.sqrt(weight[0].numel())


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, demodulated, with noise, bias and leaky ReLU; may double the sides."""

    blur: Tensor

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim)
        self.noise = nn.ParameterDict({"weight": torch.zeros(1)})
        self.activate = nn.ParameterDict({"bias": torch.zeros(out_channels)})
        self.upsample = upsample
        if upsample:
            self.register_buffer("blur", _blur_kernel(gain=4), persistent=False)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """x [N, in, H, W], style [N, in], noise [1 or N, 1, H', W'] -> [N, out, H', W']."""
        weight = self.conv.scaled_weight()
        with torch.autocast(x.device.type, enabled=False):  # the squares need float32
            demodulation = torch.rsqrt(
                _batch_invariant_linear(style.square(), weight.square().sum((2, 3))) + 1e-8
            )
            # leaky_relu(x) * sqrt(2) is leaky_relu(x * sqrt(2)): the factor joins the small tensors.
            demodulation = SQRT2 * demodulation
            bias = SQRT2 * self.activate["bias"][None]
            grain = SQRT2 * noise * self.noise["weight"]
        x = multiply_add(x, style)
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = F.conv2d(x, self.blur.to(x.dtype).expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, weight, padding=1)
        return F.leaky_relu(multiply_add(x, demodulation, bias) + grain.to(x.dtype), 0.2)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, added to the doubled picture of the level before."""

    blur: Tensor

    def __init__(self, in_channels: int, style_dim: int, upsample: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim)
        if upsample:
            self.register_buffer("blur", _blur_kernel(gain=4), persistent=False)

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        """x [N, in, H, W], style [N, in], skip [N, 3, H/2, W/2] -> [N, 3, H, W] in float32."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.conv.scaled_weight()[:, :, 0, 0] * style[:, None]  # [N, 3, in]
        colours = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.mT.to(x.dtype)  # [N, HW, 3]
        with torch.autocast(x.device.type, enabled=False):
            rgb = colours.float().mT.unflatten(2, x.shape[2:]) + self.bias
            if skip is not None:
                blur = self.blur.expand(3, 1, 4, 4)
                rgb = rgb + F.conv_transpose2d(skip, blur, stride=2, padding=1, groups=3)
        return rgb


class ConstantInput(nn.Module):
    """The learned 4x4 features every picture grows from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """z -> w -> picture.

    Args:
        size: side of the picture, a power of two from 8 up.
        style_dim: length of z and of each w.
        n_mlp: layers of the mapping network.
        widths: channels at each side, {4: ..., 8: ..., ..., size: ...}.
    """

    def __init__(self, size: int, style_dim: int, n_mlp: int, widths: Mapping[int, int]) -> None:
        super().__init__()
        sides = [2**i for i in range(2, size.bit_length())]
        if size < 8 or size != sides[-1]:
            raise ValueError(f"size must be a power of two from 8 up, not {size}")
        if sorted(widths) != sides:
            raise ValueError(
                f"widths must name the channels at each of the sides {sides}, not {sorted(widths)}"
            )
        self.size = size
        self.style_dim = style_dim
        layers = [MappingLayer(style_dim, style_dim, lr_mul=0.01) for _ in range(n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *layers)
        self.input = ConstantInput(widths[4])
        self.conv1 = StyledConv(widths[4], widths[4], style_dim)
        self.to_rgb1 = ToRGB(widths[4], style_dim, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for i, side in enumerate(sides[1:]):
            self.convs.append(StyledConv(widths[side // 2], widths[side], style_dim, upsample=True))
            self.convs.append(StyledConv(widths[side], widths[side], style_dim))
            self.to_rgbs.append(ToRGB(widths[side], style_dim))
            for j in (1, 2):
                self.noises.register_buffer(f"noise_{2 * i + j}", torch.randn(1, 1, side, side))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Generator:
        """Build the network that `state_dict` holds; the constant blur kernels in it are left out.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        state_dict = {key: tensor for key, tensor in state_dict.items() if not key.endswith(".kernel")}
        levels = range(max(1, count(state_dict, "to_rgbs.")))
        widths = {4: shape(state_dict, "input.input")[1]}
        widths |= {8 * 2**i: shape(state_dict, f"convs.{2 * i}.conv.weight")[1] for i in levels}
        style_dim = shape(state_dict, "conv1.conv.modulation.weight")[1]
        n_mlp = max(1, count(state_dict, "style."))
        return build(lambda: cls(max(widths), style_dim, n_mlp, widths), state_dict)

    @property
    def n_latent(self) -> int:
        """Number of codes w of a picture."""
        return len(self.convs) + 2

    def freeze(self, dtype: torch.dtype) -> FrozenGenerator:
        """A network for synthesis alone that computes in `dtype` and is faster; only styles get gradients."""
        return FrozenGenerator(self, dtype)

    def map(self, z: Tensor) -> Tensor:
        """z [N, style_dim], unit normal -> w [N, style_dim]."""
        with torch.autocast(z.device.type, enabled=False):
            return self.style(z.float())

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, style_dim] -> w+ [N, n_latent, style_dim], the same w for every layer."""
        return w[:, None].expand(-1, self.n_latent, -1)

    def draw_noise(self, count: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Fresh noise for `count` pictures, to give to `synthesise`; `generator` must be on the CPU."""
        device = self.input.input.device
        return [
            torch.randn(count, 1, *noise.shape[2:], generator=generator, device="cpu").to(device)
            for noise in self.noises.buffers()
        ]

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """w+ [N, n_latent, style_dim] -> the styles [N, in] of all modulated convolutions, in float32.

        They come in the order in which a picture is made, those of colour layers among them, see `COLOURS`.
        """
        w_plus = w_plus.float()
        with torch.autocast(w_plus.device.type, enabled=False):
            return [layer.conv.modulation(w_plus[:, code]) for code, layer in self._with_codes()]

    def synthesise(self, w_plus: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """w+ [N, n_latent, style_dim] -> image [N, 3, size, size] in float32, about [-1, 1].

        `noise` holds a tensor [1 or N, 1, side, side] for each layer, the coarsest first; the stored ones
        when None.
        """
        return self.synthesise_styles(self.styles(w_plus), noise)

    def synthesise_styles(self, styles: Sequence[Tensor], noise: Sequence[Tensor] | None = None) -> Tensor:
        """The same from styles [N, in], as `styles` returns them."""
        noises = iter(self.noises.buffers() if noise is None else noise)
        x = self.input.input.expand(len(styles[0]), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rgb = None
        for (_, layer), style in zip(self._with_codes(), styles, strict=True):
            if isinstance(layer, ToRGB):
                rgb = layer(x, style, rgb)
            else:
                x = layer(x, style, next(noises))
        assert rgb is not None
        return rgb

    def _with_codes(self) -> Iterator[tuple[int, StyledConv | ToRGB]]:
        return with_codes([self.conv1, *self.convs], [self.to_rgb1, *self.to_rgbs])
