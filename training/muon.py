"""Muon, an optimiser for weight matrices: each step's momentum is made orthogonal before it is taken.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; sized as Adam's steps are by
Liu et al. 2025 (arXiv 2502.16982). PyTorch's own takes no convolutions and multiplies in bfloat16, which many
processors only emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 5  # of Newton and Schulz's iteration
QUINTIC = (3.4445, -4.7750, 2.0315)  # its coefficients: steep at 0, all singular values end near 1


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns to a matrix [rows, columns], roughly."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Takes parameters of two or more axes; all but the axis of outputs count as inputs.

    Args:
        params: parameters, or groups of them with `lr` or `weight_decay` of their own. [1, out, in, h, w], as
            StyleGAN2's convolutions are, counts as [out, in, h, w].
        lr: the root mean square of a step is 0.2 times this.
        momentum: of the running mean of gradients, looked ahead by one step (Nesterov).
        weight_decay: share of a weight that goes with each step, times `lr`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                matrix = (ahead[0] if ahead.ndim == 5 else ahead).flatten(1)
                size = 0.2 * max(matrix.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(matrix).reshape(weight.shape), alpha=-group["lr"] * size)
