"""Losses compose."""

from __future__ import annotations

import torch
from torch import nn

from mead.nn.losses import Apply, Scale, Sum


def test_an_objective_is_the_sum_of_scaled_losses_each_of_its_own_input() -> None:
    objective = Sum([Apply(nn.Identity(), "a"), Scale(Apply(nn.ReLU(), "b"), 0.5), Apply(nn.ReLU(), "a")])
    a, b = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([4.0, -4.0], requires_grad=True)
    loss = objective({"a": a, "b": b, "c": torch.tensor(float("nan"))})
    assert loss.tolist() == [4.0, -2.0]
    loss.sum().backward()
    assert a.grad is not None and a.grad.tolist() == [2.0, 1.0]
    assert b.grad is not None and b.grad.tolist() == [0.5, 0.0]
