"""VQGAN: a convolutional autoencoder with a learned codebook.

Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021 (arXiv
2012.09841), in the state-dict layout of CompVis/taming-transformers, with either of its quantisers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from LatentRevisions.group_norm import GroupNorm
from LatentRevisions.quantisers import GumbelQuantiser, VectorQuantiser
from mead.nn.attention import attend
from mead.nn.frozen import Frozen, FrozenConv2d, FrozenUpsample, convolve_and_add, freeze
from mead.nn.state_dict import StateDict, build, count, shape


class ResidualBlock(nn.Module):
    """Twice normalise, swish, convolve, with a residual connection."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, swish=True)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = GroupNorm(channels, swish=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if in_channels != channels:
            self.nin_shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv1, Frozen):
            x = x.to(self.conv1.weight.dtype, memory_format=torch.channels_last)
            y: Tensor = _FrozenResidualBlock.apply(x, self)
            return y
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(h))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _FrozenResidualBlock(torch.autograd.Function):
    """The gradients of both ways are added where those of the first normalisation are computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Any) -> Tensor:
        h, saved1 = block.norm1.compute(x)
        h, saved2 = block.norm2.compute(block.conv1.convolve(h))
        shortcut = block.nin_shortcut.convolve(x) if hasattr(block, "nin_shortcut") else x
        ctx.save_for_backward(*saved1, *saved2)
        ctx.block = block
        return block.conv2.convolve(h, shortcut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        block, saved1, saved2 = ctx.block, ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        x, h = saved1[0], saved2[0]
        grad_h = block.norm2.gradient(block.conv2.gradient(grad, h.shape), None, saved2)
        grad_h = block.conv1.gradient(grad_h, x.shape)
        if hasattr(block, "nin_shortcut"):
            grad = block.nin_shortcut.gradient(grad, x.shape)
        return block.norm1.gradient(grad_h, grad, saved1), None


class Attention(nn.Module):
    """Single-head self-attention between all positions of a feature map, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def freeze(self, dtype: torch.dtype) -> None:
        """Compute queries, keys and values by one frozen convolution from now on, in `dtype`."""
        convs = (self.q, self.k, self.v)
        joined = nn.Conv2d(1, 1, 1, device="meta")
        joined.weight, joined.bias = (
            nn.Parameter(torch.cat([getattr(conv, name) for conv in convs])) for name in ("weight", "bias")
        )
        self.qkv = FrozenConv2d(joined, dtype)
        del self.q, self.k, self.v

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        if hasattr(self, "qkv"):
            joined = self.qkv(h)
        else:
            joined = torch.cat([self.q(h), self.k(h), self.v(h)], 1)
        q, k, v = (each.contiguous() for each in joined.flatten(2).mT.unsqueeze(1).chunk(3, -1))
        h = attend(q, k, v)  # [N, 1, HW, C]
        return convolve_and_add(self.proj_out, h.squeeze(1).mT.unflatten(2, x.shape[2:]), x)


