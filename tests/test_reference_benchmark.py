"""The benchmark's reference computes what our networks compute, so that it compares equal work."""

from __future__ import annotations

import pytest
import torch

from benchmarks import reference
from benchmarks.reference import floats
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from mead.weights.sets import WeightSet
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIPPipeline, ramp
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
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


def read(network: str) -> dict[str, torch.Tensor]:
    return dict(WeightSet.find("demo").read(network))


def test_networks(pictures: LatentRevisionsPipeline, faces: StyleCLIPPipeline, clip: reference.CLIP) -> None:
    """Of the demo set, in float32."""
    torch.manual_seed(0)
    vqgan, generator, identity = floats(read("vqgan")), floats(read("stylegan2")), floats(read("identity"))
    z = torch.randn(2, pictures.vqgan.embed_dim, 8, 6)
    image = torch.rand(2, 3, 64, 96) * 2 - 1
    views = torch.rand(3, 3, clip.side, clip.side)
    codes = faces.average + 0.3 * torch.randn(2, *faces.average.shape[1:])
    with torch.no_grad():
        face = faces.generator.synthesise(codes)
        compared = {
            "decode": (reference.decode(vqgan, z), pictures.vqgan.decode(z)),
            "encode": (reference.encode(vqgan, image), pictures.vqgan.encode(image)),
            "synthesise": (reference.synthesise(generator, codes), face),
            "identity": (reference.identity_features(identity, face), faces.identity.of_face(face)),
            "embed_image": (clip.embed_image(views), pictures.perceptor.embed_image(views)),
            "embed_text": (clip.embed_text(PROMPT)[None], pictures.perceptor.embed_text([PROMPT])),
        }
    errors = {name: parity.error(*pair) for name, pair in compared.items()}
    assert max(errors.values()) < parity.TOLERANCE, errors


def test_losses_and_settings(
    pictures: LatentRevisionsPipeline, faces: StyleCLIPPipeline, clip: reference.CLIP
) -> None:
    """Those of the pipelines, and a step of the reference moves the latents."""
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(5, pictures.perceptor.embed_dim))

    ours = pictures.start(LatentRevisionsParams(prompt=PROMPT, seed=0, start="noise"))
    size = pictures.hyperparameters.sides
    theirs = reference.LatentRevisions(clip, floats(read("vqgan")), pictures.hyperparameters, PROMPT, size)
    expected = ours.objective({"embeddings": embeddings, "latents": ours.latents}).mean()
    assert theirs.z.shape == ours.latents.shape
    assert theirs.loss(embeddings).item() == pytest.approx(expected.item(), rel=1e-4)
    assert theirs.optimiser.defaults == ours.optimiser.defaults
    z = theirs.z.detach().clone()
    theirs.step()
    assert not torch.equal(theirs.z, z)

    edited = faces.start(StyleCLIPParams(prompt=PROMPT, seed=0, start="inversion"))
    networks = clip, floats(read("stylegan2")), floats(read("identity"))
    reference_job = reference.StyleCLIP(*networks, faces.hyperparameters, PROMPT, faces.average, edited.steps)
    with torch.no_grad():
        for job_codes in (edited.latents, reference_job.codes):
            job_codes += 0.1
    features = torch.nn.functional.normalize(torch.randn_like(edited.features))
    inputs = {"embeddings": embeddings, "codes": edited.latents, "features": features}
    assert reference_job.loss(embeddings, features).item() == pytest.approx(
        edited.objective(inputs).item(), rel=1e-2
    )
    assert reference_job.optimiser.defaults == edited.optimiser.defaults
    for done in range(edited.steps):
        reference_job.done = done
        assert reference_job.ramp() == pytest.approx(ramp(done / edited.steps))
    codes = reference_job.codes.detach().clone()
    reference_job.done = 1  # the ramp begins at 0
    reference_job.step()
    assert not torch.equal(reference_job.codes, codes)
