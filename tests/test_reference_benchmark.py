"""The benchmark's reference computes what our networks compute, so that it compares equal work."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from benchmarks import reference, speed
from benchmarks.reference import floats
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from LatentRevisions.vqgan import VQGAN
from mead.nn.perceptor import Perceptor
from mead.nn.state_dict import StateDict
from mead.weights.sets import WeightSet
from StyleCLIP.identity import Identity, crop
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import ramp
from StyleCLIP.StyleCLIP import StyleCLIPPipeline
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
from StyleCLIP.stylegan2 import Generator
from tests import parity

PROMPT = "a person with blue hair"


@pytest.fixture(scope="module")
def pictures() -> LatentRevisionsPipeline:
    return load_latent_revisions("demo", "cpu")


@pytest.fixture(scope="module")
def faces() -> StyleCLIPPipeline:
    return load_style_clip("demo", "cpu")


@pytest.fixture(scope="module")
def clip() -> reference.CLIP:
    return reference.CLIP(read("clip"))


def read(network: str) -> StateDict:
    return WeightSet.find("demo").read(network)


def test_the_networks_are_the_pipelines(faces: StyleCLIPPipeline, clip: reference.CLIP) -> None:
    """On the demo weights, in float32."""
    torch.manual_seed(0)
    vqgan, generator, identity = floats(read("vqgan")), floats(read("stylegan2")), floats(read("identity"))
    ours = VQGAN.from_state_dict(read("vqgan")).freeze(torch.float32)
    faces_of = Generator.from_state_dict(read("stylegan2")).freeze(torch.float32)
    features_of = Identity.from_state_dict(read("identity")).freeze(torch.float32)
    z = torch.randn(2, ours.embed_dim, 8, 6)
    image = torch.rand(2, 3, 64, 96) * 2 - 1
    views = torch.rand(3, 3, clip.side, clip.side)
    perceptor = Perceptor.from_state_dict(read("clip")).freeze(torch.float32)
    codes = faces.average + 0.3 * torch.randn(2, *faces.average.shape[1:])
    with torch.no_grad():
        face = faces_of.synthesise(codes)
        cut_out = crop(face, features_of.input_size)
        compared = {
            "decode": (reference.decode(vqgan, z), ours.decode(z)),
            "encode": (reference.encode(vqgan, image), ours.encode(image)),
            "synthesise": (reference.synthesise(generator, codes), face),
            "identity": (reference.identity_features(identity, face), features_of(cut_out)),
            "embed_image": (clip.embed_image(views), perceptor.embed_image(views)),
            "embed_text": (clip.embed_text(PROMPT)[None], perceptor.embed_text([PROMPT])),
        }
    errors = {name: parity.error(*pair) for name, pair in compared.items()}
    assert max(errors.values()) < parity.TOLERANCE, errors


def test_the_networks_are_the_published_ones() -> None:
    """Small ones, with the numbers of the published implementations."""
    vqgan, stylegan2 = parity.load("vqgan_small"), parity.load("stylegan2_small")
    with torch.no_grad():
        image = reference.synthesise(stylegan2.state_dict, stylegan2["w_plus"])
        pooled = F.adaptive_avg_pool2d(image, stylegan2["image_pooled"].shape[-1])
        compared = {
            "encode": (reference.encode(vqgan.state_dict, vqgan["image"]), vqgan["z"]),
            "decode": (reference.decode(vqgan.state_dict, vqgan["z"]), vqgan["decoded_z"]),
            "synthesise": (pooled, stylegan2["image_pooled"]),
        }
    errors = {name: parity.error(*pair) for name, pair in compared.items()}
    assert max(errors.values()) < parity.TOLERANCE, errors


def test_latent_revisions_has_the_pipelines_loss_and_settings(
    pictures: LatentRevisionsPipeline, clip: reference.CLIP
) -> None:
    torch.manual_seed(0)
    hyper = pictures.hyperparameters
    ours = pictures.start(LatentRevisionsParams(prompt=PROMPT, seed=0, start="noise"))
    theirs = reference.LatentRevisions(clip, floats(read("vqgan")), hyper, PROMPT, hyper.sides)
    embeddings = F.normalize(torch.randn(5, pictures.perceptor.embed_dim))
    expected = ours.objective({"embeddings of guide 0": embeddings, "latents": ours.latents}).mean()
    assert theirs.loss(embeddings).item() == pytest.approx(expected.item(), rel=1e-4)
    assert theirs.optimiser.defaults == ours.optimiser.defaults
    assert theirs.z.shape == ours.latents.shape
    z = theirs.z.detach().clone()
    theirs.step()
    assert not torch.equal(theirs.z, z)


def test_styleclip_has_the_pipelines_loss_and_settings(
    faces: StyleCLIPPipeline, clip: reference.CLIP
) -> None:
    torch.manual_seed(0)
    ours = faces.start(StyleCLIPParams(prompt=PROMPT, seed=0, start="inversion"))
    networks = clip, floats(read("stylegan2")), floats(read("identity"))
    theirs = reference.StyleCLIP(*networks, faces.hyperparameters, PROMPT, faces.average, ours.steps)
    with torch.no_grad():
        for codes in (ours.latents, theirs.codes):
            codes += 0.1
    embeddings = F.normalize(torch.randn(5, faces.perceptor.embed_dim))
    features = F.normalize(torch.randn_like(ours.features))
    expected = ours.objective({"embeddings": embeddings, "codes": ours.latents, "features": features})
    loss = theirs.loss(clip.embed_text(PROMPT), embeddings, ours.features, features)  # ours may be bfloat16's
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert theirs.optimiser.defaults == ours.optimiser.defaults
    for theirs.done in range(ours.steps):
        assert theirs.ramp() == pytest.approx(ramp(theirs.done / ours.steps))
    theirs.done = ours.steps // 2
    first = theirs.codes.detach().clone()
    theirs.step()
    assert not torch.equal(theirs.codes, first)
    assert theirs.generator["conv1.conv.weight"].grad is not None  # as published: nothing is frozen


def test_every_job_takes_its_steps() -> None:
    taken: list[int] = []
    speed.work([partial(taken.append, job) for job in range(3)])(2)
    assert sorted(taken) == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_work_is_measured_in_a_process_of_its_own() -> None:
    measured = speed.Measured(partial(speed.reference_faces, "demo"))
    assert measured.operations > 1e8
    assert measured.seconds(1) > 0
    assert measured.stop() > 100
