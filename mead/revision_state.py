"""What the next step of any model's revision depends on: latents, optimiser, random generator."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mead.revision import Revision

OPTIMISER = "optimiser."  # begins the names of the optimiser's tensors


def common_state(revision: Revision) -> dict[str, torch.Tensor]:
    """The part of a revision's `state` that all models share."""
    optimiser = revision.optimiser
    kept = {f"{OPTIMISER}{name}": value for name, value in optimiser.state.get(revision.latents, {}).items()}
    rate = torch.tensor(optimiser.param_groups[0]["lr"], dtype=torch.float64)
    return {
        "latents": revision.latents,
        "generator": revision.generator.get_state(),
        "step": torch.tensor(revision.step),
        "loss": torch.tensor(revision.loss, dtype=torch.float64),
        "learning_rate": rate,
        **kept,
    }


def restore_common(revision: Revision, state: Mapping[str, torch.Tensor]) -> None:
    """Restore that part.

    Raises:
        LookupError, ValueError, RuntimeError: it is not that of a revision with the same parameters.
    """
    latents = state["latents"]
    if latents.shape != revision.latents.shape:
        raise ValueError(f"latents of shape {tuple(latents.shape)}")
    with torch.no_grad():
        revision.latents.copy_(latents)
    kept = {
        name.removeprefix(OPTIMISER): value for name, value in state.items() if name.startswith(OPTIMISER)
    }
    told = revision.optimiser.state_dict()
    told["state"] = {0: kept} if kept else {}
    told["param_groups"][0]["lr"] = state["learning_rate"].item()
    revision.optimiser.load_state_dict(told)
    revision.generator.set_state(state["generator"])
    revision.step, revision.loss = int(state["step"]), float(state["loss"])
