"""Cutouts: the maps follow the published recipe, and one grid_sample cuts what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mead.nn.cutout_hyperparameters import CutoutHyperparameters
from mead.nn.cutouts import Cutouts


def drawn(cutouts: Cutouts, width: int = 64, height: int = 64, seed: int = 0) -> torch.Tensor:
    return cutouts.draw(width, height, torch.Generator().manual_seed(seed))


def published(cutouts: int) -> Cutouts:
    return Cutouts(CutoutHyperparameters(cutouts=cutouts))


def still(**changes: float) -> Cutouts:
    """Cutouts that neither rotate, shift nor add noise."""
    still = CutoutHyperparameters(
        cutouts=4, cutout_deviation=0.0, cutout_degrees=0.0, cutout_shift=0.0, cutout_noise=0.0
    )
    return Cutouts(replace(still, **changes))


def test_a_crop_of_the_padded_picture_shrinks_it_whole() -> None:
    # side 2 of the shorter side leaves no room to move: the crop is the whole padded picture
    picture = torch.rand(1, 3, 32, 32)
    cutouts = still(cutout_mean=2.0, cutout_largest=2.0)
    maps = drawn(cutouts, 32, 32)
    crops = cutouts.cut(picture, maps[None], 64)
    picture = picture.flip(3) if maps[0, 0, 0] < 0 else picture
    assert crops.shape == (4, 3, 64, 64)
    torch.testing.assert_close(crops[:, :, 16:48, 16:48], picture.expand(4, -1, -1, -1), atol=1e-5, rtol=0)
    outside = crops.clone()
    outside[:, :, 16:48, 16:48] = 0
    assert outside.abs().max() < 1e-5, "the padding must be zeros"


def test_sides_follow_the_clipped_normal_distribution() -> None:
    maps = drawn(Cutouts(CutoutHyperparameters(cutouts=20_000, cutout_degrees=0.0)))
    sides = maps[:, 0, 0].abs()  # of a square picture: crop side over picture side
    assert sides.min() >= 0.43 - 1e-6 and sides.max() <= 1.9 + 1e-6
    assert abs(sides.mean() - 1.2) < 0.01 and abs(sides.std() - 0.3) < 0.01


def test_flip_turn_and_shift_are_shared_by_all_crops_of_a_step() -> None:
    for seed in range(8):
        maps = drawn(published(16), seed=seed)
        turns = maps[:, :, :2] / maps[:, :, :2].det().abs().sqrt()[:, None, None]
        torch.testing.assert_close(turns, turns[:1].expand_as(turns), atol=1e-5, rtol=0)
        assert abs(math.degrees(math.asin(float(turns[0, 1, 0])))) <= 24
    flips = {float(torch.sign(drawn(published(1), seed=seed)[0, :, :2].det())) for seed in range(20)}
    assert flips == {-1.0, 1.0}


def test_crops_stay_in_the_padded_picture_of_any_shape() -> None:
    cutouts = still(cutout_deviation=0.3)
    maps = cutouts.draw(96, 48, torch.Generator().manual_seed(0))
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]]).mT
    reach = (maps @ corners).abs().amax((0, 2))
    assert reach[0] <= 1 + 1 / 2 + 1e-5  # width 2, padded by half the shorter side: 48 / 2 of 96 / 2
    assert reach[1] <= 2 + 1e-5


def test_the_same_seed_draws_the_same() -> None:
    assert torch.equal(drawn(published(8), seed=5), drawn(published(8), seed=5))


@pytest.mark.parametrize("number", [1, 5])
def test_pictures_are_cut_each_by_its_own_maps(number: int) -> None:
    cutouts = published(number)
    pictures = torch.rand(3, 3, 48, 48)
    maps = torch.stack([drawn(cutouts, 48, 48, seed) for seed in range(3)])
    together = cutouts.cut(pictures, maps, 24)
    for i in range(3):
        alone = cutouts.cut(pictures[i : i + 1], maps[i : i + 1], 24)
        torch.testing.assert_close(together[i * number : (i + 1) * number], alone)


def test_gradients_reach_the_picture() -> None:
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    cutouts = published(8)
    cutouts.cut(picture, drawn(cutouts)[None], 32).square().sum().backward()
    assert picture.grad is not None and (picture.grad.abs().sum(1) > 0).float().mean() > 0.9
