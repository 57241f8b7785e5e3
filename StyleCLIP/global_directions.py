"""Global directions: an edit by words in StyleGAN2's style space, in one pass.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021 (arXiv 2103.17249),
section 6. What each channel of the styles does to a picture, as CLIP sees it, was measured once. The channels
that do what the words ask for are changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.state_dict import StateDict, StateDictError, build, shape
from mead.nn.text_tower import FrozenTextTower
from mead.params import ParamsError
from mead.weights.errors import WeightsError
from StyleCLIP.frozen_generator import COLOURS, FrozenGenerator
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.params import StyleCLIPParams, parse_beta

BETAS = [n / 100 for n in range(29, 9, -1)]  # among which "auto" chooses
ENOUGH = 20  # channels: "auto" takes the first beta that leaves more
KEPT_TEXTS = 256  # whose embeddings are kept: the neutral words, and those of a slider being moved


class GlobalDirections(nn.Module):
    """What each channel of all styles but the colour layers', one after another, does to a picture.

    Args:
        channels: their number.
        embed_dim: length of CLIP's embeddings.

    Attributes:
        table: the direction in which a channel moves a picture's embedding, [channels, embed_dim], of unit
            length.
        deviation: a channel's standard deviation between faces, [channels].
    """

    table: Tensor
    deviation: Tensor

    def __init__(self, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.channels, self.embed_dim = channels, embed_dim
        self.register_buffer("table", torch.zeros(channels, embed_dim))
        self.register_buffer("deviation", torch.zeros(channels))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> GlobalDirections:
        """Build what `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        dims = shape(state_dict, "table")
        if len(dims) != 2:
            raise StateDictError(f"table has shape {dims}, not one of channels and embeddings")
        return build(lambda: cls(*dims), state_dict)

    def change(self, direction: Tensor, beta: float | Literal["auto"]) -> Tensor:
        """How each channel changes, [channels], in units of alpha.

        Args:
            direction: where the embedding should go, [embed_dim], of unit length, see `text_direction`.
            beta: channels less relevant than that stay.

        Raises:
            ParamsError: for a beta that no channel reaches.
        """
        relevance = self.table @ direction
        least = self._automatic(relevance) if beta == "auto" else float(beta)
        kept = torch.where(relevance.abs() < least, 0, relevance)
        largest = float(relevance.abs().max())
        if not kept.any():
            raise ParamsError(
                "beta",
                f"no channel is as relevant to these words as {least:g}; "
                f"{int(largest * 1000) / 1000:g} would keep some",
                out_of_range=True,
            )
        return self.deviation * kept / largest

    def _automatic(self, relevance: Tensor) -> float:
        """The largest beta that leaves enough channels; the smallest if none does."""
        enough = (beta for beta in BETAS if int((relevance.abs() >= beta).sum()) > ENOUGH)
        return next(enough, BETAS[-1])


class GlobalEdits:
    """Edits faces by global directions.

    Args:
        directions: on the perceptor's device.
        perceptor: CLIP, which the directions were measured with.
        generator: whose styles they are of.
        hyperparameters: the weights set's.
        precision: that texts are read in.

    Raises:
        WeightsError: if the networks do not fit together.
    """

    def __init__(
        self,
        directions: GlobalDirections,
        perceptor: Perceptor,
        generator: FrozenGenerator,
        hyperparameters: Hyperparameters,
        precision: Precision,
    ) -> None:
        channels = sum(layer.size_in for layer in generator.layers)
        if (directions.channels, directions.embed_dim) != (channels, perceptor.embed_dim):
            raise WeightsError(
                f"weights: directions are of {directions.channels} channels and embeddings of "
                f"{directions.embed_dim}; stylegan2 has {channels} and clip {perceptor.embed_dim}"
            )
        self.directions = directions
        self.perceptor = perceptor
        self.generator = generator
        self.hyperparameters = hyperparameters
        self.precision = precision
        self._embeddings = functools.lru_cache(KEPT_TEXTS)(self._embed)
        self._tower: FrozenTextTower | None = None  # reads many texts faster, but takes memory
        if hyperparameters.templates:
            self._tower = FrozenTextTower(perceptor.model, precision.dtype)

    def styles(self, codes: Tensor, params: StyleCLIPParams) -> list[Tensor]:
        """The edited styles [1, in] of a face's codes w+ [1, n_latent, style_dim].

        Raises:
            ParamsError: for words that say the same as the neutral ones, and a beta that no channel reaches.
        """
        own = self.hyperparameters
        neutral = own.neutral if params.neutral is None else params.neutral
        alpha = own.alpha if params.alpha is None else params.alpha
        beta = parse_beta(own.beta) if params.beta is None else params.beta
        if neutral == params.prompt:
            raise ParamsError("neutral", "must differ from the prompt", out_of_range=True)
        direction = text_direction(self._embeddings(params.prompt), self._embeddings(neutral))
        change = alpha * self.directions.change(direction, beta)
        return changed(self.generator.styles(codes), change)

    def _embed(self, words: str) -> Tensor:
        """The embeddings of words in all templates, [templates, d], of unit length."""
        with torch.no_grad(), self.precision.autocast():
            if self._tower is None:
                return self.perceptor.embed_text([words])
            texts = [template(words) for template in imagenet_templates()]
            embeddings: Tensor = self._tower(self.perceptor.tokenise(texts))
            return embeddings


def imagenet_templates() -> list[Callable[[str], str]]:
    """The templates of the published code: CLIP's for ImageNet without the one that asks for many things."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [each for each in OPENAI_IMAGENET_TEMPLATES if not each("").startswith("a photo of many")]


def changed(styles: Sequence[Tensor], change: Tensor) -> list[Tensor]:
    """Styles [N, in], as a generator's `styles` returns them, with a change [channels] added.

    Colour layers stay.
    """
    colours = range(len(styles))[COLOURS]
    parts = iter(change.split([style.shape[1] for i, style in enumerate(styles) if i not in colours]))
    return [style if i in colours else style + next(parts) for i, style in enumerate(styles)]


def text_direction(target: Tensor, neutral: Tensor) -> Tensor:
    """Where words move an embedding, [d], of unit length.

    Args:
        target, neutral: embeddings [templates, d] of what is asked for and of what it is said of, each in
            the same templates.
    """
    ends = [F.normalize(F.normalize(each, dim=1).mean(0), dim=0) for each in (target, neutral)]
    return F.normalize(ends[0] - ends[1], dim=0)
