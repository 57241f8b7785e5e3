from __future__ import annotations

import copy

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional as F

from mead.nn.image_towers import freeze
from tests import parity

SIDE = 64
TOWERS = {
    "transformer": CLIPVisionCfg(layers=3, width=128, head_width=32, patch_size=16, image_size=SIDE),
    "gelu": CLIPVisionCfg(layers=2, width=64, head_width=16, patch_size=16, image_size=SIDE),
    "resnet": CLIPVisionCfg(layers=(1, 2, 2, 1), width=16, image_size=SIDE),
}


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> nn.Module:
    """An untrained tower of open_clip's whose normalisations do something."""
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=20, vocab_size=100, width=64, heads=1, layers=1)
    visual = (
        CLIP(16, TOWERS[request.param], text, quick_gelu=request.param != "gelu")
        .visual.requires_grad_(False)
        .eval()
    )
    for name, tensor in visual.state_dict().items():
        if "bn" in name or "downsample.1" in name or "ln_" in name:
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand_like(tensor))
        elif name.endswith("bias"):
            tensor.normal_(std=0.1)
    return visual


def looked_at(tower: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings, and the gradient of their first values."""
    images = images.clone().requires_grad_()
    embeddings = F.normalize(tower(images).float(), dim=1)
    embeddings[:, :3].sum().backward()
    assert images.grad is not None
    return embeddings.detach(), images.grad


def test_a_frozen_tower_computes_the_same(tower: nn.Module) -> None:
    images = torch.randn(3, 3, SIDE, SIDE)
    wanted = looked_at(tower, images)
    frozen = freeze(copy.deepcopy(tower), torch.float32)
    assert frozen.image_size == SIDE
    for found, value in zip(looked_at(frozen, images), wanted, strict=True):
        assert parity.error(found, value) < 1e-4
    half = freeze(tower, torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    for found, value in zip(looked_at(half, images), wanted, strict=True):
        assert F.cosine_similarity(found.flatten(1), value.flatten(1)).min() > 0.97


def test_a_frozen_tower_keeps_its_format_under_autocast(tower: nn.Module) -> None:
    frozen = freeze(tower, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = frozen(torch.randn(2, 3, SIDE, SIDE))
    assert embeddings.dtype == torch.float32
