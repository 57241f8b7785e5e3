"""CLIP's networks in the state-dict layout of openai/CLIP, to be filled from a state dict.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (arXiv
2103.00020). open_clip has the same networks, but importing it takes longer than PyTorch itself: it brings
torchvision, timm and PyTorch's compiler along.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUICK_GELU = 1.702
EXPANSION = 4  # of a residual block: its output has so many times the channels of its convolutions
SHRINKING = 32  # of a ResNet: how many times smaller its last features are than its pictures


class CLIP(nn.Module):
    """An image tower and a text tower.

    Args:
        visual: a `VisionTransformer` or a `ResNet`.
        embed_dim: length of the embeddings.
        context_length: tokens of a text, the start and end token included.
        vocabulary: how many tokens there are.
        width, layers, heads: of the text tower.
        quick_gelu: whether the text tower has quick GELUs.
    """

    attn_mask: Tensor

    def __init__(
        self,
        visual: nn.Module,
        embed_dim: int,
        context_length: int,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.visual = visual
        self.token_embedding = nn.Embedding(vocabulary, width, _weight=torch.empty(vocabulary, width))
        self.positional_embedding = _parameter(context_length, width)
        self.transformer = Transformer(width, layers, heads, quick_gelu)
        self.ln_final = LayerNorm(width)
        self.text_projection = _parameter(width, embed_dim)
        self.logit_scale = _parameter()
        self.register_buffer("attn_mask", None, persistent=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, S, S] -> embeddings [N, d]."""
        embeddings: Tensor = self.visual(images)
        return embeddings

    def mask_what_follows(self) -> None:
        """Let no token attend to those after it: the one constant that no state dict holds."""
        length = self.context_length
        self.attn_mask = torch.full((length, length), -torch.inf).triu(1)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that leaves the number format as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), nearly a GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(QUICK_GELU * x)


class Transformer(nn.Module):
    """Blocks of attention."""

    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(AttentionBlock(width, heads, quick_gelu) for _ in range(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """x [N, tokens, width], attn_mask [tokens, tokens], added to the similarities."""
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class AttentionBlock(nn.Module):
    """Attention between tokens, and two layers on each, added to what came in."""

    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = {
            "c_fc": nn.Linear(width, 4 * width),
            "gelu": QuickGELU() if quick_gelu else nn.GELU(),
            "c_proj": nn.Linear(4 * width, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        h = self.ln_1(x)
        mask = None if attn_mask is None else attn_mask.to(h.dtype)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """The image tower that attends to patches of a picture."""

    def __init__(
        self,
        image_size: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = _parameter(width)
        self.positional_embedding = _parameter((image_size // patch) ** 2 + 1, width)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, quick_gelu)
        self.ln_post = LayerNorm(width)
        self.proj = _parameter(width, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, S, S] -> embeddings [N, d]."""
        x = self.conv1(images).flatten(2).mT
        first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.positional_embedding.to(x.dtype)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x)[:, 0] @ self.proj


class ResNet(nn.Module):
    """The image tower of convolutions: three first, average pooling before strides, attention last."""

    def __init__(
        self, image_size: int, width: int, layers: Sequence[int], heads: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.image_size = image_size
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(layers):
            inner, stage_blocks = width * 2**stage, nn.Sequential()
            for block in range(blocks):
                stage_blocks.append(Bottleneck(channels, inner, stride=2 if stage and not block else 1))
                channels = inner * EXPANSION
            self.add_module(f"layer{stage + 1}", stage_blocks)
        self.attnpool = AttentionPool(image_size // SHRINKING, channels, heads, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, S, S] -> embeddings [N, d]."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
        embeddings: Tensor = self.attnpool(x)
        return embeddings


class Bottleneck(nn.Module):
    """Three convolutions with a residual connection; `stride` 2 halves the sides."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        outer = inner * EXPANSION
        self.conv3, self.bn3 = nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != outer:
            shortcut = {
                "-1": nn.AvgPool2d(stride),
                "0": nn.Conv2d(channels, outer, 1, bias=False),
                "1": nn.BatchNorm2d(outer),
            }
            self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.stride > 1:
            h = F.avg_pool2d(h, self.stride)
        return F.relu(self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean of all positions attends to them all."""

    def __init__(self, side: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.positional_embedding = _parameter(side**2 + 1, width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, side, side] -> [N, d]."""
        x = x.flatten(2).permute(2, 0, 1)  # [positions, N, C]
        x = torch.cat([x.mean(0, keepdim=True), x])
        x = x + self.positional_embedding[:, None].to(x.dtype)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        pooled, _ = F.multi_head_attention_forward(
            x[:1],
            x,
            x,
            x.shape[-1],
            self.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([each.bias for each in projections]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return pooled[0]


def _parameter(*shape: int) -> nn.Parameter:
    """One without values yet."""
    return nn.Parameter(torch.empty(shape))
