"""The device that computes, and its number format."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def best_device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Make sure that PyTorch can compute on the device.

    Raises:
        ValueError: if not, saying why.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None


FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""What the environment variable PRECISION may say."""


class Precision:
    """bfloat16 where the device computes in it, float16 with loss scaling on older GPUs, else float32.

    Latents, optimisers and losses stay float32; only passes through the networks run under `autocast()`.
    The environment variable PRECISION chooses another format.

    Raises:
        ValueError: naming PRECISION, if it names no format.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # the same seed, the same picture
        chosen = os.environ.get("PRECISION")
        if chosen:
            if chosen not in FORMATS:
                raise ValueError(f"PRECISION: must be one of {', '.join(FORMATS)}, not {chosen!r}")
            self.dtype = FORMATS[chosen]
        elif device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
            self.dtype = torch.bfloat16 if fast else torch.float16
        else:
            chip = torch.cpu.get_capabilities()
            fast = any(chip.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))
            self.dtype = torch.bfloat16 if fast else torch.float32

    @property
    def fused(self) -> bool | None:
        """For optimisers: True on a GPU, where they take a step in one kernel that waits for nothing."""
        return True if self.device.type == "cuda" else None

    @property
    def ignores_threads(self) -> bool:
        """Whether convolutions, and products without large sums, round the same on any number of threads."""
        return self.device.type == "cpu" and self.dtype == torch.bfloat16

    def autocast(self) -> AbstractContextManager[None]:
        """The context for passes through the networks."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def batch_invariant(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """network(x) under `autocast()`, where no sample's result depends on the rest of the batch.

        On the CPU, float32 convolutions sum in an order that depends on the batch size, and an optimisation
        amplifies a rounding error into a different picture. There each sample passes alone.
        """
        with self.autocast():
            if self.device.type == "cpu" and self.dtype == torch.float32:
                return torch.cat([network(sample) for sample in x.split(1)])
            return network(x)

    def scaler(self) -> torch.amp.GradScaler:
        """The loss scaler that float16 needs; disabled for the other formats."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
