"""Finding our networks in the content of a weight file, and choosing between several of a kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mead.weights.checkpoints import CheckpointError, modules
from mead.weights.inert_data import Budget, Placeholder, is_name
from mead.weights.layouts import ARRAY, LAYOUTS, Layout
from mead.weights.tensor_pickle import Unusable

StateDict = dict[str, Tensor | Unusable]

MAX_CANDIDATES = 100  # of one kind in a file

# Names that say nothing about what is in them.
_CONTAINERS = {"state_dict", "model_state_dict", "model", "params", "generator", "g", "net", "network"}
_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Candidate:
    """A network in a file.

    Attributes:
        part: the state dict's name in the file, such as "state_dict"; "" for the whole file.
        state_dict: all of it, which may hold other networks too.
        prefix: of the network's keys, such as "first_stage_model."; often "".
        layout: of the keys without the prefix.
        key: by which it was found.
    """

    part: str
    state_dict: StateDict
    prefix: str
    layout: Layout
    key: str

    @property
    def name(self) -> str:
        """Distinguishes it from others in the file."""
        return ".".join(filter(None, [self.part, self.prefix.removesuffix(".")])) or "the whole file"

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """The lower, the more likely it is the right one."""
        parts = [self.part, *self.prefix.split(".")]
        return (
            not any("ema" in part.lower().split("_") for part in parts),  # averaged weights
            "first_stage_model" not in parts,  # the VQGAN of pictures, beside that of their conditions
            any(part and part.lower() not in _CONTAINERS for part in parts),
        )

    def tensors(self, others: Sequence[Candidate]) -> tuple[dict[str, Tensor], dict[str, Unusable]]:
        """Its tensors and the unusable ones, by name without the prefix; not those of networks within."""
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
        """Whether both are the same tensors, which a file may hold under two names."""
        mine, others = (each.state_dict[each.key] for each in (self, other))
        return (
            isinstance(mine, Tensor) and isinstance(others, Tensor) and mine.data_ptr() == others.data_ptr()
        )


def find(content: Any) -> dict[str, list[Candidate]]:
    """All networks of ours in a checkpoint's content, by name."""
    found: dict[str, list[Candidate]] = {}
    for part, state_dict in state_dicts(content):
        for layout in LAYOUTS:
            for key in layout.signatures(state_dict):
                candidate = Candidate(part, state_dict, layout.prefix(key), layout, key)
                if layout.fits is None or layout.fits(candidate.tensors(())[0]):
                    found.setdefault(layout.network, []).append(candidate)
    return found


def choose(original: Path, candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """The candidate to use, and the others.

    Averaged weights come before the last ones, the VQGAN of pictures before that of their conditions, common
    names before others.

    Raises:
        CheckpointError: if several are equally likely.
    """
    if len(candidates) > MAX_CANDIDATES:
        network = candidates[0].layout.network
        raise CheckpointError(f"{original} holds {len(candidates)} networks that look like {network}")
    best = min(candidate.rank for candidate in candidates)
    chosen, *tied = (candidate for candidate in candidates if candidate.rank == best)
    if rivals := [each for each in tied if not each.is_same(chosen)]:
        raise CheckpointError(
            f"{original} holds several {chosen.layout.network} networks, and it is unclear which to use: "
            f"{shortened([each.name for each in [chosen, *rivals]])}; save the one you want to its own file"
        )
    return chosen, [each for each in candidates if not each.is_same(chosen)]


def state_dicts(content: Any) -> Iterator[tuple[str, StateDict]]:
    """All state dicts of a checkpoint's content, with their names in it."""
    parts: list[tuple[Any, Any]] = [("", {ARRAY: content} if isinstance(content, Tensor) else content)]
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


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _unwrapped(state_dict: StateDict) -> StateDict:
    """The state dict without what DataParallel, torch.compile and others insert into its keys."""
    unwrapped: StateDict = {}
    for key, value in state_dict.items():
        plain = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        unwrapped[key if plain in state_dict or plain in unwrapped else plain] = value
    return unwrapped
