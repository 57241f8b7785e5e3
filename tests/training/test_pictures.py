"""How far drawn pictures are off, as trainings count it."""

from __future__ import annotations

import pytest
import torch

from training.pictures import pair_loss


def test_in_a_pair_a_small_change_counts_as_much_as_a_large_one() -> None:
    wanted = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)[:4]
    small, large = wanted.clone(), wanted.clone()
    small[1, :, 0, :2] += 0.5  # what the first pair differs in
    large[1] += 0.5
    for pictures in (small, large):
        assert float(pair_loss(pictures, pictures)) == 0
        unchanged = pictures.clone()
        unchanged[1] = pictures[0]
        # of two pairs one is missed altogether, and the other has nothing to miss
        assert float(pair_loss(unchanged, pictures)) == pytest.approx(0.5)


def test_a_pair_that_looks_the_same_is_no_division_by_zero() -> None:
    wanted = torch.zeros(4, 3, 8, 8)
    wanted[3] = 1
    drawn = wanted.clone().requires_grad_()
    loss = pair_loss(drawn, wanted)
    loss.backward()
    assert torch.isfinite(loss) and drawn.grad is not None and torch.isfinite(drawn.grad).all()
