"""Published weight files, converted, give the numbers of the published networks."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file
from torch.nn import functional as F

from LatentRevisions.vqgan import VQGAN
from mead.nn.perceptor import VOCABULARY
from mead.nn.state_dict import StateDictError
from mead.weights import conversion
from mead.weights.building import build_network
from mead.weights.checkpoints import CheckpointError
from mead.weights.sets import FOLDER, WeightSet
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.identity import Identity
from StyleCLIP.stylegan2 import Generator
from tests import full_size, originals, parity

DEMO = list(WeightSet.find("demo", FOLDER / "manifest.toml").files)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone after the test: full-size networks fill a disk."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def converted(original: Path, network: str) -> dict[str, torch.Tensor]:
    """Convert one network and read what came of it."""
    target = original.with_name("converted") / f"{network}.safetensors"
    conversion.convert(original, network, target)
    return load_file(target)


def description(original: Path, network: str) -> dict[str, Any]:
    return json.loads((original.with_name("converted") / f"{network}.json").read_text("utf-8"))


# Every format, against the published numbers


def test_vqgan_of_a_lightning_checkpoint(folder: Path) -> None:
    fixture = parity.load("vqgan_small")
    original = folder / "last.ckpt"
    originals.vqgan(fixture.state_dict, original)
    assert conversion.networks(original) == ("vqgan",)
    tensors = converted(original, "vqgan")
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == fixture.shapes
    vqgan = VQGAN.from_state_dict(tensors)
    with torch.inference_mode():
        z = vqgan.encode(fixture["image"])
        assert parity.error(z, fixture["z"]) < parity.TOLERANCE
        assert parity.error(vqgan.decode(fixture["z"]), fixture["decoded_z"]) < parity.TOLERANCE
    about = description(original, "vqgan")
    assert about["original"]["format"] == "torch.save archive"
    assert about["training"]["hyper_parameters"] == {
        "ch_mult": [1, 1, 2, 2, 4],
        "losses": {},
        "device": "cpu",
    }


@pytest.mark.parametrize("network", DEMO)
def test_a_file_of_the_demo_set_is_known_for_what_it_is(folder: Path, network: str) -> None:
    original = WeightSet.find("demo").files[network].path
    assert conversion.networks(original) == (network,)
    conversion.convert(original, network, folder / "again.safetensors")
    build_network(network, load_file(folder / "again.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "networks"),
    [("e4e_ffhq_encode.pt", ("stylegan2", "e4e")), ("model_ir_se50.pth", ("identity",))],
)
def test_published_files_at_full_size(name: str, networks: tuple[str, ...], folder: Path) -> None:
    """The other two are in tests/test_full_weights.py, where they are fetched before."""
    original = folder / name
    full_size.write(name, original)
    assert conversion.networks(original) == networks
    for network in networks:
        numbers = full_size.errors(network, build_network(network, converted(original, network)))
        assert numbers and max(numbers.values()) < parity.TOLERANCE, numbers


def check_generator(generator: Generator, fixture: parity.Fixture) -> None:
    with torch.inference_mode():
        assert parity.error(generator.map(fixture["z"]), fixture["w"]) < parity.TOLERANCE
        image = generator.synthesise(fixture["w_plus"])
    pooled = F.adaptive_avg_pool2d(image, fixture["image_pooled"].shape[-1])
    assert parity.error(pooled, fixture["image_pooled"]) < parity.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stylegan2", "basicsr"])
def test_stylegan2_takes_the_averaged_generator(layout: str, folder: Path) -> None:
    fixture = parity.load("stylegan2_small")
    original = folder / "550000.pt"
    getattr(originals, layout)(fixture.state_dict, original)
    assert conversion.networks(original) == ("stylegan2",)
    check_generator(Generator.from_state_dict(converted(original, "stylegan2")), fixture)


def nvidia_state_dict() -> dict[str, torch.Tensor]:
    """The fixture's weights; the rule leaves numbers without an axis at 0, the published run had 0.5."""
    state_dict = parity.load("stylegan2_nvidia_small").state_dict
    return {
        key: torch.tensor(0.5) if key.endswith("noise_strength") else tensor
        for key, tensor in state_dict.items()
    }


