from __future__ import annotations

import math

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from mead.nn.perceptor import VOCABULARY, Perceptor, expand
from mead.nn.state_dict import StateDict, StateDictError
from mead.nn.text_tower import FrozenTextTower
from tests import parity


def clip(vision: CLIPVisionCfg) -> Perceptor:
    """A small untrained CLIP with the given image tower."""
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=20, vocab_size=VOCABULARY, width=64, heads=1, layers=1)
    return Perceptor(CLIP(16, vision, text, quick_gelu=True)).eval()


@pytest.fixture(scope="module")
def small() -> Perceptor:
    return clip(CLIPVisionCfg(layers=1, width=64, patch_size=8, image_size=32))


def compact(state_dict: StateDict, ids: list[int]) -> dict[str, torch.Tensor]:
    """Only the rows of `ids`, and last their mean for all other tokens."""
    rows = state_dict["token_embedding.weight"][ids]
    return {
        **state_dict,
        "tokens": torch.tensor(ids),
        "token_embedding.weight": torch.cat([rows, rows.mean(0, keepdim=True)]),
    }


@pytest.mark.slow
def test_matches_the_published_implementation() -> None:
    fixture = parity.load("clip_vit_b_32")
    state_dict = fixture.state_dict | {"logit_scale": torch.tensor(math.log(100))}
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": VOCABULARY}
    perceptor = Perceptor.from_state_dict(
        state_dict | {key: torch.tensor(size) for key, size in sizes.items()}
    )
    assert perceptor.input_size == 224
    assert {
        key: tuple(tensor.shape) for key, tensor in perceptor.model.state_dict().items()
    } == fixture.shapes
    with torch.inference_mode():
        image_features = perceptor.model.encode_image(fixture["image"])
        text_features = perceptor.encode_tokens(fixture["tokens"])
        assert parity.error(image_features, fixture["image_features"]) < parity.TOLERANCE
        assert parity.error(text_features, fixture["text_features"]) < parity.TOLERANCE
        unit = torch.nn.functional.normalize(image_features, dim=1)
        images = fixture["image"] * perceptor.std + perceptor.mean
        assert parity.error(perceptor.embed_image(images), unit) < parity.TOLERANCE
    assert not any(parameter.requires_grad for parameter in perceptor.parameters()) and not perceptor.training


def test_from_state_dict_restores_a_small_one(small: Perceptor) -> None:
    restored = Perceptor.from_state_dict(small.model.state_dict())
    assert restored.input_size == 32
    images, texts = torch.rand(2, 3, 32, 32), ["a red circle", "night"]
    with torch.inference_mode():
        assert parity.error(restored.embed_image(images), small.embed_image(images)) < 1e-5
        assert parity.error(restored.embed_text(texts), small.embed_text(texts)) < 1e-5


@pytest.mark.slow
def test_from_state_dict_restores_a_convolutional_image_tower() -> None:
    perceptor = clip(CLIPVisionCfg(layers=(1, 1, 2, 1), width=8, image_size=64))
    restored = Perceptor.from_state_dict(perceptor.model.state_dict())
    assert restored.input_size == 64
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert parity.error(restored.embed_image(images), perceptor.embed_image(images)) < 1e-5


def test_the_compact_form_keeps_what_texts_of_known_words_mean(small: Perceptor) -> None:
    state_dict = small.model.state_dict()
    known = ["a red circle", "a house at night"]
    ids = small.tokenise(known).unique().tolist()
    little = compact(state_dict, ids)
    restored = Perceptor.from_state_dict(little)
    with torch.inference_mode():
        assert parity.error(restored.embed_text(known), small.embed_text(known)) < 1e-5
        strange = restored.embed_text(["a zebra circle", "a giraffe circle"])  # words it never saw
    assert parity.error(strange[0], strange[1]) < 1e-5
    table = restored.model.token_embedding.weight
    assert table.shape == (VOCABULARY, 64)
    assert torch.equal(table[ids], state_dict["token_embedding.weight"][ids])
    assert torch.equal(table[1234], little["token_embedding.weight"][-1])


def test_half_precision_is_widened_and_the_table_of_words_stays(small: Perceptor) -> None:
    half = {key: tensor.half() for key, tensor in small.model.state_dict().items()}
    texts = ["a red circle", "a house at night"]
    restored, widened = (
        Perceptor.from_state_dict(each) for each in (half, {key: half[key].float() for key in half})
    )
    kept = [name for name, weight in restored.named_parameters() if weight.dtype != torch.float32]
    assert kept == ["model.token_embedding.weight"]
    assert not any(weight.requires_grad for weight in restored.parameters())
    tokens = restored.tokenise(texts)
    assert torch.equal(restored.embed_text(texts), widened.embed_text(texts))
    one, other = (FrozenTextTower(each.model, torch.bfloat16)(tokens) for each in (restored, widened))
    assert torch.equal(one, other)


def test_expand_names_tokens_that_do_not_fit(small: Perceptor) -> None:
    state_dict = small.model.state_dict()
    assert expand(state_dict)["token_embedding.weight"] is state_dict["token_embedding.weight"]
    little = compact(state_dict, [1, 2])
    for tokens in ([1, 2, 3], [1, VOCABULARY], [-1, 2]):
        with pytest.raises(StateDictError, match="tokens"):
            expand(little | {"tokens": torch.tensor(tokens)})


@pytest.mark.parametrize(
    "key", ["visual.conv1.weight", "ln_final.bias", "token_embedding.weight", "text_projection"]
)
def test_a_missing_key_is_named(small: Perceptor, key: str) -> None:
    state_dict = {name: tensor for name, tensor in small.model.state_dict().items() if name != key}
    with pytest.raises(StateDictError, match=key):
        Perceptor.from_state_dict(state_dict)


@pytest.mark.parametrize(
    "text", ["", "word " * 400, "猫" * 500, "🎨🐈 <b>&amp;</b>", "Ünïcödé\n\tزهرة", "x" * 2000]
)
def test_any_text_fits(small: Perceptor, text: str) -> None:
    (tokens,) = small.tokenise([text])
    assert tokens.shape == (20,)
    assert VOCABULARY - 1 in tokens  # the end, where CLIP reads the embedding
    with torch.inference_mode():
        assert torch.allclose(small.embed_text([text]).norm(dim=1), torch.ones(1))


def test_images_of_any_size_are_resized_with_antialiasing(small: Perceptor) -> None:
    stripes = torch.zeros(1, 3, 256, 256)
    stripes[..., ::2] = 1  # averages to grey; without antialiasing it would be all black or white
    with torch.inference_mode():
        grey = small.embed_image(torch.full((1, 3, 32, 32), 0.5))
        assert (small.embed_image(stripes) @ grey.mT).item() > 0.99
        assert (small.embed_image(torch.ones(1, 3, 40, 90)) @ grey.mT).item() < 0.99


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_reach_the_image(small: Perceptor, bfloat16: bool) -> None:
    images = torch.rand(2, 3, 48, 48, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        embeddings = small.embed_image(images)
    embeddings[:, 0].sum().backward()
    assert embeddings.dtype == torch.float32
    assert images.grad is not None and (images.grad.flatten(1).abs().sum(1) > 0).all()
