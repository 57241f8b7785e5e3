"""Networks that several models share, as weights sets have them."""

from __future__ import annotations

from mead.model_spec import NetworkSpec

CLIP = NetworkSpec(
    "clip", "mead.nn.perceptor.Perceptor", hyperparameters=("input_size", "context_length", "embed_dim")
)
