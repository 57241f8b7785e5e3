"""Sliders: known directions of StyleGAN2's codes w+, such as age, along which any face can be moved.

Shen et al., "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020 (arXiv 1907.10786).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mead.nn.state_dict import StateDict, StateDictError, build, shape

DIRECTION, RANGE = "_direction", "_range"
"""What a slider's tensors are called behind its name."""


class Sliders(nn.Module):
    """Directions by name.

    Args:
        codes: by name, the codes that a direction is given for: 1 if it is the same for all of them.
        style_dim: length of a code.

    Attributes:
        NAME_direction: how the codes change with 1 on the slider, [codes, style_dim].
        NAME_range: the least and the most that it is good for.
    """

    def __init__(self, codes: Mapping[str, int], style_dim: int) -> None:
        super().__init__()
        self.codes = dict(codes)
        self.style_dim = style_dim
        for name, number in codes.items():
            self.register_buffer(f"{name}{DIRECTION}", torch.zeros(number, style_dim))
            self.register_buffer(f"{name}{RANGE}", torch.zeros(2))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> Sliders:
        """Build what `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        found = {}
        for key in state_dict:
            if key.endswith(DIRECTION):
                dims = shape(state_dict, key)
                if len(dims) != 2:
                    raise StateDictError(f"{key} has shape {dims}, not one of codes and their length")
                found[key.removesuffix(DIRECTION)] = dims
        if not found:
            raise StateDictError(f"the state dict has no NAME{DIRECTION}")
        lengths = {length for _, length in found.values()}
        if len(lengths) > 1:
            raise StateDictError(f"the directions are of codes of different lengths: {sorted(lengths)}")
        return build(lambda: cls({name: dims[0] for name, dims in found.items()}, lengths.pop()), state_dict)

    def fit(self, n_latent: int, style_dim: int) -> bool:
        """Whether they are of codes w+ [n_latent, style_dim]."""
        return self.style_dim == style_dim and set(self.codes.values()) <= {1, n_latent}

    def offset(self, values: Mapping[str, float]) -> Tensor:
        """How codes w+ change, [1, 1 or n_latent, style_dim].

        Raises:
            KeyError: for a slider that there is not.
        """
        if unknown := values.keys() - self.codes.keys():
            raise KeyError(min(unknown))
        parts = [value * self.get_buffer(f"{name}{DIRECTION}") for name, value in values.items()]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)[None]
