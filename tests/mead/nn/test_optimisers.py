"""Optimisers that do not import PyTorch's compiler: the same steps, bit by bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from mead.nn import optimisers
from tests.conftest import ROOT

OPTIONS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "SGD": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_they_take_the_steps_of_pytorchs(name: str) -> None:
    def taken(module: Any, steps: int, interrupted: bool = False) -> torch.Tensor:
        x = torch.linspace(-2, 3, 50, requires_grad=True)
        optimiser = getattr(module, name)([x], **OPTIONS[name])
        for step in range(steps):
            if interrupted and step == 3:
                told = optimiser.state_dict()
                optimiser = getattr(module, name)([x], **OPTIONS[name])
                optimiser.load_state_dict(told)
            optimiser.zero_grad()
            (x.sin() * x).sum().backward()
            optimiser.step()
        return x

    assert torch.equal(taken(optimisers, 6), taken(torch.optim, 6))
    assert torch.equal(taken(optimisers, 6, interrupted=True), taken(torch.optim, 6))


@pytest.mark.slow
def test_a_picture_needs_no_compiler_and_no_other_networks() -> None:
    """Importing them would take longer than importing PyTorch."""
    code = """if True:
        import sys
        import torch
        from LatentRevisions.pipeline import load_pipeline
        from LatentRevisions.params import LatentRevisionsParams
        from StyleCLIP.params import StyleCLIPParams
        from StyleCLIP.StyleCLIP import load_pipeline as load_faces
        from mead.revision import run
        house = LatentRevisionsParams(prompt="a house", iterations=1, size=(64, 64))
        run(load_pipeline("demo", "cpu"), house)
        run(load_faces("demo", "cpu"), StyleCLIPParams(prompt="a smile", iterations=1))
        heavy = {"torch._dynamo", "sympy", "open_clip", "torchvision", "timm"} & sys.modules.keys()
        assert not heavy, heavy
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
