"""Several CLIPs in a weights set: each sees the picture in its own size, and all count the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch.nn import functional as F

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline, load_pipeline
from mead.limits import extent, most_steps
from mead.nn.perceptor import VOCABULARY, Perceptor
from mead.params import ParamsError
from mead.weights.errors import WeightsError
from mead.weights.own_sets import add_checkpoint
from mead.weights.perceptor import load_perceptor, load_perceptors
from mead.weights.sets import WeightSet
from mead.weights.texts import check_texts, context_length
from mead.weights.verify import CheckResult, verify
from tests.test_full_weights import Silent

SIDE, TOKENS = 48, 20  # of the second CLIP
JOB: dict[str, Any] = {
    "prompt": "a red house",
    "seed": 1,
    "iterations": 2,
    "size": (64, 64),
    "start": "noise",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WEIGHTS_DIR with the set "two": the demo set's CLIP and an untrained one."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=8, image_size=SIDE)
    text = CLIPTextCfg(context_length=TOKENS, vocab_size=VOCABULARY, width=64, heads=1, layers=1)
    state_dict = CLIP(16, vision, text, quick_gelu=True).state_dict()
    save_file(state_dict | {"quick_gelu": torch.tensor(1)}, folder / "second.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTS_DIR", str(folder))
        assert add_checkpoint(folder / "second.safetensors", "two", "clip-small", "demo", Silent()) == [
            "clip-small"
        ]
    manifest = folder / "two" / "manifest.toml"
    written = (
        manifest.read_text().replace("# perceptors =", "perceptors =").replace("clip-NAME", "clip-small")
    )
    manifest.write_text(written)
    return folder


@pytest.fixture(autouse=True)
def weights_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(folder))


@pytest.fixture
def pipeline() -> LatentRevisionsPipeline:
    return load_pipeline("two", "cpu")


def test_a_set_of_two_clips_is_verified_and_loaded(pipeline: LatentRevisionsPipeline) -> None:
    weights = WeightSet.find("two")
    assert weights.perceptors == ("clip", "clip-small") and weights.files["clip-small"].owner == "two"
    assert {"start", "denoiser", "mapper"} <= weights.files.keys()  # which go with the first
    said: list[CheckResult] = []
    assert verify("two", said.append), said
    two, one = (extent(LatentRevisionsParams(prompt="a house"), name) for name in ("two", "demo"))
    assert (two.clips, one.clips) == (2, 1) and most_steps(two, 10**8) < most_steps(one, 10**8)
    first, second = load_perceptors("two", "cpu")
    assert first is load_perceptor("two", "cpu") is pipeline.perceptor
    assert [guide.perceptor for guide in pipeline.guides] == [first, second]
    assert (first.input_size, second.input_size) == (64, SIDE)


def test_the_loss_is_the_mean_of_both(pipeline: LatentRevisionsPipeline) -> None:
    revision = pipeline.start(LatentRevisionsParams(**JOB))
    generator = torch.Generator()
    generator.set_state(revision.generator.get_state())
    hyper, losses = pipeline.hyperparameters, []
    with torch.no_grad():
        picture = pipeline._decode(revision.latents)
        maps = revision.cutouts.draw(64, 64, generator)
        for clip in load_perceptors("two", "cpu"):
            crops = revision.cutouts.cut(picture, maps[None], clip.input_size)
            crops += revision.cutouts.noise(clip.input_size, generator)
            with pipeline.precision.autocast():
                seen = clip.embed_image(crops)
            (target,) = F.normalize(clip.embed_text(["a red house"]), dim=1)
            (away,) = clip.embed_text(["incoherent, confusing, cropped, watermarks"])
            losses.append((-hyper.towards * seen @ target + hyper.away * seen @ away).mean())
    pipeline.step([revision])
    assert revision.loss == pytest.approx(float(sum(losses)) / 2, abs=1e-3)
    assert abs(losses[0] - losses[1]) > 0.1


def test_the_second_changes_the_picture(pipeline: LatentRevisionsPipeline) -> None:
    demo = load_pipeline("demo", "cpu")

    def first_step(pipeline: LatentRevisionsPipeline) -> torch.Tensor:
        revision = pipeline.start(LatentRevisionsParams(**JOB))
        pipeline.step([revision])
        return revision.latents.detach()

    assert not torch.equal(first_step(demo), first_step(pipeline))


def test_both_follow_a_story(pipeline: LatentRevisionsPipeline) -> None:
    job = JOB | {"story": "a blue house", "iterations": 4}
    revision = pipeline.start(LatentRevisionsParams(**job))
    ((towards, targets),) = revision.further
    second = load_perceptors("two", "cpu")[1]
    torch.testing.assert_close(targets, second.embed_text(["a red house", "a blue house"]))
    while not revision.finished:
        pipeline.step([revision])
    torch.testing.assert_close(towards.target, targets[1])


def test_a_text_must_be_short_enough_for_both() -> None:
    assert context_length("two") == TOKENS < context_length("demo")
    long = LatentRevisionsParams(prompt="a red house " * 9)
    check_texts(long, "demo")
    with pytest.raises(ParamsError, match=f"reads {TOKENS - 2} tokens"):
        check_texts(long, "two")


@pytest.mark.parametrize(
    ("perceptors", "says"),
    [
        ('["clip-small"]', 'the first must be "clip"'),
        ("[]", 'the first must be "clip"'),
        ('["clip", "vqgan"]', "'vqgan' must be another CLIP, named clip-NAME"),
        ('["clip", "clip-small", "clip-small"]', "be there once"),
        ('["clip", "clip-none"]', "has no clip-none"),
    ],
)
def test_perceptors_that_cannot_be(perceptors: str, says: str, folder: Path) -> None:
    shutil.rmtree(folder / "wrong", ignore_errors=True)
    (folder / "wrong").mkdir()
    (folder / "wrong" / "manifest.toml").write_text(f'base = "two"\nperceptors = {perceptors}\n')
    with pytest.raises(WeightsError, match=says):
        load_perceptors("wrong", "cpu")


def test_a_set_has_the_perceptors_of_its_base(folder: Path) -> None:
    (folder / "derived").mkdir(exist_ok=True)
    (folder / "derived" / "manifest.toml").write_text('base = "two"\n')
    assert WeightSet.find("derived").perceptors == ("clip", "clip-small")
    assert isinstance(load_perceptors("derived", "cpu")[1], Perceptor)
