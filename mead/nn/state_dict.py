"""Reading a network's hyperparameters off its state dict, and building it from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

StateDict = Mapping[str, torch.Tensor]
N = TypeVar("N", bound=nn.Module)

SCALINGS = (torch.Tensor.mul, torch.Tensor.div)


class StateDictError(ValueError):
    """A state dict that does not fit the network; the message names the keys."""


def shape(state_dict: StateDict, key: str) -> tuple[int, ...]:
    """Return the shape of `key`, or raise StateDictError naming it."""
    if key not in state_dict:
        raise StateDictError(f"the state dict has no key {key!r}")
    return tuple(state_dict[key].shape)


def count(state_dict: StateDict, prefix: str) -> int:
    """Return how many different names follow `prefix` (such as "down.", for down.0, down.1, ...)."""
    return len({key[len(prefix) :].split(".", 1)[0] for key in state_dict if key.startswith(prefix)})


def build(make: Callable[[], N], state_dict: StateDict) -> N:
    """Build a network with the tensors of `state_dict`, in float32 and in eval mode.

    Tensors that are float32 already are not copied: a checkpoint mapped from disk stays mapped, and training
    the network further changes the caller's tensors.

    Raises:
        StateDictError: naming keys that are missing, unknown or of another shape than the network has.
    """
    with torch.device("meta"), _Unfilled():
        network = make()
    expected = network.state_dict()
    # Checkpoints from before PyTorch 0.4.1 have no such counters; in eval mode nothing reads them.
    counters = {key: torch.tensor(0) for key in expected if key.endswith(".num_batches_tracked")}
    given = counters | {
        key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state_dict.items()
    }
    problems = {
        "missing": [key for key in expected if key not in given],
        "unknown": [key for key in given if key not in expected],
        "of another shape than expected": [
            f"{key} {tuple(given[key].shape)} for {tuple(expected[key].shape)}"
            for key in expected
            if key in given and given[key].shape != expected[key].shape
        ],
    }
    if any(problems.values()):
        kinds = (f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys)
        raise StateDictError(f"keys of {type(network).__name__}: " + "; ".join(kinds))
    network.load_state_dict(given, assign=True)
    return network.eval()


class _Unfilled(TorchFunctionMode):
    """On the meta device, makes random tensors and scaled ones without asking what would be in them.

    PyTorch would import its compiler for that, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        if func is nn.init.normal_:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in SCALINGS and args[0].is_meta and not isinstance(args[1], torch.Tensor):
            return args[0]
        return func(*args, **kwargs)


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (", ..." if len(keys) > most else "")
