"""CLIP's image towers, frozen: the same networks in one number format, and in fewer operations.

CLIP's own cast every weight in every pass under autocast, and attend to copies of their features.
These keep the weights in the format they compute in. Both were published with CLIP, see `mead.nn.perceptor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mead.nn.attention import attend
from mead.nn.frozen import FrozenConv2d, before_relu

QUICK_GELU = 1.702


def freeze(tower: Any, dtype: torch.dtype) -> nn.Module:
    """A frozen image tower that computes in `dtype`; the given one cannot be used any more.

    Args:
        tower: of `mead.nn.clip` or open_clip; a vision transformer with GELUs of either kind, or a ResNet.
    """
    frozen = FrozenResNet(tower, dtype) if hasattr(tower, "attnpool") else FrozenTransformer(tower)
    return frozen.requires_grad_(False).eval().to(dtype)


class FrozenTransformer(nn.Module):
    """A vision transformer.

    Args:
        tower: whose weights it takes over.
    """

    ignores_threads = False  # on some processors, threads divide the sums of its large products

    def __init__(self, tower: Any) -> None:
        super().__init__()
        size = tower.image_size  # open_clip's has a height and a width
        self.image_size: int = size if isinstance(size, int) else size[0]
        width, _, self.patch_size, _ = tower.conv1.weight.shape
        self.patches_in = nn.Parameter(tower.conv1.weight.reshape(width, -1))
        self.class_token = tower.class_embedding
        self.positions = tower.positional_embedding
        self.norm_in = layer_norm(tower.ln_pre)
        self.blocks = nn.ModuleList(FrozenBlock(block) for block in tower.transformer.resblocks)
        self.norm_out = layer_norm(tower.ln_post)
        self.projection = nn.Parameter(tower.proj.T.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, S, S] -> embeddings [N, d]."""
        with torch.autocast(images.device.type, enabled=False):
            x = self.norm_in(self._tokens(images))
            *blocks, last = self.blocks
            for block in blocks:
                x = block(x)
            x = last(x, only_first=True)
            return F.linear(self.norm_out(x[:, 0]), self.projection)

    def _tokens(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, 1 + patches, width]."""
        n, channels, height, width = images.shape
        p = self.patch_size
        patches = images.to(self.patches_in.dtype).view(n, channels, height // p, p, width // p, p)
        x = F.linear(patches.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * p * p), self.patches_in)
        return torch.cat([self.class_token.expand(n, 1, -1), x], 1) + self.positions


class FrozenBlock(nn.Module):
    """Attention between tokens, to none after it if `causal`, and two layers on each."""

    def __init__(self, block: Any, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        attention, mlp = block.attn, block.mlp
        self.heads = attention.num_heads
        self.norm_1, self.norm_2 = layer_norm(block.ln_1), layer_norm(block.ln_2)
        self.queries_keys_values = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.attended = attention.out_proj
        # a quick GELU, x · sigmoid(a x), is silu(a x) / a: scaled weights let it be one operation
        quick = not isinstance(mlp.gelu, nn.GELU)
        self.activation: Callable[[Tensor], Tensor] = F.silu if quick else F.gelu
        scale = QUICK_GELU if quick else 1.0
        self.hidden = _linear(mlp.c_fc.weight * scale, mlp.c_fc.bias * scale)
        self.out = _linear(mlp.c_proj.weight / scale, mlp.c_proj.bias)

    def forward(self, x: Tensor, only_first: bool = False) -> Tensor:
        """x [N, tokens, width] -> [N, tokens, width], or of the first token, [N, 1, width]."""
        h = self.norm_1(x)
        if only_first:
            x = x[:, :1]
            attended = self._attend(*self._of_first(h))
        else:
            attended = self._attend(*self._heads(self.queries_keys_values(h)))
        x = x + attended
        return x + self.out(self.activation(self.hidden(self.norm_2(x))))

    def _of_first(self, x: Tensor) -> tuple[Tensor, ...]:
        """The queries of the first token, and the keys and values of all."""
        width, layer = x.shape[2], self.queries_keys_values
        queries = F.linear(x[:, :1], layer.weight[:width], layer.bias[:width])
        keys_values = F.linear(x, layer.weight[width:], layer.bias[width:])
        return (*self._heads(queries), *self._heads(keys_values))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, tokens, k · width] -> k of [N, heads, tokens, width / heads]."""
        heads = x.unflatten(2, (-1, self.heads, self.attended.in_features // self.heads))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[N, heads, tokens, width / heads] each -> [N, tokens, width], as many as there are queries."""
        h = attend(queries, keys, values, causal=self.causal)
        return self.attended(h.transpose(1, 2).flatten(2))


class FrozenResNet(nn.Module):
    """A ResNet with three first convolutions, average pooling before strides, and attention at the end.

    Each batch normalisation is part of its convolution.

    Args:
        tower: whose weights it takes over.
        dtype: the number format it computes in.
    """

    ignores_threads = True

    def __init__(self, tower: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.image_size = tower.image_size
        self.conv1, self.conv2, self.conv3 = (_conv(tower, number, dtype) for number in (1, 2, 3))
        stages = (tower.layer1, tower.layer2, tower.layer3, tower.layer4)
        self.blocks = nn.ModuleList(FrozenBottleneck(block, dtype) for stage in stages for block in stage)
        self.pool = FrozenAttentionPool(tower.attnpool, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, S, S] -> embeddings [N, d]."""
        with torch.autocast(images.device.type, enabled=False):
            x = F.avg_pool2d(self.conv3(self.conv2(self.conv1(images))), 2)
            for block in self.blocks:
                x = block(x)
            # oneDNN's ReLUs make zeros of NaNs, which must not go unnoticed
            return self.pool(x) + 0 * images.detach().mean((1, 2, 3))[:, None].to(x.dtype)


class FrozenBottleneck(nn.Module):
    """Three convolutions with a residual connection; the first block of a stage may halve the sides."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride = block.stride
        self.conv1, self.conv2, self.conv3 = (_conv(block, number, dtype) for number in (1, 2, 3))
        self.shortcut: FrozenConv2d | None = None
        if block.downsample is not None:
            _, conv, norm = block.downsample
            self.shortcut = FrozenConv2d.with_norm(conv, norm, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        x = x.to(self.conv1.weight.dtype, memory_format=torch.channels_last)
        y: Tensor = _FrozenBottleneck.apply(x, self)
        return y


class _FrozenBottleneck(torch.autograd.Function):
    """The gradients of both ways are added where those of the first convolution are computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: FrozenBottleneck) -> Tensor:
        h1 = block.conv1.convolve(x)
        h2 = block.conv2.convolve(h1)
        h, shortcut = (h2, x) if block.stride == 1 else (F.avg_pool2d(each, block.stride) for each in (h2, x))
        if block.shortcut is not None:
            shortcut = block.shortcut.convolve(shortcut)
        y = block.conv3.convolve(h, shortcut)
        ctx.save_for_backward(x, h1, h2, y)
        ctx.block = block
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        block, (x, h1, h2, y) = ctx.block, ctx.saved_tensors
        n, channels, height, width = x.shape
        pooled = (height // block.stride, width // block.stride)
        grad = before_relu(grad, y)
        grad_h = block.conv3.gradient(grad, torch.Size((n, h2.shape[1], *pooled)))
        if block.shortcut is not None:
            grad = block.shortcut.gradient(grad, torch.Size((n, channels, *pooled)))
        if block.stride > 1:
            grad_h, grad = _spread(grad_h, h2, block.stride), _spread(grad, x, block.stride)
        grad_h = block.conv2.gradient(before_relu(grad_h, h2), h1.shape)
        return block.conv1.gradient(before_relu(grad_h, h1), x.shape, grad), None


def _spread(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """The gradient of x, for that of its average pooling."""
    grad_x: Tensor = torch.ops.aten.avg_pool2d_backward(
        grad, x, [stride, stride], [stride, stride], [0, 0], False, True, None
    )
    return grad_x


class FrozenAttentionPool(nn.Module):
    """The mean of all positions attends to them all."""

    def __init__(self, pool: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = pool.num_heads
        self.positions = pool.positional_embedding
        self.queries = _pointwise(pool.q_proj, dtype=dtype)
        self.keys_values = _pointwise(pool.k_proj, pool.v_proj, dtype=dtype)
        self.out = _pointwise(pool.c_proj, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, d]."""
        n, width = x.shape[:2]
        x = x.flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positions
        queries = self.queries(x[:, 0, :, None, None]).view(n, 1, self.heads, -1).transpose(1, 2)
        keys_values = self.keys_values(x.mT[..., None]).squeeze(3).mT.unflatten(2, (2, self.heads, -1))
        h = attend(queries, *keys_values.permute(2, 0, 3, 1, 4).unbind(0))
        return self.out(h.reshape(n, width, 1, 1)).flatten(1)


def _conv(module: Any, number: int, dtype: torch.dtype) -> FrozenConv2d:
    """A convolution of `module` with the normalisation and the ReLU that follow it."""
    conv, norm = getattr(module, f"conv{number}"), getattr(module, f"bn{number}")
    return FrozenConv2d.with_norm(conv, norm, dtype, relu=True)


def _pointwise(*layers: Any, dtype: torch.dtype) -> FrozenConv2d:
    """Linear layers of the same input, joined, as a convolution.

    Its weights are rearranged once, and threads do not divide its sums, which would change how they round.
    """
    joined = nn.Conv2d(1, 1, 1, device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers])[:, :, None, None])
    joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    return FrozenConv2d(joined, dtype)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def layer_norm(norm: Any) -> nn.LayerNorm:
    """PyTorch's own for one of CLIP's, which casts what comes in."""
    layer = nn.LayerNorm(norm.normalized_shape, norm.eps, device="meta")
    layer.weight, layer.bias = norm.weight, norm.bias
    return layer
