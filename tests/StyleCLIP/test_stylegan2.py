from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from mead.nn.state_dict import StateDictError
from StyleCLIP import feature_maps
from StyleCLIP.frozen_generator import FrozenGenerator
from StyleCLIP.stylegan2 import Generator
from tests import parity

WIDTHS = {4: 24, 8: 24, 16: 20, 32: 12}


def small() -> Generator:
    torch.manual_seed(0)
    generator = Generator(32, 10, 3, WIDTHS)
    with torch.no_grad():  # what starts at zero would hide a mistake
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise.weight")):
                parameter.normal_()
    return generator


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_latent"), [("stylegan2_small", 8), ("stylegan2_ffhq_1024", 18)])
def test_matches_the_published_implementation(name: str, n_latent: int) -> None:
    fixture = parity.load(name)
    kernels = {"convs.0.conv.blur.kernel": torch.ones(4, 4), "to_rgbs.0.upsample.kernel": torch.ones(4, 4)}
    generator = Generator.from_state_dict(fixture.state_dict | kernels)
    frozen = generator.freeze(torch.float32)
    assert generator.n_latent == frozen.n_latent == n_latent
    assert {key: tuple(tensor.shape) for key, tensor in generator.state_dict().items()} == fixture.shapes
    with torch.inference_mode():
        images = generator.synthesise(fixture["w_plus"]), frozen.synthesise(fixture["w_plus"])
        assert parity.error(generator.map(fixture["z"]), fixture["w"]) < parity.TOLERANCE
    centre = slice(generator.size // 2 - 16, generator.size // 2 + 16)
    for image in images:
        pooled = F.adaptive_avg_pool2d(image, fixture["image_pooled"].shape[-1])
        assert parity.error(pooled, fixture["image_pooled"]) < parity.TOLERANCE
        assert parity.error(image[..., centre, centre], fixture["image_crop"]) < parity.TOLERANCE


def test_styles_are_the_published_ones() -> None:
    fixture = parity.load("stylespace_64")
    generator = Generator.from_state_dict(fixture.state_dict)
    for network in (generator, generator.freeze(torch.float32)):
        with torch.inference_mode():
            styles = network.styles(fixture["w_plus"])
            assert parity.error(torch.cat(styles, 1)[0], fixture["styles"]) < parity.TOLERANCE
            for i in (1, 2, 4):
                styles[i][:, ::7] += 0.5
            image = F.adaptive_avg_pool2d(network.synthesise_styles(styles), 32)
        assert parity.error(image, fixture["changed_image_pooled"]) < parity.TOLERANCE


def test_from_state_dict_restores_any_hyperparameters() -> None:
    generator = small()
    restored = Generator.from_state_dict(generator.state_dict())
    assert (restored.size, restored.style_dim, restored.n_latent) == (32, 10, 8)
    with torch.inference_mode():
        w = generator.map(torch.randn(3, 10))
        assert torch.equal(
            generator.synthesise(generator.broadcast(w)), restored.synthesise(restored.broadcast(w))
        )


def test_a_picture_does_not_depend_on_its_batch() -> None:
    generator = small()
    w_plus = torch.randn(4, 8, 10)
    with torch.inference_mode():
        batch = generator.synthesise(w_plus)
        alone = torch.cat([generator.synthesise(w[None]) for w in w_plus])
    assert parity.error(batch, alone) < 1e-5


def test_noise_is_stored_given_or_drawn() -> None:
    generator = small()
    w_plus = torch.randn(2, 8, 10)
    stored = [noise.clone() for noise in generator.noises.buffers()]
    one, same = (generator.draw_noise(2, torch.Generator().manual_seed(5)) for _ in range(2))
    with torch.inference_mode():
        assert torch.equal(generator.synthesise(w_plus), generator.synthesise(w_plus, stored))
        assert torch.equal(generator.synthesise(w_plus, one), generator.synthesise(w_plus, same))
        assert not torch.equal(generator.synthesise(w_plus), generator.synthesise(w_plus, one))


@pytest.mark.parametrize(
    "key", ["input.input", "convs.2.conv.weight", "to_rgbs.1.bias", "style.3.bias", "noises.noise_4"]
)
def test_a_missing_key_is_named(key: str) -> None:
    state_dict = small().state_dict()
    del state_dict[key]
    with pytest.raises(StateDictError, match=key):
        Generator.from_state_dict(state_dict)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        Generator(24, 10, 3, WIDTHS)
    with pytest.raises(ValueError, match="widths"):
        Generator(64, 10, 3, WIDTHS)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_reach_w_plus(bfloat16: bool) -> None:
    generator = small()
    w_plus = torch.randn(2, 8, 10, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        image = generator.synthesise(w_plus)
    image.square().mean().backward()
    assert image.dtype == torch.float32
    assert w_plus.grad is not None and w_plus.grad.isfinite().all()
    assert (w_plus.grad.abs().sum(2) > 0).all()  # every code of every picture


def test_gradients_of_gradients_reach_the_weights() -> None:
    generator = small()  # as path length regularisation needs them
    w_plus = torch.randn(2, 8, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator.synthesise(w_plus).sum(), w_plus, create_graph=True)
    gradient.square().sum().backward()
    assert generator.convs[0].conv.weight.grad.abs().sum() > 0


def gradient(generator: Generator | FrozenGenerator, w_plus: torch.Tensor) -> torch.Tensor:
    """That of a weighted sum of all pixels."""
    w_plus = w_plus.clone().requires_grad_()
    image = generator.synthesise(w_plus)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    (image * weights).sum().backward()
    assert w_plus.grad is not None
    return w_plus.grad


@pytest.mark.parametrize("strip", [1, 2000, 2**22])
def test_a_frozen_generator_is_the_same_in_strips_of_any_height(
    monkeypatch: pytest.MonkeyPatch, strip: int
) -> None:
    monkeypatch.setattr(feature_maps, "STRIP", strip)  # bytes
    generator = small()
    frozen = generator.freeze(torch.float32)
    w_plus = torch.randn(2, 8, 10)
    with torch.no_grad():
        image = frozen.synthesise(w_plus)
        assert parity.error(image, generator.synthesise(w_plus)) < 1e-5
    for _ in range(2):  # in fresh memory, and in that of the picture before
        assert parity.error(gradient(frozen, w_plus), gradient(generator, w_plus)) < 1e-5
    with torch.no_grad():
        assert torch.equal(frozen.synthesise(w_plus), image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_generators_picture_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    frozen = small().freeze(dtype)
    w_plus = torch.randn(3, 8, 10)
    with torch.no_grad():
        assert torch.equal(frozen.synthesise(w_plus)[1], frozen.synthesise(w_plus[1:2])[0])


def test_a_frozen_generator_in_bfloat16_stays_close() -> None:
    generator = small()
    w_plus = torch.randn(2, 8, 10)
    frozen = generator.freeze(torch.bfloat16)
    with torch.no_grad():
        assert parity.error(frozen.synthesise(w_plus), generator.synthesise(w_plus)) < 0.03
    found, expected = gradient(frozen, w_plus).flatten(), gradient(generator, w_plus).flatten()
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


def test_styles_of_zero_have_gradients() -> None:
    generator = small()
    generator.conv1.conv.modulation.weight.data.zero_()
    generator.conv1.conv.modulation.bias.data[:5] = 0
    w_plus = torch.randn(1, 8, 10)
    styles = generator.styles(w_plus)
    expected, found = (
        torch.autograd.grad(network.synthesise_styles(leaves).square().sum(), leaves)[0]
        for network in (generator, generator.freeze(torch.float32))
        for leaves in [[style.detach().requires_grad_() for style in styles]]
    )
    assert parity.error(found, expected) < 1e-4


def test_threads_share_a_frozen_generator() -> None:
    frozen = small().freeze(torch.float32)
    several = [torch.randn(1, 8, 10) for _ in range(8)]
    expected = [gradient(frozen, w_plus) for w_plus in several]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, [frozen] * 32, several * 4))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 4, strict=True))
