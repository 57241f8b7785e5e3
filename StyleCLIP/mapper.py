"""A latent mapper: edits a face's StyleGAN2 codes as a text says, in one pass; the optimisation starts there.

Like the mappers of Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021
(arXiv 2103.17249), section 5, but a single one for all texts, which takes their embeddings, as in Wei et al.,
"HairCLIP: Design Your Hair by Text and Reference Image", CVPR 2022 (arXiv 2112.05142).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, shape


class LatentMapper(nn.Module):
    """Codes w+ [N, n_latent, style_dim] and embeddings [N, embed_dim], unit length -> edited codes.

    Args:
        style_dim: length of a code.
        embed_dim: length of the embeddings.
        width: of the hidden layer.
    """

    def __init__(self, style_dim: int, embed_dim: int, width: int) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.embed_dim = embed_dim
        self.mapper_in = nn.Linear(style_dim + embed_dim, width)
        self.mapper_out = nn.Linear(width, style_dim)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> LatentMapper:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        width, inputs = shape(state_dict, "mapper_in.weight")
        style_dim = shape(state_dict, "mapper_out.weight")[0]
        if inputs <= style_dim:
            raise StateDictError(
                f"mapper_in.weight takes {inputs} numbers, a code has {style_dim}: none left for an embedding"
            )
        return build(lambda: cls(style_dim, inputs - style_dim, width), state_dict)

    def forward(self, codes: Tensor, embedding: Tensor) -> Tensor:
        return codes + self.offset(codes.mean(1), embedding)[:, None]

    def offset(self, code: Tensor, embedding: Tensor) -> Tensor:
        """The offset of all codes of a face, [N, style_dim], from their mean [N, style_dim]."""
        h = torch.cat([code, embedding * math.sqrt(self.embed_dim)], 1)
        return self.mapper_out(F.gelu(self.mapper_in(h)))
