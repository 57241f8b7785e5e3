"""One training: how long it goes on, what it saves, how it resumes, what it prints."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from math import cos, pi
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from mead.nn.precision import Precision

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(os.environ.get("TRAINING_RUNS", ROOT / "training" / "runs"))
DEMO = ROOT / "weights" / "demo"
SAVE_EVERY = 180.0  # seconds
PRINT_EVERY = 20.0


class Stateful(Protocol):
    """A module, an optimiser: whatever can be put down and taken up again."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Run:
    """Iterate over it for step numbers; it ends when `minutes` of training are done, in however many runs.

    They are minutes of processor time of the thread that iterates: a machine busy with other things makes a
    training longer, not worse.

    The state is saved every few minutes and at the end to `RUNS/NAME.pt`; the same command goes on from
    there, and a larger `minutes` trains on.
    """

    def __init__(self, name: str, minutes: float, parts: Mapping[str, Stateful]) -> None:
        self.path = RUNS / f"{name}.pt"
        self.minutes = minutes
        self.parts = parts
        self.step = 0
        self.seconds = 0.0  # of training, over all parts
        self._losses: dict[str, float] = {}
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            for key, part in parts.items():
                part.load_state_dict(saved[key])
            self.step, self.seconds = saved["step"], saved["seconds"]
            print(
                f"{name}: going on from step {self.step}, {self.seconds / 60:.1f} of {minutes} min",
                flush=True,
            )

    @property
    def done(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        return min(1.0, self.seconds / (60 * self.minutes)) if self.minutes else 1.0

    def rate(self, peak: float, warm_up: int = 200, floor: float = 0.02) -> float:
        """A learning rate: up over `warm_up` steps, then down along a cosine to `floor` times the peak."""
        fall = floor + (1 - floor) * (1 + cos(pi * self.done)) / 2
        return peak * fall * min(1.0, (self.step + 1) / warm_up)

    def log(self, **losses: float | torch.Tensor) -> None:
        """Keep running means, printed now and then."""
        for key, loss in losses.items():
            value = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
            old = self._losses.get(key, value)
            self._losses[key] = old + 0.02 * (value - old)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        state = {key: part.state_dict() for key, part in self.parts.items()}
        torch.save({**state, "step": self.step, "seconds": self.seconds}, partial)
        partial.replace(self.path)

    def __iter__(self) -> Iterator[int]:
        last, saved = time.thread_time(), time.monotonic()
        printed = saved
        while self.done < 1:
            yield self.step
            done, now = time.thread_time(), time.monotonic()
            self.step += 1
            self.seconds += done - last
            last = done
            if now - printed > PRINT_EVERY:
                values = "  ".join(f"{key} {value:.4f}" for key, value in self._losses.items())
                print(f"{self.path.stem} step {self.step}  {self.seconds / 60:.1f} min  {values}", flush=True)
                printed = now
            if now - saved > SAVE_EVERY:
                self.save()
                saved = now
        self.save()


class Average:
    """An exponential moving average of a module's weights: what is exported, better than any one step's."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.998) -> None:
        self.module, self.decay, self.updates = module, decay, 0
        self.weights = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.weights, self.updates = state["weights"], state["updates"]


@torch.no_grad()
def take_over(name: str, module: torch.nn.Module) -> None:
    """Begin where the weights that ship end: copy into `module` whatever of them still fits it."""
    own = module.state_dict()
    fitting = {
        key: value
        for key, value in load_file(DEMO / f"{name}.safetensors").items()
        if key in own and own[key].shape == value.shape
    }
    module.load_state_dict(fitting, strict=False)
    print(f"{name}: {len(fitting)} of {len(own)} tensors taken over", flush=True)


def export(name: str, weights: Mapping[str, torch.Tensor], folder: Path = DEMO) -> Path:
    """Write `weights` as fp16 safetensors to `folder/NAME.safetensors`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous().clone()
        for key, value in weights.items()
    }
    path = folder / f"{name}.safetensors"
    partial = path.with_suffix(".partial")
    save_file(halves, partial)
    partial.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return path


def autocast() -> AbstractContextManager[None]:
    """What passes through the networks run under: bfloat16 only where the processor computes in it."""
    return Precision(torch.device("cpu")).autocast()


def arguments(
    description: str | None, minutes: float, batch: int, names: Sequence[str] = ()
) -> argparse.Namespace:
    """The options every training has.

    Args:
        names: of what may be trained one by one, with `--name`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="training time in all (default %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default %(default)s)")
    parser.add_argument("--onward", action="store_true", help="begin with what fits of the weights that ship")
    parser.add_argument(
        "--export", action="store_true", help="only write the weights of the last saved state"
    )
    if names:
        parser.add_argument("--name", nargs="+", choices=names, default=[], help="one or several")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options
