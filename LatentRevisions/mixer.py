"""The published learned start: an MLP-Mixer that maps a CLIP embedding to VQGAN latents in one pass.

Feed-forward VQGAN-CLIP, in the state-dict layout of mehdidc/feed_forward_vqgan_clip's `mlp_mixer_pytorch`.
Its blocks are those of Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", 2021 (arXiv
2105.01601).
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, count, shape


class Mixer(nn.Module):
    """Renders latents of a picture that matches an embedding; always the same for the same embedding.

    Args:
        input_dim: length of the embeddings.
        image_size: side of the latents, which are square.
        channels: of the latents.
        dim: channels of a position within.
        depth: number of blocks.
        hidden: width of the hidden layers that mix positions, and of those that mix channels.
    """

    def __init__(
        self, input_dim: int, image_size: int, channels: int, dim: int, depth: int, hidden: tuple[int, int]
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.image_size = image_size
        self.channels = channels
        positions = image_size**2
        self.proj = nn.Linear(input_dim, channels * positions)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["1"] = nn.Linear(channels, dim)
        for number in range(2, depth + 2):
            layers[str(number)] = nn.Sequential(
                Residual(dim, _mlp(nn.Conv1d(positions, hidden[0], 1), nn.Conv1d(hidden[0], positions, 1))),
                Residual(dim, _mlp(nn.Linear(dim, hidden[1]), nn.Linear(hidden[1], dim))),
            )
        layers[str(depth + 2)] = nn.LayerNorm(dim)
        self.mixer = nn.Sequential(layers)
        self.final_proj = nn.Linear(dim, channels)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Mixer:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        numbers, input_dim = shape(state_dict, "proj.weight")
        dim, channels = shape(state_dict, "mixer.1.weight")
        image_size = math.isqrt(numbers // channels)
        if numbers != channels * image_size**2:
            raise StateDictError(f"proj.weight gives {numbers} numbers, which are no square of {channels}")
        hidden = shape(state_dict, "mixer.2.0.fn.0.weight")[0], shape(state_dict, "mixer.2.1.fn.0.weight")[0]
        depth = count(state_dict, "mixer.") - 2
        return build(lambda: cls(input_dim, image_size, channels, dim, depth, hidden), state_dict)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings [N, input_dim] -> latents [N, channels, image_size, image_size], of any size.

        The embeddings must be as long as CLIP's text tower leaves them, about 10.
        """
        x = self.proj(embeddings).unflatten(1, (self.channels, -1)).mT  # [N, positions, channels]
        x = self.final_proj(self.mixer(x))
        return x.mT.unflatten(2, (self.image_size, self.image_size))


class Residual(nn.Module):
    """A layer with a residual connection, [N, positions, dim] -> [N, positions, dim].

    Args:
        fn: computes what is added, from the normalised input.
    """

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # the sum of many layers, also where they compute in another format
        return x + self.fn(self.norm(x))


def _mlp(first: nn.Module, last: nn.Module) -> nn.Sequential:
    """Two layers, numbered as published, where dropout stands between and after them."""
    return nn.Sequential(OrderedDict({"0": first, "1": nn.GELU(), "3": last}))
