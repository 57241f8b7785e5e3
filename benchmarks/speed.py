"""How fast our pipelines are, compared with the published algorithms: `python -m benchmarks.speed`.

Each row runs a pipeline and `benchmarks.reference` on the same weights, each in a process of its own, so that
its peak memory is its own. They take their steps in turn, so that a machine that slows down slows both alike,
and the medians are compared. The weights are the demo set's; with --full, also made-up ones of the published
networks' sizes (see tests/parity.py). The peak of a matrix product is measured in the same run; "limit" is
the time that the multiplications and additions of ours would take at the higher peak.

The published algorithm has no denoiser. In the row that has it, it counts in our time alone.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula

from benchmarks.loading import memory
from LatentRevisions.hyperparameters import Hyperparameters as LatentRevisionsHyperparameters
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from LatentRevisions.vqgan import VQGAN
from mead.cli.serve import PHOTOS
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.state_dict import StateDict
from mead.revision import run
from mead.weights.sets import WeightSet
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.hyperparameters import Hyperparameters as StyleCLIPHyperparameters
from StyleCLIP.identity import Identity
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIPPipeline
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
from StyleCLIP.stylegan2 import Generator
from tests import parity

Work = Callable[[int], None]  # takes that many steps of each of its jobs

PUBLISHED = {
    "clip": "clip_vit_b_32",
    "vqgan": "vqgan_imagenet_f16_16384",
    "stylegan2": "stylegan2_ffhq_1024",
    "identity": "ir_se50",
}
CPU = torch.device("cpu")
PICTURE, FACE = "a boat on the sea at sunset", "a girl with purple eyes"
ENDLESS = 2000  # steps of a job, more than are measured
JOBS = 8  # at once


def read(weights: str, network: str) -> StateDict:
    """A network's weights: the demo set's, or for "full" made-up ones of the published size.

    Those of CLIP are in half precision, as published.
    """
    if weights == "demo":
        return WeightSet.find("demo").read(network)
    made_up = parity.load(PUBLISHED[network]).state_dict
    return {key: tensor.half() for key, tensor in made_up.items()} if network == "clip" else made_up


def picture_settings(weights: str) -> LatentRevisionsHyperparameters:
    return WeightSet.find(weights).settings("LatentRevisions", LatentRevisionsHyperparameters)


def face_settings(weights: str) -> StyleCLIPHyperparameters:
    return WeightSet.find(weights).settings("StyleCLIP", StyleCLIPHyperparameters)


def average_face(weights: str) -> Tensor:
    """Codes w+ [n_latent, style_dim] to begin with."""
    if weights == "demo":
        return WeightSet.find("demo").read("e4e")["latent_avg"].float()
    return parity.load("stylegan2_ffhq_1024", with_weights=False)["w_plus"][0]


# --- Ours


def latent_revisions(weights: str, device: torch.device = CPU) -> LatentRevisionsPipeline:
    if weights == "demo":
        return load_latent_revisions("demo", str(device))
    vqgan = VQGAN.from_state_dict(read(weights, "vqgan")).freeze(Precision(device).dtype).to(device)
    return LatentRevisionsPipeline(
        vqgan, perceptor(weights, device), None, None, picture_settings(weights), device
    )


def perceptor(weights: str, device: torch.device) -> Perceptor:
    return Perceptor.from_state_dict(read(weights, "clip")).freeze(Precision(device).dtype).to(device)


def style_clip(weights: str, device: torch.device = CPU) -> StyleCLIPPipeline:
    if weights == "demo":
        return load_style_clip("demo", str(device))
    shapes = parity.load("e4e_ffhq_1024", with_weights=False).shapes
    unused = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}  # without a photo
    return StyleCLIPPipeline(
        Generator.from_state_dict(read(weights, "stylegan2")).requires_grad_(False).to(device),
        Encoder4Editing.from_state_dict(unused),
        average_face(weights).to(device),
        Identity.from_state_dict(read(weights, "identity")).requires_grad_(False).to(device),
        perceptor(weights, device),
        None,
        None,
        face_settings(weights),
        device,
    )


def our_pictures(weights: str, side: int, jobs: int = 1, threads: bool = False, denoise: bool = True) -> Work:
    """LatentRevisions from noise: jobs in a batch, or each in a thread of its own."""
    pipeline = latent_revisions(weights)
    revisions = [
        pipeline.start(
            LatentRevisionsParams(
                prompt=PICTURE, seed=seed, iterations=ENDLESS, size=(side, side), start="noise"
            )
        )
        for seed in range(jobs)
    ]
    if not denoise:
        for revision in revisions:
            revision.hints = None
    parts = [[revision] for revision in revisions] if threads else [revisions]
    return work([partial(pipeline.step, part) for part in parts])


def our_faces(weights: str, jobs: int = 1, threads: bool = False) -> Work:
    """StyleCLIP from the average face: jobs in a batch, or each in a thread of its own."""
    pipeline = style_clip(weights)
    revisions = [
        pipeline.start(StyleCLIPParams(prompt=FACE, seed=seed, iterations=ENDLESS, start="inversion"))
        for seed in range(jobs)
    ]
    parts = [[revision] for revision in revisions] if threads else [revisions]
    return work([partial(pipeline.step, part) for part in parts])


# --- The reference, imported where it runs: it comes with open_clip, 220 MB that ours does without


def reference_pictures(weights: str, side: int, jobs: int = 1) -> Work:
    """Latent Revisions as published, each job in a thread of its own."""
    from benchmarks import reference

    clip, vqgan = reference.CLIP(read(weights, "clip")), reference.floats(read(weights, "vqgan"))
    settings = picture_settings(weights)
    return work(
        [reference.LatentRevisions(clip, vqgan, settings, PICTURE, (side, side)).step for _ in range(jobs)]
    )


def reference_faces(weights: str, jobs: int = 1) -> Work:
    """StyleCLIP as published, each job in a thread of its own, with networks of its own."""
    from benchmarks import reference

    settings, codes = face_settings(weights), average_face(weights)[None]

    def step() -> Callable[[], float]:
        clip = reference.CLIP(read(weights, "clip"), frozen=False)
        generator, identity = (reference.floats(read(weights, name)) for name in ("stylegan2", "identity"))
        return reference.StyleCLIP(clip, generator, identity, settings, FACE, codes, ENDLESS).step

    return work([step() for _ in range(jobs)])


# --- Measuring


def work(steps: Sequence[Callable[[], object]]) -> Work:
    """Repeat each of these steps, in a thread of its own if there are several.

    The threads share the processor's cores between them: more would only get in each other's way.
    """

    def repeat(step: Callable[[], object], times: int) -> None:
        for _ in range(times):
            step()

    if len(steps) == 1:
        return partial(repeat, steps[0])
    share = max(1, torch.get_num_threads() // len(steps))
    pool = ThreadPoolExecutor(len(steps), initializer=torch.set_num_threads, initargs=(share,))

    def repeat_all(times: int) -> None:
        list(pool.map(partial(repeat, times=times), steps))

    return repeat_all


class Measured:
    """Work in a process of its own, started and warm.

    Attributes:
        operations: multiplications and additions in the matrix products and convolutions of a step; those of
            other threads are not counted.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have none of PyTorch's threads
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, other), daemon=True)
        self._process.start()
        other.close()
        self.operations: int = self._pipe.recv()

    def seconds(self, steps: int) -> float:
        """How long so many steps take."""
        self._pipe.send(steps)
        return self._pipe.recv()

    def stop(self) -> float:
        """End the process; its peak memory, in MB."""
        self._pipe.send(0)
        peak: float = self._pipe.recv()
        self._process.join()
        return peak


