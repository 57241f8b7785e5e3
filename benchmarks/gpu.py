"""How fast our pipelines are on a GPU: `python -m benchmarks.gpu`.

Each row is a pipeline on made-up weights of the published networks' sizes (see tests/parity.py), or on the
demo set: the milliseconds that a step of a job takes, alone and in a batch, with and without CUDA graphs, and
the most GPU memory. PRECISION chooses another number format: PRECISION=float16 runs what an older GPU would.
The published algorithms (`benchmarks.reference`, float32) run on the same GPU for comparison.

It also tells where a step waits for the GPU, and whether a seed gives the same latents again, byte for byte.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks import reference
from benchmarks.speed import (
    ENDLESS,
    FACE,
    PICTURE,
    average_face,
    face_settings,
    latent_revisions,
    picture_settings,
    product_peak,
    read,
    style_clip,
)
from LatentRevisions.params import LatentRevisionsParams
from mead.nn.precision import Precision
from StyleCLIP.params import StyleCLIPParams

GPU = torch.device("cuda")
JOBS = 8
ROWS = (
    ("LatentRevisions", "full", 256),
    ("LatentRevisions", "full", 512),
    ("StyleCLIP", "full", 1024),
    ("LatentRevisions", "demo", 128),
    ("StyleCLIP", "demo", 128),
)


def milliseconds(step: Callable[[], object], times: int) -> float:
    """How long a call takes, the mean of several; the GPU has finished all of them."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / times


def started(pipeline: Any, params: Sequence[Any]) -> list[Any]:
    return [pipeline.start(each) for each in params]


def pictures(side: int, seeds: range, steps: int = ENDLESS) -> list[LatentRevisionsParams]:
    return [
        LatentRevisionsParams(prompt=PICTURE, seed=seed, iterations=steps, size=(side, side), start="noise")
        for seed in seeds
    ]


def faces(seeds: range, steps: int = ENDLESS) -> list[StyleCLIPParams]:
    return [StyleCLIPParams(prompt=FACE, seed=seed, iterations=steps, start="inversion") for seed in seeds]


def waits(pipeline: Any, revisions: list[Any]) -> str:
    """Where a step waits for the GPU, as PyTorch warns; "no" if it does not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        caught.clear()  # the mode itself warns
        pipeline.step(revisions)
        torch.cuda.set_sync_debug_mode("default")
    found = {f"{warning.filename.rsplit('/', 1)[-1]}:{warning.lineno}" for warning in caught}
    return ", ".join(sorted(found)) or "no"


def same(pipeline: Any, make: Callable[[range, int], list[Any]]) -> str:
    """Whether a seed gives the same latents again, and beside another job."""

    def run(seeds: range) -> torch.Tensor:
        revisions = started(pipeline, make(seeds, 10))
        while not revisions[0].finished:
            pipeline.step(revisions)
        return revisions[0].latents.detach().clone()

    alone, again, beside = run(range(1)), run(range(1)), run(range(2))
    scale = alone.abs().max()
    difference = [float((other - alone).abs().max() / scale) for other in (again, beside)]
    return ", ".join(
        f"{how} {'the same' if value == 0 else f'differs by {value:.1e}'}"
        for how, value in zip(("again", "in a batch"), difference, strict=True)
    )


def measure(name: str, pipeline: Any, make: Callable[[range, int], list[Any]], steps: int) -> None:
    """Print the rows of a pipeline."""
    for how in ("eager", "graphs"):
        if how == "graphs":
            began = time.perf_counter()
            pipeline.record_graphs(JOBS)
            print(f"  recording graphs took {time.perf_counter() - began:.1f} s")
        torch.cuda.reset_peak_memory_stats()
        one, many = started(pipeline, make(range(1), ENDLESS)), started(pipeline, make(range(JOBS), ENDLESS))
        alone = milliseconds(partial(pipeline.step, one), steps)
        batch = milliseconds(partial(pipeline.step, many), steps) / JOBS
        memory = torch.cuda.max_memory_allocated() / 1e6
        print(f"{name:34} {how:7} {alone:8.2f} ms, {JOBS} at once {batch:8.2f} ms each, {memory:7.0f} MB")
        print(f"  loss {one[0].loss:.3f}; waits: {waits(pipeline, one)}; {same(pipeline, make)}", flush=True)


def profile(pipeline: Any, revisions: list[Any]) -> None:
    """Print which kernels a step's time goes to."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(3):
            pipeline.step(revisions)
        torch.cuda.synchronize()
    print(
        profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=60)
    )


def compared(name: str, make: Callable[[], Any], steps: int) -> None:
    """Print the row of a published algorithm on the GPU."""
    with torch.device(GPU):
        job = make()
        torch.cuda.reset_peak_memory_stats()
        taken = milliseconds(job.step, steps)
    memory = torch.cuda.max_memory_allocated() / 1e6
    print(f"{name:34} as published, float32: {taken:8.2f} ms {memory:16.0f} MB", flush=True)


def on_gpu(weights: str, network: str) -> dict[str, torch.Tensor]:
    return {key: tensor.to(GPU) for key, tensor in reference.floats(read(weights, network)).items()}


def reference_pictures(side: int) -> reference.LatentRevisions:
    clip, vqgan = reference.CLIP(read("full", "clip")), on_gpu("full", "vqgan")
    return reference.LatentRevisions(clip, vqgan, picture_settings("full"), PICTURE, (side, side))


def reference_faces() -> reference.StyleCLIP:
    clip = reference.CLIP(read("full", "clip"), frozen=False)
    generator, identity = on_gpu("full", "stylegan2"), on_gpu("full", "identity")
    codes = average_face("full")[None].to(GPU)
    return reference.StyleCLIP(clip, generator, identity, face_settings("full"), FACE, codes, ENDLESS)


def make_pipeline(model: str, weights: str, side: int) -> Any:
    """A pipeline whose jobs have pictures of this size."""
    if model == "StyleCLIP":
        return style_clip(weights, GPU)
    pipeline = latent_revisions(weights, GPU)
    pipeline.hyperparameters = replace(pipeline.hyperparameters, size=f"{side}x{side}")
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="of a measurement (default %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose names contain TEXT")
    parser.add_argument("--profile", action="store_true", help="tell which kernels take the time")
    parser.add_argument("--no-reference", action="store_true", help="leave out the published algorithms")
    options = parser.parse_args()
    card, dtype = torch.cuda.get_device_properties(GPU), Precision(GPU).dtype
    print(f"{card.name}, {card.total_memory / 1e9:.0f} GB, PyTorch {torch.__version__}; {dtype}")
    print(f"peak of a product in it: {product_peak(dtype, 8192, device=GPU) / 1e12:.0f} TFLOP/s")
    for model, weights, side in ROWS:
        name = f"{model} {side}x{side}, {weights}"
        if options.only not in name:
            continue
        pipeline = make_pipeline(model, weights, side)
        make = faces if model == "StyleCLIP" else partial(pictures, side)
        measure(name, pipeline, make, options.steps)
        if options.profile:
            profile(pipeline, started(pipeline, make(range(1), ENDLESS)))
        del pipeline
        if weights == "full" and not options.no_reference:
            compared(
                name,
                reference_faces if model == "StyleCLIP" else partial(reference_pictures, side),
                options.steps,
            )


if __name__ == "__main__":
    main()
