"""CLIP's text tower, frozen: many texts at once in one number format, and in fewer operations.

Under autocast, `mead.nn.clip`'s casts every weight in every pass, and copies some of them for each text.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mead.nn.image_towers import FrozenBlock, layer_norm


class FrozenTextTower(nn.Module):
    """A text transformer, in which a token attends to none after it.

    Args:
        model: a `mead.nn.clip.CLIP` or open_clip's, which stays as it is. Its blocks' weights are copied in
            another format.
        dtype: that the blocks compute in.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.words, self.positions = model.token_embedding, model.positional_embedding
        blocks = nn.ModuleList(FrozenBlock(block, causal=True) for block in model.transformer.resblocks)
        self.blocks = blocks if dtype == torch.float32 else copy.deepcopy(blocks).to(dtype)
        self.norm_out, self.projection = layer_norm(model.ln_final), model.text_projection
        self.requires_grad_(False).eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, tokens] -> embeddings [N, d] of unit length, in float32."""
        ends = tokens.argmax(1)  # the end token's id is the largest
        tokens = tokens[:, : int(ends.max()) + 1]
        with torch.autocast(tokens.device.type, enabled=False):
            x = (self.words(tokens) + self.positions[: tokens.shape[1]]).to(self.dtype)
            for block in self.blocks:
                x = block(x)
            x = x[torch.arange(len(x), device=x.device), ends]
            return F.normalize(self.norm_out(x.float()) @ self.projection, dim=-1)
