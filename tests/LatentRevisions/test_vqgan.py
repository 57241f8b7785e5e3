from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from LatentRevisions import group_norm_kernels as kernels
from LatentRevisions.group_norm import GroupNorm, _backward, _forward
from LatentRevisions.vqgan import VQGAN, ResidualBlock
from mead.nn.frozen import freeze
from mead.nn.state_dict import StateDictError
from tests import parity

ODD = dict(
    ch=16, ch_mult=(2, 1, 3), num_res_blocks=1, attn_levels=(1,), z_channels=12, embed_dim=8, n_embed=20
)


def same_picture(one: VQGAN, other: VQGAN, image: torch.Tensor) -> bool:
    with torch.inference_mode():
        return all(
            torch.equal(a, b)
            for a, b in zip(one.quantise(one.encode(image)), other.quantise(other.encode(image)), strict=True)
        ) and torch.equal(one.decode(one.encode(image)), other.decode(other.encode(image)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "factor"), [("vqgan_small", 4), ("vqgan_imagenet_f16_16384", 16)])
def test_matches_the_published_implementation(name: str, factor: int) -> None:
    fixture = parity.load(name)
    vqgan = VQGAN.from_state_dict(fixture.state_dict)
    assert vqgan.factor == factor
    assert {key: tuple(tensor.shape) for key, tensor in vqgan.state_dict().items()} == fixture.shapes
    with torch.inference_mode():
        z = vqgan.encode(fixture["image"])
        quantised, indices = vqgan.quantise(fixture["z"])
        assert parity.error(z, fixture["z"]) < parity.TOLERANCE
        assert torch.equal(vqgan.quantise(z)[1], indices)
        assert parity.error(vqgan.decode(fixture["z"]), fixture["decoded_z"]) < parity.TOLERANCE
        assert parity.error(vqgan.decode(quantised), fixture["decoded_quantized"]) < parity.TOLERANCE
    differing = indices.flatten() != fixture["indices"]
    codes = vqgan.quantize.embedding.weight
    places = fixture["z"].permute(0, 2, 3, 1).flatten(0, 2)[differing]
    ours, theirs = (
        (places - codes[i.flatten()[differing]]).square().sum(1) for i in (indices, fixture["indices"])
    )
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)  # else they tie


@pytest.mark.parametrize("gumbel", [False, True])
def test_from_state_dict_restores_any_hyperparameters(gumbel: bool) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(**ODD, in_channels=1, out_channels=2, gumbel=gumbel).eval()
    restored = VQGAN.from_state_dict(vqgan.state_dict())
    image = torch.rand(2, 1, 16, 24) * 2 - 1
    assert same_picture(vqgan, restored, image)
    assert restored.decode(restored.encode(image)).shape == (2, 2, 16, 24)


def test_gumbel_takes_the_likeliest_code() -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(**ODD, gumbel=True).eval()
    z = torch.randn(2, 8, 3, 5)
    quantised, indices = vqgan.quantise(z)
    logits = (
        torch.einsum("nchw,kc->nhwk", z, vqgan.quantize.proj.weight[:, :, 0, 0]) + vqgan.quantize.proj.bias
    )
    assert torch.equal(indices, logits.argmax(-1))
    assert torch.equal(quantised[1, :, 2, 4], vqgan.quantize.embed.weight[indices[1, 2, 4]])


def test_keys_of_training_are_left_out_and_half_precision_is_widened() -> None:
    vqgan = VQGAN(**ODD)
    state_dict = {key: tensor.half() for key, tensor in vqgan.state_dict().items()}
    state_dict["loss.discriminator.main.0.weight"] = torch.zeros(3)
    restored = VQGAN.from_state_dict(state_dict)
    assert list(restored.state_dict()) == list(vqgan.state_dict())
    assert restored.quant_conv.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "key",
    [
        "encoder.conv_in.weight",
        "decoder.up.1.block.0.norm1.bias",
        "quantize.embedding.weight",
        "quant_conv.bias",
    ],
)
def test_a_missing_key_is_named(key: str) -> None:
    state_dict = VQGAN(**ODD).state_dict()
    del state_dict[key]
    with pytest.raises(StateDictError, match=key):
        VQGAN.from_state_dict(state_dict)


def test_a_key_of_another_shape_is_named() -> None:
    state_dict = VQGAN(**ODD).state_dict()
    state_dict["post_quant_conv.bias"] = torch.zeros(5)
    with pytest.raises(StateDictError, match=r"post_quant_conv.bias \(5,\) for \(12,\)"):
        VQGAN.from_state_dict(state_dict)


@pytest.mark.parametrize(("channels", "sides"), [(32, (1, 1)), (48, (5, 7)), (64, (61, 33)), (256, (40, 40))])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("swish", [False, True])
def test_norm_is_that_of_float64_but_for_rounding(
    channels: int, sides: tuple[int, int], dtype: torch.dtype, swish: bool
) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(channels, swish)
    norm.num_groups = channels // 8
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (4 * torch.randn(2, channels, *sides) + 3).to(dtype).requires_grad_()
    exact = F.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)
    exact = F.silu(exact) if swish else exact
    ours = norm(x)
    grad = torch.randn_like(exact)
    inputs = (x, norm.weight, norm.bias)
    ours_back = torch.autograd.grad(ours, inputs, grad.to(dtype))
    limit = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert ours.dtype == dtype and parity.error(ours, exact) < limit
    for one, other in zip(ours_back, torch.autograd.grad(exact, inputs, grad), strict=True):
        assert parity.error(one, other) < limit or other.abs().max() < 1e-2


