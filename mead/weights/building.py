"""Building a network from its tensors, which checks their keys and shapes."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mead import registry
from mead.nn.state_dict import StateDict, StateDictError, shape

MAX_TENSORS = 4096  # of one network; the largest published ones have about two thousand


def build_network(network: str, tensors: StateDict) -> nn.Module:
    """The network of that name, built from the tensors of its file.

    Raises:
        StateDictError: naming keys that are missing or unknown, or whose shape is wrong.
    """
    spec = registry.network(network)
    if len(tensors) > MAX_TENSORS:
        raise StateDictError(f"it has {len(tensors):,} tensors; at most {MAX_TENSORS:,} are accepted")
    given = {name: shape(tensors, name) for name in spec.extra}
    own = {key: tensor for key, tensor in tensors.items() if key not in spec.extra}
    with _parameters_limited(tensors):
        built: nn.Module = spec.load_class().from_state_dict(own)
    for name, attributes in spec.extra.items():
        expected = tuple(getattr(built, attribute) for attribute in attributes)
        if given[name] != expected:
            raise StateDictError(f"{name} has shape {given[name]} instead of {expected}")
    return built


@contextlib.contextmanager
def _parameters_limited(tensors: StateDict) -> Iterator[None]:
    """Stop building a network once it has far more parameters than there are tensors for it.

    Its size is taken from the tensors' names: a few names can ask for millions of layers.
    """
    thread, left = threading.get_ident(), itertools.count(2 * len(tensors) + 1000, -1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if threading.get_ident() == thread and next(left) < 0:
            raise StateDictError(f"the names of its {len(tensors)} tensors describe a network of far more")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