class Downsample(nn.Module):
    """Halve the sides. The padding is at the right and the bottom only, as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the sides, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.frozen: FrozenUpsample | None = None

    def freeze(self, dtype: torch.dtype) -> None:
        """Do both at once from now on, by frozen weights that compute in `dtype`."""
        self.frozen = FrozenUpsample(self.conv, dtype)
        del self.conv

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen is not None:
            return self.frozen(x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks at one resolution, each with attention where the level has it; then resampling."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: int,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * blocks
        self.block = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        self.attn = nn.ModuleList(Attention(channels) for _ in range(blocks) if attention)
        if downsample:
            self.downsample = Downsample(channels)
        if upsample:
            self.upsample = Upsample(channels)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[i](x)
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        if hasattr(self, "upsample"):
            x = self.upsample(x)
        return x


class Middle(nn.Module):
    """The blocks at the coarsest resolution, in the encoder and in the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Image [N, in_channels, H, W] -> features [N, z_channels, H / factor, W / factor]."""

    def __init__(
        self,
        in_channels: int,
        ch: int,
        widths: Sequence[int],
        blocks: int,
        attn_levels: Collection[int],
        z_channels: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[i - 1] if i > 0 else ch
            self.down.append(Level(before, width, blocks, i in attn_levels, downsample=i < len(widths) - 1))
        self.mid = Middle(widths[-1])
        self.norm_out = GroupNorm(widths[-1], swish=True)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    """Features [N, z_channels, h, w] -> image [N, out_channels, h * factor, w * factor]."""

    def __init__(
        self,
        out_channels: int,
        widths: Sequence[int],
        blocks: int,
        attn_levels: Collection[int],
        z_channels: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()  # by resolution, the finest first: decoding goes through it backwards
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            self.up.append(Level(before, width, blocks + 1, i in attn_levels, upsample=i > 0))
        self.norm_out = GroupNorm(widths[0], swish=True)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(self.norm_out(x))


class VQGAN(nn.Module):
    """The autoencoder.

    Args:
        ch: channels of the encoder's first convolution.
        ch_mult: each level's channels as a multiple of ch, the finest level first; each next one halves the
            sides.
        num_res_blocks: residual blocks a level has in the encoder (the decoder has one more).
        attn_levels: which levels attend, as indices into ch_mult.
        z_channels: channels between encoder and quant_conv, and between post_quant_conv and decoder.
        embed_dim: channels of z and of each code.
        n_embed: number of codes.
        in_channels, out_channels: channels of the encoder's and the decoder's pictures.
        gumbel: quantise by the Gumbel quantiser's logits instead of by distance.
        norm_groups: groups of each normalisation (the greatest common divisor with its channels). In the
            published 32 groups, 32 channels would each be normalised alone and lose all absolute colour:
            networks as narrow as that need fewer.
    """

    def __init__(
        self,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_levels: Collection[int],
        z_channels: int,
        embed_dim: int,
        n_embed: int,
        in_channels: int = 3,
        out_channels: int = 3,
        gumbel: bool = False,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [ch * multiple for multiple in ch_mult]
        self.encoder = Encoder(in_channels, ch, widths, num_res_blocks, attn_levels, z_channels)
        self.decoder = Decoder(out_channels, widths, num_res_blocks, attn_levels, z_channels)
        self.quantize: VectorQuantiser | GumbelQuantiser = (
            GumbelQuantiser(n_embed, embed_dim) if gumbel else VectorQuantiser(n_embed, embed_dim)
        )
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        for module in self.modules():
            if isinstance(module, GroupNorm):
                module.num_groups = math.gcd(norm_groups, module.num_channels)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> VQGAN:
        """Build the network that `state_dict` holds; keys of its training (`loss.*`) are left out.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        norm_groups = int(state_dict.get("norm_groups", torch.tensor(32)))
        prefixes = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
        state_dict = {key: tensor for key, tensor in state_dict.items() if key.startswith(prefixes)}
        ch, in_channels = shape(state_dict, "encoder.conv_in.weight")[:2]
        levels = range(max(1, count(state_dict, "encoder.down.")))
        widths = [shape(state_dict, f"encoder.down.{i}.block.0.conv1.weight")[0] for i in levels]
        gumbel = "quantize.proj.weight" in state_dict
        n_embed, embed_dim = shape(
            state_dict, "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
        )

        def make() -> VQGAN:
            return cls(
                ch=ch,
                ch_mult=[width // ch for width in widths],
                num_res_blocks=count(state_dict, "encoder.down.0.block."),
                attn_levels=[i for i in levels if count(state_dict, f"encoder.down.{i}.attn.") > 0],
                z_channels=shape(state_dict, "decoder.conv_in.weight")[1],
                embed_dim=embed_dim,
                n_embed=n_embed,
                in_channels=in_channels,
                out_channels=shape(state_dict, "decoder.conv_out.weight")[0],
                gumbel=gumbel,
                norm_groups=norm_groups,
            )

        return build(make, state_dict)

    def freeze(self, dtype: torch.dtype) -> VQGAN:
        """Freeze the network in place; it computes in `dtype` from now on, and its keys are others."""
        for module in self.modules():
            if isinstance(module, Attention | Upsample):
                module.freeze(dtype)
        return freeze(self, dtype)

    @property
    def embed_dim(self) -> int:
        """Channels of z."""
        return self.quant_conv.weight.shape[0]

    @property
    def codes(self) -> Tensor:
        """The codebook, [n_embed, embed_dim]."""
        codes = self.quantize.embed if isinstance(self.quantize, GumbelQuantiser) else self.quantize.embedding
        return codes.weight

    @property
    def n_embed(self) -> int:
        """Number of codes."""
        return len(self.codes)

    @property
    def factor(self) -> int:
        """Downsampling factor: pixels per position of z, along a side."""
        return 2 ** (len(self.encoder.down) - 1)

    def encode(self, image: Tensor) -> Tensor:
        """Image [N, in_channels, H, W] in [-1, 1] -> z [N, embed_dim, h, w], not quantised.

        H and W must be multiples of `factor`.
        """
        return self.quant_conv(self.encoder(image.contiguous(memory_format=torch.channels_last)))

    def decode(self, z: Tensor) -> Tensor:
        """z [N, embed_dim, h, w] -> image [N, out_channels, h * factor, w * factor], about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z.contiguous(memory_format=torch.channels_last)))

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [N, embed_dim, h, w] -> (codes [N, embed_dim, h, w], their indices [N, h, w]).

        Gradients reach the codes, not z; training uses the straight-through z + (z_q - z).detach().
        """
        return self.quantize(z)