@register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
def _operations_of_onednn(x: Sequence[int], *others: Any, out_shape: Sequence[int], **_: Any) -> int:
    """Of a convolution by rearranged weights, given shapes: x, an addend if there is one, and the weights."""
    weight = others[1] if others[1] is not None and len(others[1]) == 4 else others[0]
    return conv_flop_count(list(x), list(weight), list(out_shape))


@register_flop_formula(torch.ops.mkldnn._convolution_transpose_pointwise)
def _operations_of_transposed(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of a transposed convolution by rearranged weights [out, in, h, w], given shapes."""
    return 2 * math.prod(weight) * x[0] * math.prod(x[2:])


class Operations(TorchDispatchMode):
    """Counts multiplications and additions, but those inside PyTorch's fused attention on the CPU (about 1%).

    PyTorch's own `FlopCounterMode` also hooks into modules, which fails where only parts need gradients.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    torch.manual_seed(0)
    steps = make()
    with Operations() as operations:
        steps(1)  # unmeasured, while PyTorch chooses its kernels
    pipe.send(operations.total)
    while times := pipe.recv():
        began = time.perf_counter()
        steps(times)
        pipe.send(time.perf_counter() - began)
    pipe.send(memory("VmHWM"))


@dataclass(frozen=True)
class Measurement:
    """Medians of a row: seconds of a step of a job, and peak memory in MB."""

    name: str
    ours: float
    other: float
    limit: float  # at the peak of a matrix product
    memory: float
    other_memory: float


@dataclass(frozen=True)
class Row:
    """What is compared with what. A measurement takes `steps` steps of each of `jobs` jobs."""

    name: str
    ours: Callable[[], Work]
    other: Callable[[], Work]
    steps: int
    jobs: int = 1
    dtype: torch.dtype | None = None  # that ours computes in, if not in the fastest one

    def measure(self, rounds: int, peaks: Mapping[torch.dtype, float]) -> Measurement:
        """Measure both in turn and print the medians.

        Args:
            peaks: of matrix products, operations a second in each number format.
        """
        peak = max(peaks.values()) if self.dtype is None else peaks[self.dtype]
        measured = [Measured(self.ours), Measured(self.other)]
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for one, taken in zip(measured, times, strict=True):
                taken.append(one.seconds(self.steps) / self.steps / self.jobs)
        ours, other = map(statistics.median, times)
        limit = measured[0].operations / self.jobs / peak
        print(f"{self.name:66} {ours:8.3f} s  {other:8.3f} s  {other / ours:5.2f}  {limit:8.3f} s")
        memories = [one.stop() for one in measured]
        print(
            f"{'  peak memory':66} {memories[0]:7.0f} MB  {memories[1]:7.0f} MB  "
            f"{memories[0] / memories[1]:5.2f}",
            flush=True,
        )
        return Measurement(self.name, ours, other, limit, *memories)


def demo_rows(steps: int) -> list[Row]:
    """A job alone and several at once, on the demo weights."""
    side, _ = picture_settings("demo").sides
    models = {
        f"LatentRevisions {side}x{side}": (
            partial(our_pictures, "demo", side, denoise=False),
            partial(reference_pictures, "demo", side),
        ),
        f"StyleCLIP {side}x{side}": (partial(our_faces, "demo"), partial(reference_faces, "demo")),
    }
    rows = []
    for name, (ours, theirs) in models.items():
        batch, threads = partial(ours, jobs=JOBS), partial(ours, jobs=JOBS, threads=True)
        many = f"{name}, {JOBS} at once"
        rows += [
            Row(name, ours, theirs, steps),
            Row(
                f"{many}, and {JOBS} threads of the reference", batch, partial(theirs, jobs=JOBS), steps, JOBS
            ),
            Row(f"{many}, and {JOBS} threads of ours", batch, threads, steps, JOBS),
        ]
    name = f"LatentRevisions {side}x{side}, with the denoiser"
    as_served = Row(
        name, partial(our_pictures, "demo", side), partial(reference_pictures, "demo", side), steps
    )
    return [rows[0], as_served, *rows[1:]]


def in_float32(make: Callable[[], Work]) -> Work:
    """As on a processor that does not compute in bfloat16; in the process of a row."""
    os.environ["PRECISION"] = "float32"
    return make()


def full_rows(steps: int) -> list[Row]:
    """A job alone, on networks of the published sizes; then the same in float32."""
    pictures = [
        Row(
            f"LatentRevisions {side}x{side}, full size",
            partial(our_pictures, "full", side),
            partial(reference_pictures, "full", side),
            steps,
        )
        for side in (256, 512)
    ]
    faces = Row(
        "StyleCLIP 1024x1024, full size", partial(our_faces, "full"), partial(reference_faces, "full"), steps
    )
    rows = [*pictures, faces]
    return rows + [
        replace(
            row,
            name=f"{row.name}, in float32",
            ours=partial(in_float32, row.ours),
            dtype=torch.float32,
        )
        for row in rows
    ]


def product_peak(dtype: torch.dtype, side: int = 4096, times: int = 3, device: torch.device = CPU) -> float:
    """Operations a second of a product of two square matrices, the fastest of several."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        float((a @ b)[0, 0])  # waits for a GPU
        taken.append(time.perf_counter() - began)
    return 2 * side**3 / min(taken)


def whole_jobs(times: int = 1) -> dict[str, list[float]]:
    """Print and return how long a job with its default settings takes, on the demo weights, several times."""
    print("whole jobs on the demo weights, with their default settings")
    taken: dict[str, list[float]] = {}
    pictures, faces = load_latent_revisions("demo", "cpu"), load_style_clip("demo", "cpu")
    photo = PHOTOS / "face.jpeg"
    jobs = {
        f"LatentRevisions, {pictures.hyperparameters.iterations} steps": partial(
            run, pictures, LatentRevisionsParams(prompt=PICTURE, seed=1)
        ),
        f"StyleCLIP, {faces.hyperparameters.iterations} steps": partial(
            run, faces, StyleCLIPParams(prompt=FACE, seed=1, img_path=photo)
        ),
    }
    for name, job in jobs.items():
        for _ in range(times):
            began = time.perf_counter()
            job()
            taken.setdefault(name, []).append(time.perf_counter() - began)
        print(f"  {name:64} {' '.join(f'{seconds:8.1f} s' for seconds in taken[name])}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="of a measurement on the demo weights (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default %(default)s)")
    parser.add_argument(
        "--full", action="store_true", help="measure full-size networks too; needs 12 GB of memory"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure only rows whose names contain TEXT"
    )
    options = parser.parse_args()
    fast = Precision(CPU).dtype
    print(f"{torch.get_num_threads()} threads, {options.rounds} rounds; ours computes in {fast}")
    peaks = {dtype: product_peak(dtype) for dtype in dict.fromkeys([fast, torch.float32])}
    for dtype, peak in peaks.items():
        print(f"peak of a {dtype} matrix product: {peak / 1e9:.0f} GFLOP/s")
    print(f"{'a step of a job':66} {'ours':>10}  {'reference':>10}  ratio  {'limit':>10}")
    rows = demo_rows(options.steps) + (full_rows(steps=1) if options.full else [])
    for row in rows:
        if options.only in row.name:
            row.measure(options.rounds, peaks)
    if not options.only:
        whole_jobs()


if __name__ == "__main__":
    main()