def test_norm_takes_weights_in_the_format_of_its_features() -> None:
    torch.manual_seed(0)
    norm, x = GroupNorm(64).bfloat16(), torch.randn(1, 64, 4, 4).bfloat16()
    torch.nn.init.normal_(norm.weight)
    y = norm(x)
    assert parity.error(y, F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)) < 1e-2
    y.sum().backward()
    assert norm.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_stays_so(value: str) -> None:
    x = torch.zeros(1, 32, 8, 8)
    x[0, 3, 2, 2] = float(value)
    for dtype in (torch.bfloat16, torch.float32):
        assert not GroupNorm(32, swish=True)(x.to(dtype)).isfinite().all()


@pytest.mark.parametrize("side", [16, 31, 33])
@pytest.mark.parametrize("swish", [False, True])
def test_norm_rounds_the_same_in_any_batch_and_with_any_number_of_threads(side: int, swish: bool) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(64, swish=swish).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 64, side, side).bfloat16().to(memory_format=torch.channels_last)
    grad = torch.randn_like(x)

    def both_ways(part: slice) -> list[torch.Tensor]:
        leaf = x[part].clone().requires_grad_()
        y = norm(leaf)
        return [y.detach(), *torch.autograd.grad(y, leaf, grad[part])]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = both_ways(slice(3))
        torch.set_num_threads(2)
        for part in (slice(1), slice(1, 3), slice(3)):
            for one, whole in zip(both_ways(part), expected, strict=True):
                assert torch.equal(one, whole[part])
    finally:
        torch.set_num_threads(before)


def test_gradients_reach_z_and_codes() -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(**ODD)
    z = torch.randn(2, 8, 4, 4, requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = vqgan.decode(z).float().square().mean()
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.isfinite().all() and (gradient.flatten(1).abs().sum(1) > 0).all()
    quantised, _ = vqgan.quantise(z)
    quantised.square().mean().backward()
    assert z.grad is None and vqgan.quantize.embedding.weight.grad.abs().sum() > 0


def test_frozen_it_is_the_same_both_ways() -> None:
    torch.manual_seed(0)
    plain = VQGAN(32, (1, 2, 2), 1, (2,), z_channels=8, embed_dim=8, n_embed=16)
    frozen = VQGAN.from_state_dict(plain.state_dict()).freeze(torch.float32)
    z = torch.randn(2, 8, 3, 5, requires_grad=True)
    image = torch.randn(1, 3, 20, 12)
    ours, theirs = frozen.decode(z), plain.decode(z)
    grad = torch.randn_like(theirs)
    assert parity.error(ours, theirs) < 1e-5
    assert parity.error(frozen.encode(image), plain.encode(image)) < 1e-5
    (one,), (other,) = (torch.autograd.grad(y, z, grad) for y in (ours, theirs))
    assert parity.error(one, other) < 1e-5


def test_norm_groups_come_from_the_weights_and_are_32_where_they_say_nothing() -> None:
    torch.manual_seed(0)
    few = VQGAN(32, (1, 2), 1, (), z_channels=8, embed_dim=8, n_embed=16, norm_groups=2)
    weights = few.state_dict()
    image = torch.randn(1, 3, 16, 16)
    assert same_picture(few.eval(), VQGAN.from_state_dict({**weights, "norm_groups": torch.tensor(2)}), image)
    published = VQGAN.from_state_dict(weights)
    assert {module.num_groups for module in published.modules() if isinstance(module, GroupNorm)} == {32}
    assert not same_picture(few, published, image)


@pytest.mark.parametrize("swish", [False, True])
def test_norm_on_a_gpu_is_the_same_computation(swish: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 48, 5, 7).to(memory_format=torch.channels_last) * 2 + 3
    weight, bias = torch.randn(48), torch.randn(48)
    on_cpu = kernels.forward(x, weight, bias, 16, 1e-6, swish)
    for ours, theirs in zip(_forward(x, weight, bias, 16, 1e-6, swish), on_cpu, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    _, mean, rstd, lines = on_cpu
    grad = torch.randn_like(x)
    on_gpu = _backward(grad, x, weight, mean, rstd, lines, swish)
    for ours, theirs in zip(
        on_gpu, kernels.backward(grad, None, x, weight, mean, rstd, lines, swish), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [12, 32])
def test_gradients_of_a_shortcut_are_added(channels: int) -> None:
    """With 12 channels there is no kernel, as on a GPU."""
    torch.manual_seed(0)
    norm, x = GroupNorm(channels, swish=True), torch.randn(2, channels, 5, 7).requires_grad_()
    grad, skipped = torch.randn_like(x), torch.randn_like(x)
    (exact,) = torch.autograd.grad((norm(x) * grad).sum() + (x * skipped).sum(), x)
    with torch.no_grad():
        y, saved = norm.compute(x)
        torch.testing.assert_close(y, norm(x))
        torch.testing.assert_close(norm.gradient(grad, skipped, saved), exact)


@pytest.mark.parametrize(("channels", "out"), [(32, 32), (32, 48)])
def test_a_frozen_residual_block_is_the_block(channels: int, out: int) -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(channels, out), torch.randn(2, channels, 5, 7).requires_grad_()
    y = block(x)
    grad = torch.randn_like(y)
    (exact,) = torch.autograd.grad(y, x, grad)
    frozen = freeze(block, torch.float32)(x)
    torch.testing.assert_close(frozen, y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(frozen, x, grad)[0], exact, atol=1e-4, rtol=1e-4)


def test_norm_in_another_format_is_that_of_pytorch() -> None:
    norm, x = GroupNorm(32, swish=True).double(), torch.randn(1, 32, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(norm(x), F.silu(F.group_norm(x, 32, eps=norm.eps)))
