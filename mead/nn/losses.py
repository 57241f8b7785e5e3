"""How losses compose, each a module: an objective is the `Sum` of its losses, some of them in a `Scale`.

An objective takes all that a step computed, by name; `Apply` gives each loss the input it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


class Scale(nn.Module):
    """factor · loss(inputs)"""

    def __init__(self, loss: nn.Module, factor: float) -> None:
        super().__init__()
        self.loss = loss
        self.factor = factor

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.factor * self.loss(inputs)


class Apply(nn.Module):
    """loss(inputs[name])"""

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss = loss
        self.name = name

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.loss(inputs[self.name])


class Sum(nn.ModuleList):
    """Σᵢ lossᵢ(inputs)"""

    def __init__(self, losses: Iterable[nn.Module]) -> None:
        super().__init__(losses)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        total, *others = (loss(inputs) for loss in self)
        for other in others:
            total = total + other
        return total
