"""The Fréchet distance: its value for distributions it is known of, and that it sees what the eye sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.evaluation.frechet import Judge, distance
from training.pictures import tensor
from training.reader import Reader, blur, fresh
from training.world import draw


def normal(number: int, length: int, seed: int) -> torch.Tensor:
    return torch.randn((number, length), generator=torch.Generator().manual_seed(seed))


def test_it_is_that_of_normal_distributions() -> None:
    a, b = normal(20_000, 3, 1), normal(20_000, 3, 2)
    assert distance(a, a) == pytest.approx(0, abs=1e-6)
    assert distance(a, b) == pytest.approx(0, abs=0.01)
    assert distance(a, b + torch.tensor([3.0, 0, 0])) == pytest.approx(9, abs=0.2)  # the means' distance
    # equal axes: the sum over them of the squared differences of deviations
    assert distance(a, 3 * b) == pytest.approx(3 * (3 - 1) ** 2, rel=0.03)


def test_both_judges_find_drawings_nearer_than_blotched_or_blurred_ones() -> None:
    drawings = [
        tensor(draw(fresh(np.random.default_rng([41, k]))) for k in range(first, first + 60))
        for first in (0, 60)
    ]
    judge = Judge(Reader.load(), drawings[0])
    coarse = torch.nn.functional.interpolate(normal(60 * 3 * 16 * 16, 1, 3).view(60, 3, 16, 16), (128, 128))
    spoilt = ((drawings[1] + 0.25 * coarse).clamp(-1, 1), blur(drawings[1], torch.full((60,), 4.0)))
    good = judge.distances(drawings[1])
    for pictures in spoilt:
        for before, after in zip(good, judge.distances(pictures), strict=True):
            assert after > 1.3 * before
