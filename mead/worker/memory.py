"""The memory that steps take, so that no more jobs run together than fit."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch

from mead.nn.freed import give_back

RESERVED = 0.1  # of the memory that there is, for what is not foreseen


class Memory(Protocol):
    """The memory of a device, in bytes."""

    def used(self) -> int:
        """What this process has now."""

    def peak(self) -> int:
        """The most that this process has had."""

    def free(self) -> int:
        """What it could have beside that."""


class ProcessMemory:
    """The memory of this process, and of the machine or container it runs on. For Linux.

    What the process has freed and kept goes back to the system first: steps would take it again unseen.
    """

    def __init__(self) -> None:
        give_back()
        with suppress(OSError):  # a peak of loading networks says nothing of steps
            Path("/proc/self/clear_refs").write_text("5")

    def used(self) -> int:
        """As `Memory.used`, resident."""
        return resident_bytes()

    def peak(self) -> int:
        """As `Memory.peak`, resident."""
        return _kilobytes("/proc/self/status", "VmHWM")

    def free(self) -> int:
        """As `Memory.free`. A limit of the container (cgroups, version 2) counts too."""
        free = _kilobytes("/proc/meminfo", "MemAvailable")
        group = Path("/sys/fs/cgroup")
        try:
            most = (group / "memory.max").read_text().strip()
            if most != "max":
                current = int((group / "memory.current").read_text())
                cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
                free = min(free, int(most) - current + (int(cached[1]) if cached else 0))
        except OSError:  # there are no such limits
            pass
        return free


class GPUMemory:
    """The memory of a GPU.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.reset_peak_memory_stats(device)

    def used(self) -> int:
        """As `Memory.used`, by tensors."""
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """As `Memory.peak`, by tensors."""
        return torch.cuda.max_memory_allocated(self.device)

    def free(self) -> int:
        """As `Memory.free`; what PyTorch keeps for further tensors is free."""
        unused = torch.cuda.memory_reserved(self.device) - self.used()
        return torch.cuda.mem_get_info(self.device)[0] + unused


class Room:
    """How much fits in memory at once, as far as can be told from what steps have taken so far.

    What a step takes grows with the latents of its jobs. Other steps in the same process count as well, so
    that it is rather too much than too little.

    Args:
        memory: with the networks loaded and no job.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._idle = memory.used()
        self._most = 0  # latents in a step
        self._bytes_each = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether a step has been measured."""
        return self._most > 0

    def measure(self, latents: int) -> None:
        """Note what the step has taken that has just ended, of jobs with so many latents together."""
        if latents > self._most:
            self._most, self._bytes_each = latents, max(0, self.memory.peak() - self._idle) / latents

    def has(self, latents: int) -> bool:
        """Whether there is room for a step of jobs with so many latents together."""
        there_is = self.memory.used() + self.memory.free()
        return self._idle + self._bytes_each * latents <= (1 - RESERVED) * there_is


def room_on(device: torch.device) -> Room | None:
    """The room on a device; None if it cannot be told."""
    if device.type == "cuda":
        return Room(GPUMemory(device))
    return Room(ProcessMemory()) if Path("/proc/meminfo").exists() else None


def resident_bytes() -> int:
    """The resident memory of this process; 0 where the system does not tell."""
    try:
        return _kilobytes("/proc/self/status", "VmRSS")
    except OSError:
        return 0


def _kilobytes(path: str, name: str) -> int:
    """A figure of a file of /proc, in bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB", Path(path).read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