def test_stylegan2_of_a_pickle_of_nvidias(folder: Path) -> None:
    fixture = parity.load("stylegan2_nvidia_small")
    original = folder / "network-snapshot.pkl"
    originals.nvidia(nvidia_state_dict(), original)
    assert conversion.networks(original) == ("stylegan2",)
    generator = Generator.from_state_dict(converted(original, "stylegan2"))
    with torch.inference_mode():
        assert parity.error(generator.map(fixture["z"]), fixture["w"]) < parity.TOLERANCE
        assert parity.error(generator.synthesise(fixture["w_plus"]), fixture["image"]) < parity.TOLERANCE


@pytest.mark.parametrize("release", ["mixer", "mixer_module"])
def test_a_feed_forward_start_of_either_release(release: str, folder: Path) -> None:
    fixture = parity.load("mixer_small")
    original = folder / "cc12m_mlp_mixer.th"
    getattr(originals, release)(fixture.state_dict, original)
    assert conversion.networks(original) == ("start",)
    mixer = build_network("start", converted(original, "start"))
    with torch.inference_mode():
        assert parity.error(mixer(fixture["embedding"]), fixture["z"]) < parity.TOLERANCE
    about = description(original, "start")
    assert about["class"] == "LatentRevisions.mixer.Mixer"
    more = {"depth": 32, "augs": ["Af", "Pe"]} if release == "mixer" else {}
    assert about["training"]["config"] == {"model_type": "mlp_mixer", **more}


# Variants: the published plans, with fewer channels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ch_mult", "attn_levels", "n_embed", "gumbel", "factor"),
    [
        ((1, 1, 2, 2, 4), (4,), 1024, False, 16),
        ((1, 1, 2, 2, 4), (4,), 16_384, False, 16),
        ((1, 1, 2, 4), (3,), 8192, True, 8),
    ],
    ids=["f16-1024", "f16-16384", "gumbel f8-8192"],
)
def test_variants_of_vqgan(
    ch_mult: tuple[int, ...],
    attn_levels: tuple[int, ...],
    n_embed: int,
    gumbel: bool,
    factor: int,
    folder: Path,
) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(32, ch_mult, 2, attn_levels, 16, 16, n_embed, gumbel=gumbel).eval()
    state_dict = vqgan.state_dict()
    originals.vqgan(state_dict, folder / "last.ckpt")
    tensors = converted(folder / "last.ckpt", "vqgan")
    assert tensors.keys() == state_dict.keys()  # without the losses' networks
    read = VQGAN.from_state_dict(tensors)
    assert (read.factor, read.n_embed) == (factor, n_embed)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        codes, indices = vqgan.quantise(vqgan.encode(image))
        read_codes, read_indices = read.quantise(read.encode(image))
        assert torch.equal(indices, read_indices) and torch.equal(codes, read_codes)
        assert torch.equal(vqgan.decode(codes), read.decode(codes))
    assert description(folder / "last.ckpt", "vqgan")["hyperparameters"] == {
        "factor": factor,
        "embed_dim": 16,
        "n_embed": n_embed,
    }


