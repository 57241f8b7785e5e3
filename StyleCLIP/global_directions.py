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
from StyleCLIP.neutral import Alternatives, neutral_words
from StyleCLIP.params import StyleCLIPParams, parse_beta
from StyleCLIP.spaces import Spaces, StyleRange

BETAS = [n / 100 for n in range(29, 9, -1)]  # among which "auto" chooses
ENOUGH = 20  # channels: "auto" takes the first beta that leaves more
ALPHAS = (0.7, 0.9, 1.1, 1.3, 1.5, 1.75, 2.0)  # among which CLIP chooses, in alphas of the weights set
KEPT_TEXTS = 256  # whose embeddings are kept: the neutral words, and those of a slider being moved


class GlobalDirections(nn.Module):
    """What channels of the styles do to a picture: those of all layers, or of all but the colour layers.

    Args:
        channels: their number, one layer after another.
        embed_dim: length of CLIP's embeddings.
        rank: of a table that is a product of two, `table` [channels, rank] and `basis` [rank, embed_dim],
            which take less space; None if it is not.

    Attributes:
        table: the direction in which a channel moves a picture's embedding, [channels, embed_dim], of unit
            length as published.
        deviation: a channel's standard deviation between faces, [channels].
    """

    table: Tensor
    basis: Tensor | None
    deviation: Tensor

    def __init__(self, channels: int, embed_dim: int, rank: int | None = None) -> None:
        super().__init__()
        self.channels, self.embed_dim = channels, embed_dim
        self.register_buffer("table", torch.zeros(channels, rank or embed_dim))
        self.register_buffer("basis", None if rank is None else torch.zeros(rank, embed_dim))
        self.register_buffer("deviation", torch.zeros(channels))

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> GlobalDirections:
        """Build what `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        channels, *width = _two(state_dict, "table")
        if "basis" not in state_dict:
            return build(lambda: cls(channels, *width), state_dict)
        rank, embed_dim = _two(state_dict, "basis")
        return build(lambda: cls(channels, embed_dim, rank), state_dict)

    def relevance(self, direction: Tensor) -> Tensor:
        """How far each channel leads in a direction [embed_dim], [channels]."""
        return self.table @ (direction if self.basis is None else self.basis @ direction)

    def change(self, direction: Tensor, beta: float | Literal["auto"]) -> Tensor:
        """How each channel changes, [channels], in units of alpha.

        Args:
            direction: where the embedding should go, [embed_dim], of unit length, see `text_direction`.
            beta: channels less relevant than that stay.

        Raises:
            ParamsError: for a beta that no channel reaches.
        """
        relevance = self.relevance(direction)
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
        sizes = generator.style_sizes
        everywhere, beside_colours = torch.arange(sum(sizes)), convolutions(sizes)
        fitting = {len(places): places for places in (everywhere, beside_colours)}
        if directions.channels not in fitting or directions.embed_dim != perceptor.embed_dim:
            raise WeightsError(
                f"weights: directions are of {directions.channels} channels and embeddings of "
                f"{directions.embed_dim}; stylegan2 has {len(everywhere)}, or {len(beside_colours)} without "
                f"its colour layers, and clip {perceptor.embed_dim}"
            )
        self.places = fitting[directions.channels]
        self.directions = directions
        self.perceptor = perceptor
        self.generator = generator
        self.hyperparameters = hyperparameters
        self.precision = precision
        self.kinds = [Alternatives(words) for words in hyperparameters.alternatives.strip().splitlines()]
        self._embeddings = functools.lru_cache(KEPT_TEXTS)(self._embed)
        self._tower: FrozenTextTower | None = None  # reads many texts faster, but takes memory
        if hyperparameters.templates:
            self._tower = FrozenTextTower(perceptor.model, precision.dtype)

    def styles(self, codes: Tensor, params: StyleCLIPParams) -> Tensor:
        """The edited styles [1, numbers], one after another, of a face's codes w+ [1, n_latent, style_dim].

        Raises:
            ParamsError: if the prompt is the weights set's neutral words, and for a beta that leaves nothing.
        """
        own = self.hyperparameters
        styles = torch.cat(self.generator.styles(codes), 1)
        neutral = params.neutral or self._neutral(styles, params.prompt)
        beta = parse_beta(own.beta) if params.beta is None else params.beta
        direction = text_direction(self._embeddings(params.prompt), self._embeddings(neutral))
        change = torch.zeros_like(styles)
        change[:, self.places] = self.directions.change(direction, beta)
        if params.alpha is not None or not own.searches_alpha:
            return styles + (own.alpha if params.alpha is None else params.alpha) * change
        return self._as_far_as_clip_sees(styles, change, direction)

    def range_around(self, average: Tensor) -> StyleRange | None:
        """The styles that faces usually have, as far as the weights set limits a strength above 1.

        Args:
            average: codes of the average face, w+ [1, n_latent, style_dim]. Styles are linear in codes, so
                its styles are the mean ones.
        """
        if self.hyperparameters.style_range == 0:
            return None
        spaces = Spaces(self.generator)
        mean = spaces.to_styles(average)[0]
        reach = torch.full_like(mean, torch.inf)
        reach[self.places] = self.hyperparameters.style_range * self.directions.deviation
        return StyleRange(spaces, mean - reach, mean + reach)

    def _neutral(self, styles: Tensor, prompt: str) -> str:
        """What a face is before the edit: the prompt with other words, or the weights set's own."""

        def embed(texts: Sequence[str]) -> Tensor:
            with self.precision.autocast():
                return self.perceptor.embed_text(texts)

        fitting = neutral_words(prompt, self._seen(styles)[0], self.kinds, embed) if self.kinds else None
        if fitting is None and self.hyperparameters.neutral == prompt:
            raise ParamsError(
                "neutral", "must be given: the weights set's own is the prompt", out_of_range=True
            )
        return fitting or self.hyperparameters.neutral

    def _as_far_as_clip_sees(self, styles: Tensor, change: Tensor, direction: Tensor) -> Tensor:
        """Styles changed by that one of ALPHAS that moves the picture's embedding most nearly as words say.

        Gal et al., "StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators", SIGGRAPH 2022 (arXiv
        2108.00946), train with this measure.
        """
        alphas = self.hyperparameters.alpha * torch.tensor((0.0, *ALPHAS), device=styles.device)
        edited = styles + alphas[:, None] * change
        before, *after = self._seen(edited)
        moved = F.cosine_similarity(torch.stack(after) - before, direction[None])
        return edited[1 + int(moved.argmax())][None]

    @torch.no_grad()
    def _seen(self, styles: Tensor) -> Tensor:
        """CLIP's embeddings [N, d] of the faces of styles [N, numbers], one after another."""
        pictures = self.generator.synthesise_styles(styles.split(self.generator.style_sizes, 1))
        with self.precision.autocast():
            return self.perceptor.embed_image(pictures.clamp(-1, 1) / 2 + 0.5)

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


def _two(state_dict: StateDict, key: str) -> tuple[int, int]:
    """The two sizes of a matrix."""
    sizes = shape(state_dict, key)
    if len(sizes) != 2:
        raise StateDictError(f"{key} has shape {sizes}, not that of a matrix")
    return sizes[0], sizes[1]


def convolutions(sizes: Sequence[int]) -> Tensor:
    """The places of all channels but the colour layers' among all styles, whose lengths are `sizes`."""
    colours = range(len(sizes))[COLOURS]
    parts = torch.arange(sum(sizes)).split(list(sizes))
    return torch.cat([part for i, part in enumerate(parts) if i not in colours])


def text_direction(target: Tensor, neutral: Tensor) -> Tensor:
    """Where words move an embedding, [d], of unit length.

    Args:
        target, neutral: embeddings [templates, d] of what is asked for and of what it is said of, each in
            the same templates.
    """
    ends = [F.normalize(F.normalize(each, dim=1).mean(0), dim=0) for each in (target, neutral)]
    return F.normalize(ends[0] - ends[1], dim=0)
