"""Finding our networks in the content of a weight file, and choosing where it holds several of a kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mead.weights.checkpoints import CheckpointError, modules
from mead.weights.inert_data import Budget, Placeholder, is_name
from mead.weights.layouts import LAYOUTS, Layout
from mead.weights.tensor_pickle import Unusable

StateDict = dict[str, Tensor | Unusable]

_MOST = 100  # networks of a kind in a file

# Names that say nothing of what is in them.
_CONTAINERS = {"state_dict", "model_state_dict", "model", "params", "generator", "g", "net", "network"}
_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Candidate:
    """A network in a file.

    Attributes:
        part: what the file calls the state dict, such as "state_dict"; "" for the whole file.
        state_dict: all of it.
        prefix: what the network's keys begin with, such as "first_stage_model."; often "".
        layout: how they look.
    """

    part: str
    state_dict: StateDict
    prefix: str
    layout: Layout

    @property
    def name(self) -> str:
        """What tells it from others in the file."""
        return ".".join(filter(None, [self.part, self.prefix.removesuffix(".")])) or "the whole file"

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """The lower, the rather it is the one that is meant."""
        parts = [self.part, *self.prefix.split(".")]
        return (
            not any("ema" in part.lower().split("_") for part in parts),  # averaged weights draw better
            "first_stage_model" not in parts,  # a VQGAN of pictures, beside that of their conditions
            any(part and part.lower() not in _CONTAINERS for part in parts),
        )

    def tensors(self, others: Sequence[Candidate]) -> tuple[dict[str, Tensor], dict[str, Unusable]]:
        """Those under the prefix and under no other's, and the unusable ones, by their names without it."""
        not_mine = tuple(
            other.prefix
            for other in others
            if other.state_dict is self.state_dict and other.prefix.removeprefix(self.prefix)
        )
        under = {
            key.removeprefix(self.prefix): value
            for key, value in self.state_dict.items()
            if key.startswith(self.prefix) and not key.startswith(not_mine)
        }
        return (
            {key: value for key, value in under.items() if isinstance(value, Tensor)},
            {key: value for key, value in under.items() if isinstance(value, Unusable)},
        )

    def is_same(self, other: Candidate) -> bool:
        """Whether both are the same tensors, which a file may hold by two names."""
        mine, others = (each.state_dict[each.prefix + each.layout.sign] for each in (self, other))
        return (
            isinstance(mine, Tensor) and isinstance(others, Tensor) and mine.data_ptr() == others.data_ptr()
        )


def find(content: Any) -> dict[str, list[Candidate]]:
    """All networks of ours in a checkpoint's content, by which they are."""
    found: dict[str, list[Candidate]] = {}
    for part, state_dict in state_dicts(content):
        for layout in LAYOUTS:
            for key in state_dict:
                if f".{key}".endswith(f".{layout.sign}"):
                    candidate = Candidate(part, state_dict, key.removesuffix(layout.sign), layout)
                    found.setdefault(layout.network, []).append(candidate)
    return found


def choose(original: Path, candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """The candidate that is meant, and the others: averaged weights before the last ones, the VQGAN of the
    pictures before that of what they are conditioned on, plain names before others.

    Raises:
        CheckpointError: when the file does not tell which is meant.
    """
    if len(candidates) > _MOST:
        raise CheckpointError(f"{original} holds {len(candidates)} of {candidates[0].layout.network}")
    best = min(candidate.rank for candidate in candidates)
    chosen, *tied = (candidate for candidate in candidates if candidate.rank == best)
    if rivals := [each for each in tied if not each.is_same(chosen)]:
        raise CheckpointError(
            f"{original} holds several of {chosen.layout.network}, and not which is meant: "
            f"{some([each.name for each in [chosen, *rivals]])}; save that one to a file of its own"
        )
    return chosen, [each for each in candidates if not each.is_same(chosen)]


def state_dicts(content: Any) -> Iterator[tuple[str, StateDict]]:
    """All state dicts of a checkpoint's content, with their names in it."""
    parts: list[tuple[Any, Any]] = [("", content)]
    if isinstance(content, dict):
        parts += content.items()
    budget = Budget.to_read(0)
    seen: set[int] = set()
    for name, part in parts:
        if id(part) in seen or not is_name(name):
            continue
        seen.add(id(part))
        if isinstance(part, Placeholder):
            yield name, _unwrapped(modules(part, budget))
        elif isinstance(part, dict):
            tensors = {key: value for key, value in part.items() if isinstance(value, (Tensor, Unusable))}
            yield name, _unwrapped({key: value for key, value in tensors.items() if is_name(key)})


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _unwrapped(state_dict: StateDict) -> StateDict:
    """The state dict without the names that DataParallel, torch.compile and others put into its keys."""
    unwrapped: StateDict = {}
    for key, value in state_dict.items():
        plain = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        unwrapped[key if plain in state_dict or plain in unwrapped else plain] = value
    return unwrapped
