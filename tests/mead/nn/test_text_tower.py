"""The frozen text tower: what open_clip's makes of texts, which stays as it is."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch.nn import functional as F

from mead.nn.attention import attend
from mead.nn.perceptor import VOCABULARY, Perceptor
from mead.nn.text_tower import FrozenTextTower

TEXTS = ["a face", "a photo of a face with glasses", "an old face"]


@pytest.fixture(params=[True, False], ids=["quick", "gelu"])
def perceptor(request: pytest.FixtureRequest) -> Perceptor:
    """An untrained one whose layers all do something."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=32)
    text = CLIPTextCfg(context_length=20, vocab_size=VOCABULARY, width=64, heads=2, layers=3)
    model = CLIP(16, vision, text, quick_gelu=request.param).requires_grad_(False).eval()
    for name, tensor in model.state_dict().items():
        if "ln_" in name or name.endswith("bias"):
            tensor.normal_(std=0.3)
    return Perceptor(model)


def test_it_reads_as_open_clip_does(perceptor: Perceptor) -> None:
    before = perceptor.embed_text(TEXTS)
    tokens = perceptor.tokenise(TEXTS)
    exact = FrozenTextTower(perceptor.model, torch.float32)(tokens)
    assert torch.allclose(exact, before, atol=1e-5)
    rounded = FrozenTextTower(perceptor.model, torch.bfloat16)(tokens)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (F.cosine_similarity(rounded, before) > 0.999).all()
    assert torch.equal(perceptor.embed_text(TEXTS), before)  # it is left as it was


def test_what_follows_a_text_changes_nothing(perceptor: Perceptor) -> None:
    tower = FrozenTextTower(perceptor.model, torch.float32)
    alone = tower(perceptor.tokenise(TEXTS[:1]))
    assert torch.allclose(tower(perceptor.tokenise(TEXTS))[:1], alone, atol=1e-6)


def test_attention_to_none_after() -> None:
    queries, keys, values = torch.randn(3, 2, 4, 5, 8).unbind()
    causal = attend(queries, keys, values, causal=True)
    for n in range(1, 6):
        part = attend(queries[..., n - 1 : n, :], keys[..., :n, :], values[..., :n, :])
        assert torch.allclose(causal[..., n - 1 : n, :], part, atol=1e-6)
