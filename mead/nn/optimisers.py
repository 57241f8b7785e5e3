"""PyTorch's optimisers without its compiler, which they would import first: that takes seconds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class _Eager(Optimizer):
    """The methods of an optimiser as they are inside of what keeps `torch.compile` away from them.

    They compute the same. `torch.compile` is not used here, and importing it doubles the time that a process
    takes to its first picture.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


def _eager(step: Callable[..., Any]) -> Callable[..., Any]:
    """An optimiser's `step`, without gradients and without the import."""
    return torch.no_grad()(inspect.unwrap(step))


class Adam(_Eager, torch.optim.Adam):
    """torch.optim.Adam."""

    step = _eager(torch.optim.Adam.step)


class AdamW(_Eager, torch.optim.AdamW):
    """torch.optim.AdamW."""

    step = _eager(torch.optim.AdamW.step)


class SGD(_Eager, torch.optim.SGD):
    """torch.optim.SGD."""

    step = _eager(torch.optim.SGD.step)
