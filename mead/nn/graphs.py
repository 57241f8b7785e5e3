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
    """A function of tensors, such as a pass through frozen networks, with graphs for some shapes of theirs.

    A replay overwrites the result and the kept features of the one before: a result must be used, and its
    backward pass taken, before the next call with those shapes.

    Args:
        function: computes without random numbers, and without waiting for the GPU.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._graphs: dict[tuple[torch.Size, ...], Callable[..., Tensor]] = {}

    def record(self, *samples: Tensor) -> None:
        """Record the passes on tensors like `samples`, with gradients to those that require them.

        No other thread may use the GPU meanwhile.
        """
        recorded = torch.cuda.make_graphed_callables(self.function, samples)
        self._graphs[_shapes(samples)] = cast("Callable[..., Tensor]", recorded)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._graphs.get(_shapes(inputs), self.function)(*inputs)


def _shapes(tensors: tuple[Tensor, ...]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors)