@pytest.mark.parametrize(("size", "n_latent"), [(256, 14), (512, 16), (1024, 18)])
def test_sizes_of_stylegan2(size: int, n_latent: int, folder: Path) -> None:
    torch.manual_seed(0)
    widths = {side: max(4, min(32, 2048 // side)) for side in (2**i for i in range(2, size.bit_length()))}
    state_dict = Generator(size, 16, 8, widths).state_dict()
    originals.stylegan2(state_dict, folder / "g.pt")
    generator = Generator.from_state_dict(converted(folder / "g.pt", "stylegan2"))
    assert (generator.size, generator.n_latent) == (size, n_latent)
    assert all(torch.equal(tensor, state_dict[key]) for key, tensor in generator.state_dict().items())


def test_half_precision_is_kept_and_what_is_the_same_stays_the_same(folder: Path) -> None:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=64)
    text = CLIPTextCfg(context_length=20, vocab_size=100, width=64, heads=1, layers=1)
    state_dict = {key: tensor.clone() for key, tensor in CLIP(16, vision, text).state_dict().items()}
    for key, tensor in state_dict.items():
        if key.endswith(("proj.weight", "projection")):
            state_dict[key] = tensor.half()
    originals.clip(state_dict, folder / "RN.pt")
    tensors = converted(folder / "RN.pt", "clip")
    assert tensors.keys() == state_dict.keys()
    for key, tensor in tensors.items():
        assert tensor.dtype == state_dict[key].dtype and torch.equal(tensor, state_dict[key]), key
    about = description(folder / "RN.pt", "clip")
    assert about["dtypes"] == ["float16", "float32", "int64"]
    assert about["hyperparameters"] == {"input_size": 64, "context_length": 20, "embed_dim": 16}
    assert about["original"] == {
        "name": "RN.pt",
        "size": (folder / "RN.pt").stat().st_size,
        "format": "TorchScript archive",
    }
    assert build_network("clip", tensors).input_size == 64
    before = {path.name: path.read_bytes() for path in (folder / "converted").iterdir()}
    converted(folder / "RN.pt", "clip")
    assert {path.name: path.read_bytes() for path in (folder / "converted").iterdir()} == before


def open_clip(quick_gelu: bool = False) -> CLIP:
    """A small one with other heads than OpenAI's."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, head_width=16, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=20, vocab_size=VOCABULARY, width=64, heads=2, layers=1)
    return CLIP(16, vision, text, quick_gelu=quick_gelu).eval()


OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 20, "width": 64, "heads": 2, "layers": 1},
}
COLOURS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5]}


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_checkpoint_of_open_clip_is_what_its_configuration_says(quick_gelu: bool, folder: Path) -> None:
    model = open_clip(quick_gelu)
    state_dict = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 32, "name": "run", "state_dict": state_dict, "optimizer": {}}, folder / "clip.pt")
    config = OPEN_CLIP | {"quick_gelu": quick_gelu}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": COLOURS | {"resize_mode": "shortest"}})
    )
    perceptor = build_network("clip", converted(folder / "clip.pt", "clip"))
    images, texts = torch.rand(2, 3, 32, 32), ["a red circle", "night"]
    colours = [torch.tensor(COLOURS[name]).view(3, 1, 1) for name in ("mean", "std")]
    with torch.inference_mode():
        seen = model.encode_image((images - colours[0]) / colours[1], normalize=True)
        assert parity.error(perceptor.embed_image(images), seen) < 1e-5
        said = model.encode_text(perceptor.tokenise(texts))
        assert parity.error(perceptor.encode_text(texts), said) < 1e-5
        frozen = perceptor.freeze(torch.float32)
        assert parity.error(frozen.embed_image(images), seen) < 1e-4


def test_without_a_configuration_a_clip_is_taken_to_be_openais(folder: Path) -> None:
    torch.save(open_clip().state_dict(), folder / "clip.pt")
    said: list[str] = []
    conversion.convert(folder / "clip.pt", "clip", folder / "clip.safetensors", said.append)
    assert said == [
        "clip.pt: clip is taken to be like OpenAI's, with quick GELUs; if open_clip made it, put its "
        "open_clip_config.json beside it"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "does not describe a CLIP"),
        (
            '{"model_cfg": {"vision_cfg": {"layers": 1}}}',
            "does not describe a CLIP: model_cfg.vision_cfg.width",
        ),
        (json.dumps(OPEN_CLIP | {"text_cfg": {"layers": 1, "width": 64, "heads": 3}}), "divisible"),
    ],
)
def test_a_configuration_that_is_wrong_is_named(text: str, says: str, folder: Path) -> None:
    torch.save(open_clip().state_dict(), folder / "clip.pt")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        converted(folder / "clip.pt", "clip")


@pytest.mark.parametrize("name", ["RN50", "ViT-B-16"])
def test_sizes_of_openais_other_clips(name: str, folder: Path) -> None:
    """In the layout of their archives, with the published numbers of layers, and few channels."""
    visions = {
        "RN50": CLIPVisionCfg(layers=(3, 4, 6, 3), width=8, image_size=224),
        "ViT-B-16": CLIPVisionCfg(layers=12, width=64, patch_size=16, image_size=224),
    }
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=77, vocab_size=100, width=64, heads=1, layers=12)
    model = CLIP(64, visions[name], text, quick_gelu=True).eval()
    originals.clip(model.state_dict(), folder / f"{name}.pt")
    perceptor = build_network("clip-more", converted(folder / f"{name}.pt", "clip-more"))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        seen = model.encode_image(perceptor.normalise(image), normalize=True)
        assert parity.error(perceptor.embed_image(image), seen) < 1e-5


def small_identity() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Identity(widths=(8, 12), blocks=(1, 1), embed_dim=10, input_size=16).state_dict()


@pytest.mark.parametrize("around", ["bare", "DataParallel", "state_dict", "safetensors"])
def test_a_network_is_found_wherever_it_is(around: str, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors, path = small_identity(), folder / "weights"
    prefixed = {f"module.{key}": tensor for key, tensor in tensors.items()}
    if around == "safetensors":
        save_file(tensors, path)
    else:
        content = {
            "bare": tensors,
            "DataParallel": prefixed,
            "state_dict": {"epoch": 1, "state_dict": prefixed},
        }
        torch.save(content[around], path)
    assert converted(path, "identity").keys() == tensors.keys()


def test_tensors_that_share_memory_or_lie_crosswise_are_written_each_on_its_own(folder: Path) -> None:
    tensors = dict(small_identity())
    shared = torch.ones(12)
    tensors["body.1.res_layer.0.weight"] = shared[:8]
    tensors["body.1.res_layer.0.bias"] = shared[4:]
    key = "output_layer.3.weight"
    tensors[key] = tensors[key].T.contiguous().T
    torch.save(tensors, folder / "weights.pt")
    read = converted(folder / "weights.pt", "identity")
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in read.items())


def moved(tensors: dict[str, torch.Tensor], prefix: str, by: float = 0) -> dict[str, torch.Tensor]:
    return {
        prefix + key: tensor + by if tensor.is_floating_point() else tensor for key, tensor in tensors.items()
    }


def taken(path: Path) -> tuple[float, list[str]]:
    """How far the identity taken of a file is from `small_identity`, and what was said."""
    said: list[str] = []
    key = "output_layer.3.weight"
    with tempfile.TemporaryDirectory() as name:
        target = Path(name, "taken.safetensors")
        conversion.convert(path, "identity", target, said.append)
        difference = load_file(target)[key] - small_identity()[key]
    return round(float(difference.mean())), said


def test_of_two_vqgans_that_of_the_pictures_is_taken_and_the_other_named(folder: Path) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(32, (1, 1), 1, (1,), 16, 16, 64).eval().state_dict()
    both = moved(vqgan, "cond_stage_model.", 1) | moved(vqgan, "first_stage_model.")
    path = folder / "last.ckpt"
    torch.save({"state_dict": both}, path)
    said: list[str] = []
    conversion.convert(path, "vqgan", folder / "vqgan.safetensors", said.append)
    assert all(
        torch.equal(tensor, vqgan[key]) for key, tensor in load_file(folder / "vqgan.safetensors").items()
    )
    left = "state_dict.cond_stage_model"
    assert said == [f"last.ckpt: vqgan is taken from state_dict.first_stage_model, not from {left}"]
    about = json.loads((folder / "vqgan.json").read_text())
    assert about["taken"] == {"from": "state_dict.first_stage_model", "instead of": left}


def test_of_several_networks_the_one_that_is_meant_is_taken(folder: Path) -> None:
    tensors, path = small_identity(), folder / "weights.pt"
    torch.save({"net": moved(tensors, "", 1), "net_ema": tensors}, path)
    assert taken(path) == (0, ["weights.pt: identity is taken from net_ema, not from net"])
    torch.save(tensors | moved(tensors, "teacher.", 1), path)
    assert taken(path) == (0, ["weights.pt: identity is taken from the whole file, not from teacher"])
    torch.save({"state_dict": tensors, "last": dict(tensors)}, path)  # the same tensors by two names
    assert taken(path) == (0, [])
    torch.save(moved(tensors, "left.") | moved(tensors, "right.", 1), path)
    refuse(path, "identity", "holds several identity networks, and it is unclear which to use: left, right")


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_forward_module._orig_mod.module"])
def test_names_of_wrappers_within_keys_are_left(wrapper: str, folder: Path) -> None:
    tensors = small_identity()
    wrapped = {
        f"{wrapper}.{key}".replace("body.", f"body.{wrapper}."): tensor for key, tensor in tensors.items()
    }
    torch.save({"state_dict": wrapped}, folder / "weights.pt")
    assert converted(folder / "weights.pt", "identity").keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("network", sorted(DEMO))
def test_files_of_nothing_but_half_precision(network: str, dtype: torch.dtype, folder: Path) -> None:
    """Whole numbers are such again; the words that CLIP knows are those of the demo set."""
    demo = WeightSet.find("demo", FOLDER / "manifest.toml").read(network)
    torch.save({key: tensor.to(dtype) for key, tensor in demo.items()}, folder / "half.pt")
    read = converted(folder / "half.pt", network)
    build_network(network, read)
    for key, tensor in read.items():
        if demo[key].is_floating_point():
            assert torch.equal(tensor, demo[key].to(dtype)), key
        else:
            assert torch.equal(tensor, demo[key]), key


def test_words_that_half_precision_lost_are_told(folder: Path) -> None:
    clip = WeightSet.find("demo", FOLDER / "manifest.toml").read("clip")
    clip["tokens"] = clip["tokens"].flip(0).half()
    torch.save(clip, folder / "half.pt")
    refuse(folder / "half.pt", "clip", "tokens holds integers that float16 has rounded; save it as int64")


def test_tensors_of_other_kinds_are_left_beside_a_network_and_named_within(folder: Path) -> None:
    tensors, path = small_identity(), folder / "weights.pt"
    key = "output_layer.3.weight"
    strange = {"loss.sparse": tensors[key].to_sparse(), "loss.complex": torch.ones(2, dtype=torch.complex64)}
    torch.save({"state_dict": moved(tensors, "net.") | strange}, path)
    assert taken(path) == (0, [])
    torch.save({**tensors, key: tensors[key].to_sparse()}, path)
    refuse(path, "identity", f"{key} is a sparse tensor")
    torch.save({**tensors, key: tensors[key].to(torch.complex64)}, path)
    refuse(path, "identity", f"{key} is of type complex64")
    torch.save({**tensors, key: tensors[key].to(torch.float8_e4m3fn)}, path)
    refuse(path, "identity", f"{key} is of type float8_e4m3fn")


# What cannot be converted


def refuse(path: Path, network: str, says: str) -> None:
    target = path.with_name("target.safetensors")
    target.write_text("what was here before")
    with pytest.raises(CheckpointError, match=rf"{path.name}.*{says}"):
        conversion.convert(path, network, target)
    assert {each.name for each in path.parent.iterdir()} == {path.name, target.name}
    assert target.read_text() == "what was here before"


def test_another_network_than_ours_is_told_by_its_keys(folder: Path) -> None:
    path = folder / "weights.pt"
    tensors = small_identity()
    del tensors["body.1.res_layer.3.weight"]
    torch.save(tensors, path)
    refuse(path, "identity", r"missing \(body.1.res_layer.3.weight\)")
    refuse(path, "clip", "does not hold clip, only identity")


def test_files_of_no_network_of_ours_are_told(folder: Path) -> None:
    path = folder / "weights.pt"
    torch.save({"step": 3, "state_dict": {"fc.weight": torch.ones(2, 2)}}, path)
    refuse(path, "clip", "none of the networks clip, vqgan.*fc.weight")
    torch.save({"synthesis.input.freqs": torch.ones(3)}, path)
    refuse(path, "stylegan2", "StyleGAN3")
    torch.save({"text_model.embeddings.token_embedding.weight": torch.ones(3, 2)}, path)
    refuse(path, "clip", "Hugging Face")
    with originals.installed("dnnlib.tflib.network.Network") as (network,):
        path.write_bytes(pickle.dumps((network(), network(), network())))
    refuse(path, "stylegan2", "TensorFlow.*legacy.py")


def test_networks_that_only_look_like_ours_are_told(folder: Path) -> None:
    path = folder / "weights.pt"
    state_dict = {**nvidia_state_dict(), "mapping.embed.weight": torch.ones(32, 10)}
    originals.nvidia(state_dict, path)
    refuse(path, "stylegan2", r"unknown \(mapping.embed.weight\)")
    encoder = Encoder4Editing(32, 4, 8, (4, 6, 8, 10), (1, 1, 1, 1), 1, 1).state_dict()
    keys = {f"encoder.{key}": tensor for key, tensor in encoder.items()}
    torch.save(
        {"state_dict": keys, "latent_avg": torch.ones(4, 8), "opts": {"encoder_type": "Gradual"}}, path
    )
    refuse(path, "e4e", "the encoder Gradual")
    torch.save({"state_dict": keys}, path)
    refuse(path, "e4e", "latent_avg")
    torch.save({"state_dict": keys, "latent_avg": torch.ones(3, 8)}, path)
    refuse(path, "e4e", r"latent_avg has shape \(3, 8\) instead of \(4, 8\)")
    torch.save({"state_dict": keys, "latent_avg": torch.ones(8)}, path)  # one for all layers
    path.with_name("target.safetensors").unlink()
    assert converted(path, "e4e")["latent_avg"].shape == (4, 8)
    originals.e4e(encoder, {}, torch.ones(4, 8), path)
    assert torch.equal(converted(path, "e4e")["latent_avg"], torch.ones(4, 8))
    assert description(path, "e4e")["training"]["opts"]["stylegan_size"] == 1024


def test_few_bytes_do_not_become_a_large_network(folder: Path) -> None:
    path = folder / "weights.pt"
    tensors = {key: tensor.flatten()[:1].clone() for key, tensor in small_identity().items()}
    for key in ("output_layer.3.weight", "input_layer.0.weight"):
        tensors[key] = torch.zeros(1).expand(4000, 4000)
    torch.save(tensors, path)
    refuse(path, "identity", "unpacks to far more than its size")


def test_few_names_do_not_become_many_layers(folder: Path) -> None:
    one = torch.zeros(1)
    tensors = {f"encoder.down.{level}.block.0.conv1.weight": one for level in range(1000)}
    tensors |= {f"encoder.down.0.block.{block}.x": one for block in range(1000)}
    tensors |= {"encoder.conv_in.weight": one.expand(32, 3, 3, 3), "decoder.conv_in.weight": one.expand(8, 8)}
    tensors |= {"decoder.conv_out.weight": one, "quantize.embedding.weight": one.expand(4, 4)}
    torch.save(tensors, folder / "weights.pt")
    refuse(folder / "weights.pt", "vqgan", "the names of its 2004 tensors describe a network of far more")
    tensors = {f"{number}.body": one for number in range(20_000)} | {"output_layer.3.weight": one}
    torch.save(tensors, folder / "weights.pt")
    refuse(folder / "weights.pt", "identity", "it has 20,001 tensors; at most 4,096 are accepted")


def test_a_clip_reads_no_endless_texts(folder: Path) -> None:
    clip = WeightSet.find("demo", FOLDER / "manifest.toml").read("clip")
    clip["positional_embedding"] = torch.zeros(1, 1).expand(30_000, clip["positional_embedding"].shape[1])
    torch.save(clip, folder / "weights.pt")
    refuse(folder / "weights.pt", "clip", "positional_embedding is of 30,000 tokens")


def test_settings_that_repeat_themselves_become_no_large_file(folder: Path) -> None:
    deep: Any = Bare()
    for _ in range(60):
        deep = (deep, deep)
    settings = {"config": {"texts": ["x" * 50_000] * 1000, Bare(): 1}, "opts": deep, "args": 1 << 100_000}
    torch.save(small_identity() | settings, folder / "w.pt")
    converted(folder / "w.pt", "identity")
    assert (folder / "converted" / "identity.json").stat().st_size < 1_000_000


class Bare:
    """An object of no kind that is known."""


def test_check_names_what_is_wrong() -> None:
    tensors = small_identity()
    assert isinstance(build_network("identity", tensors), Identity)
    with pytest.raises(StateDictError, match="extra"):
        build_network("identity", {**tensors, "extra": torch.ones(1)})
    with pytest.raises(StateDictError, match="latent_avg"):
        build_network("e4e", tensors)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(folder: Path) -> None:
    """A limit on the size of files makes every write fail that a full disk would."""
    torch.save(small_identity(), folder / "weights.pt")
    code = """if True:
        import errno, resource, signal, sys
        from pathlib import Path
        from mead.weights import conversion
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            conversion.convert(Path(sys.argv[1]), "identity", Path(sys.argv[2]))
        except OSError as error:
            print(error.errno == errno.EFBIG, error.filename)
    """
    files = [str(folder / "weights.pt"), str(folder / "x.safetensors")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert done.stdout == f"True {files[1]}\n"
    assert [path.name for path in folder.iterdir()] == ["weights.pt"]
