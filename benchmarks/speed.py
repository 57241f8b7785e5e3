"""How fast the two models are on the demo weights: `python -m benchmarks.speed`.

LatentRevisions is timed against a reference loop in the same run, written as the published one works:
one job at a time in float32, the padded picture turned and shifted as a picture, and each cutout cropped
and resized alone. Both use the same networks, cutouts and optimiser. StyleCLIP's published loop differs
from ours only in the number format.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomAffine
from torchvision.transforms.functional import hflip

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LATENT_LIMIT, LatentRevision, LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from mead.cli.serve import PHOTOS
from mead.revision import run
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip


def reference_step(pipeline: LatentRevisionsPipeline, revision: LatentRevision) -> None:
    """One step of one job, as the published loop takes it."""
    z = revision.latents.clamp(-LATENT_LIMIT, LATENT_LIMIT)
    picture = (pipeline.vqgan.decode(z).clamp(-1, 1) + 1) / 2
    crops = reference_cutouts(picture, revision, pipeline.perceptor.input_size)
    embeddings = pipeline.perceptor.embed_image(crops)
    loss = revision.objective({"embeddings": embeddings}).mean()
    revision.optimiser.zero_grad()
    loss.backward()
    revision.optimiser.step()
    revision.step += 1


def reference_cutouts(picture: Tensor, revision: LatentRevision, size: int) -> Tensor:
    """Cutouts of a picture [1, 3, H, W], each cropped and resized alone: [cutouts, 3, size, size]."""
    hyper = revision.cutouts.hyperparameters
    side = picture.shape[-1]
    padded = F.pad(picture, [side // 2] * 4)
    padded = hflip(padded) if torch.rand(()) < 0.5 else padded
    padded = RandomAffine(hyper.cutout_degrees, (hyper.cutout_shift, hyper.cutout_shift))(padded)
    crops = []
    for _ in range(hyper.cutouts):
        drawn = torch.normal(hyper.cutout_mean, hyper.cutout_deviation, ())
        crop = int(drawn.clamp(hyper.cutout_smallest, hyper.cutout_largest) * side)
        top, left = torch.randint(0, 2 * side - crop, (2,)).tolist()
        part = padded[:, :, top : top + crop, left : left + crop]
        crops.append(F.interpolate(part, (size, size), mode="bilinear", align_corners=True))
    stacked = torch.cat(crops)
    return stacked + hyper.cutout_noise * torch.rand(len(stacked), 1, 1, 1) * torch.randn_like(stacked)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=10, help="steps a measurement takes (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default %(default)s)")
    options = parser.parse_args()
    device = "cpu"
    pipeline = load_latent_revisions("demo", device)
    faces = load_style_clip("demo", device)
    prompt = "a boat on the sea at sunset"

    def begin(seed: int) -> LatentRevision:
        return pipeline.start(LatentRevisionsParams(prompt=prompt, seed=seed, iterations=1000))

    one, reference, four = begin(0), begin(0), [begin(seed) for seed in range(4)]

    def repeat(step: Callable[[], None]) -> Callable[[], None]:
        def steps() -> None:
            for _ in range(options.steps):
                step()

        return steps

    works = {
        "reference, one job": repeat(lambda: reference_step(pipeline, reference)),
        "ours, one job": repeat(lambda: pipeline.step([one])),
        "ours, four jobs in a batch": repeat(lambda: pipeline.step(four)),
    }
    for work in works.values():
        work()  # once unmeasured, while PyTorch chooses its kernels
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):  # in turn, so that a machine that slows down slows all alike
        for name, work in works.items():
            times[name].append(seconds(work) / options.steps)
    print(
        f"LatentRevisions, 128x128, {one.cutouts.hyperparameters.cutouts} cutouts, {pipeline.precision.dtype}"
    )
    base = statistics.median(times["reference, one job"])
    for name, taken in times.items():
        jobs = 4 if "four" in name else 1
        median = statistics.median(taken) / jobs
        print(f"  {name:28} {1000 * median:7.1f} ms a job's step   {base / median:5.2f} times the reference")

    print("whole jobs with their default settings")
    picture = PHOTOS / "face.jpeg"
    lr = seconds(lambda: run(pipeline, LatentRevisionsParams(prompt=prompt, seed=1)))
    sc = seconds(lambda: run(faces, StyleCLIPParams(prompt="A girl with purple eyes", img_path=picture)))
    print(f"  LatentRevisions {lr:5.1f} s ({pipeline.hyperparameters.iterations} steps)")
    print(f"  StyleCLIP       {sc:5.1f} s ({faces.hyperparameters.iterations} steps)")


if __name__ == "__main__":
    main()
