"""Edits that are found in one pass: by a global direction, a mapper or sliders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mead.params import ParamsError, lacking
from mead.weighted_texts import weighted_texts
from mead.weights.errors import WeightsError
from StyleCLIP.global_directions import GlobalEdits
from StyleCLIP.levels_mapper import LevelsMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.sliders import Sliders
from StyleCLIP.spaces import Spaces


class Edits:
    """What a weights set has for such edits.

    Args:
        spaces: of the set's generator.
        directions: None if the set has none.
        mappers: by name.
        sliders: None if the set has none.

    Raises:
        WeightsError: if they do not fit the generator.
    """

    def __init__(
        self,
        spaces: Spaces,
        directions: GlobalEdits | None,
        mappers: Mapping[str, LevelsMapper],
        sliders: Sliders | None,
    ) -> None:
        codes = spaces.generator.n_latent, spaces.generator.style_dim
        for name, mapper in mappers.items():
            if mapper.style_dim != codes[1]:
                raise WeightsError(
                    f"weights: mapper_{name} is of codes of {mapper.style_dim} numbers; stylegan2's have "
                    f"{codes[1]}"
                )
        if sliders is not None and not sliders.fit(*codes):
            raise WeightsError(f"weights: sliders are not of codes of shape {codes}, as stylegan2 takes them")
        self.spaces = spaces
        self.directions = directions
        self.mappers = mappers
        self.sliders = sliders

    def found(self, face: Tensor, params: StyleCLIPParams) -> tuple[Tensor, Tensor] | None:
        """The face's latents and those of the edit; None if the edit has to be optimised.

        Args:
            face: codes w+ [1, n_latent, style_dim].

        Raises:
            ParamsError: for what the weights set does not have, and words without a direction.
        """
        if params.method == "global":
            if self.directions is None:
                raise lacking("method", "directions")
            return self.spaces.to_styles(face), self.directions.styles(face, params)
        if params.method == "mapper":
            mapper = self.mappers.get(params.mapper or "")
            if mapper is None:
                raise ParamsError("mapper", f'these weights have no "{params.mapper}"', out_of_range=True)
            return face, mapper(face)
        return None if params.optimises else (face, face)

    def beside(self, face: Tensor, latents: Tensor, params: StyleCLIPParams) -> Tensor | None:
        """What sliders add to latents that start at the face's codes; None without sliders.

        Raises:
            ParamsError: for what the weights set does not have.
        """
        if params.sliders is None:
            return None
        if self.sliders is None:
            raise lacking("sliders", "sliders")
        try:
            offset = self.sliders.offset(dict(weighted_texts(params.sliders)))
        except KeyError as error:
            raise ParamsError(
                "sliders", f'these weights have no "{error.args[0]}"', out_of_range=True
            ) from None
        moved = face + offset
        if latents.ndim == 2:
            return self.spaces.to_styles(moved) - self.spaces.to_styles(face)
        return offset.expand_as(face)
