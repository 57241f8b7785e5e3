"""CUDA graphs: a pass through a network as one launch instead of hundreds.

On a fast GPU, launching the kernels of a small pass takes longer than running them. PyTorch's
`make_graphed_callables` records a forward and a backward pass on inputs of one shape, and replays them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor


class Recorded:
    """A function of one tensor, such as a pass through frozen networks, with graphs for some shapes.

    A replay overwrites the result and the kept features of the one before: a result must be used, and its
    backward pass taken, before the next call with that shape.

    Args:
        function: computes without random numbers, and without waiting for the GPU.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._graphs: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def record(self, sample: Tensor) -> None:
        """Record the passes on a tensor like `sample`. No other thread may use the GPU meanwhile."""
        sample = sample.detach().requires_grad_()
        recorded = torch.cuda.make_graphed_callables(self.function, (sample,))
        self._graphs[sample.shape] = cast("Callable[[Tensor], Tensor]", recorded)

    def __call__(self, x: Tensor) -> Tensor:
        return self._graphs.get(x.shape, self.function)(x)
