"""The losses that keep a picture near its start and smooth: their values on pictures worked out by hand."""

from __future__ import annotations

import pytest
import torch

from LatentRevisions.losses import MeanSquaredDistance, TotalVariation


def test_the_distance_from_the_first_latents_is_a_mean_of_squares() -> None:
    first = torch.zeros(1, 2, 2, 2)
    latents = first.clone()
    latents[0, 0, 0, 0] = 4
    assert float(MeanSquaredDistance(first)(latents)) == pytest.approx(16 / 8)
    assert float(MeanSquaredDistance(first)(first)) == 0


def test_total_variation_sums_what_neighbours_differ_by_across_and_down() -> None:
    columns = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]).expand(1, 3, 2, 3)
    assert float(TotalVariation()(columns)) == pytest.approx(0.5)  # one of two neighbours across, none down
    assert float(TotalVariation()(torch.full((1, 3, 4, 4), 0.3))) == 0
