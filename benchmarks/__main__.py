"""Measures how fast everything is on this machine, and writes docs/performance.md: `python -m benchmarks`.

- Steps, share of the peak and memory, beside the published algorithms: `benchmarks.speed`.
- Jobs at once, in a batch and in threads of one job each.
- The time until our pictures are judged as good as the published algorithm's: `benchmarks.judged`.
- The first job of a process beside later ones, and the time from the command to a ready service.
- On GPUs: what `benchmarks.gpu` printed on some, kept in benchmarks/gpus.toml, and an estimate for others.

Nothing else should run meanwhile: it takes about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import requests
import torch

from benchmarks import judged, speed
from benchmarks.speed import Measured, Measurement, Work
from mead.cli.local_redis import free_port
from mead.files import write_whole
from mead.nn.precision import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE, PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.png"
COUNTS = (1, 2, 4, 8, 16)
JUDGED = 24  # prompts
H200_BANDWIDTH = 4.8  # TB/s, by its data sheet
CARDS = {"T4": (65, 0.32), "L4": (121, 0.30), "H100": (989, 3.35)}
"""Data sheets: TFLOP/s in half precision, dense, and TB/s of memory."""
REACHED = 0.4
"""The share of a data sheet's peak that is taken for the estimate."""


def jobs_at_once(steps: int, rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of each round of `steps` steps, of 1 to 16 jobs, in a batch and in threads."""
    side, _ = speed.picture_settings("demo").sides
    models: dict[str, Callable[..., Work]] = {
        "LatentRevisions": partial(speed.our_pictures, "demo", side),
        "StyleCLIP": partial(speed.our_faces, "demo"),
    }
    found: dict[str, list[list[float]]] = {}
    for model, make in models.items():
        for how, threads in (("in a batch", False), ("in threads", True)):
            for count in COUNTS:
                measured = Measured(partial(make, jobs=count, threads=threads))
                taken = [measured.seconds(steps) / steps for _ in range(rounds)]
                measured.stop()
                found.setdefault(f"{model}, {how}", []).append(taken)
                print(f"{model}, {count} {how}: {statistics.median(taken) / count:.4f} s a step and job")
    return found


def seconds_until_ready() -> float:
    """From the command `mead serve` to the first success of /readyz, on the demo set."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PORT": str(port), "DATA_DIR": folder, "REDIS_URL": ""}
        began = time.perf_counter()
        command = [sys.executable, "-m", "mead", "serve"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT) as service:
            try:
                while not _ready(f"http://127.0.0.1:{port}/readyz"):
                    if service.poll() is not None:
                        raise RuntimeError("the service has ended")
                    time.sleep(0.02)
                return time.perf_counter() - began
            finally:
                service.terminate()
                service.wait()


def _ready(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def steps_table(rows: Sequence[Measurement]) -> str:
    """Steps beside the published algorithms."""
    return table(
        ["a step of a job", "published, s", "ours, s", "ratio", "share of the peak", "memory of published"],
        (
            [
                row.name,
                f"{row.other:.3g}",
                f"{row.ours:.3g}",
                f"**{row.other / row.ours:.2f}**",
                f"{row.limit / row.ours:.0%}" if row.limit else "",  # of other threads, nothing is counted
                f"{row.memory / row.other_memory:.2f}",
            ]
            for row in rows
        ),
    )


def jobs_table(found: Mapping[str, list[list[float]]]) -> str:
    """Jobs at once: throughput, and what a step takes for each of them."""
    rows = []
    for name, counts in found.items():
        for count, taken in zip(COUNTS, counts, strict=True):
            ordered = sorted(taken)
            late = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
            middle = statistics.median(taken)
            rows.append([name, count, f"{count / middle:.1f}", f"{middle:.3f}", f"{late:.3f}"])
    return table(["", "jobs", "steps a second, of all", "a step, s, p50", "p95"], rows)


def judged_table(scores: Sequence[judged.Score]) -> str:
    """What the judges say of the pictures of each way, and when ours reach the published algorithm's."""
    first = judged.reached(scores)
    last = judged.last_published(scores)
    rows = []
    for score in scores:
        share = f"{score.seconds / last.seconds:.1%}"
        rows.append(
            [
                score.way,
                score.steps,
                f"{score.seconds:.2f}",
                f"**{share}**" if score in (last, first.get(score.way)) else share,
                f"{score.named:.1%}",
                f"{score.distance:.0f}",
            ]
        )
    head = [
        "",
        "steps",
        "a picture, s",
        "of the published time",
        "named attributes right",
        "Fréchet distance",
    ]
    return table(head, rows)


def plot(found: Mapping[str, list[list[float]]]) -> None:
    """Steps a second by the number of jobs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axes, model in zip(figure.subplots(1, 2), ("LatentRevisions", "StyleCLIP"), strict=True):
        for how in ("in a batch", "in threads"):
            medians = [statistics.median(taken) for taken in found[f"{model}, {how}"]]
            axes.plot(COUNTS, [n / m for n, m in zip(COUNTS, medians, strict=True)], marker="o", label=how)
        axes.set(title=model, xlabel="jobs at once", ylabel="steps a second", xscale="log", xticks=COUNTS)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(PLOT, dpi=110)


def _gpus() -> list[dict[str, Any]]:
    measured: list[dict[str, Any]] = tomllib.loads((ROOT / "benchmarks" / "gpus.toml").read_text("utf-8"))[
        "measured"
    ]
    return measured


def gpu_tables() -> str:
    """What was measured on GPUs."""
    parts = []
    for card in _gpus():
        rows = []
        for name, eager, graphs, several, *published in card["rows"]:
            ratio = [f"{published[0]:g}", f"**{published[0] / graphs:.1f}**"] if published else ["", ""]
            rows.append([name, eager, graphs, several, *ratio])
        head = ["a step of a job, ms", "alone", "with CUDA graphs", "8 at once, each", "published", "ratio"]
        parts.append(
            f"{card['card']}, PyTorch {card['pytorch']}, {card['date']}; a bfloat16 product reaches "
            f"{card['peak']} TFLOP/s:\n\n{table(head, rows)}"
        )
    return "\n\n".join(parts)


def estimates(operations: Mapping[str, float]) -> str:
    """What a step should take on other cards: from their arithmetic, and from their memory."""
    (card,) = (card for card in _gpus() if card["card"] == "NVIDIA H200")
    measured = {name: graphs for name, _, graphs, *_ in card["rows"]}
    rows = []
    for name, count in operations.items():
        times = [
            f"{1e3 * count / 1e12 / peak / REACHED:.0f} to {measured[name] * H200_BANDWIDTH / bandwidth:.0f}"
            for peak, bandwidth in CARDS.values()
        ]
        rows.append([name, f"{count / 1e12:.2f}", *times])
    return table(["a step of a job", "TFLOP", *(f"{card}, ms" for card in CARDS)], rows)


def page(
    rows: Sequence[Measurement],
    peaks: Mapping[torch.dtype, float],
    found: Mapping[str, list[list[float]]],
    scores: Sequence[judged.Score],
    jobs: Mapping[str, list[float]],
    ready: float,
) -> str:
    """docs/performance.md."""
    fast = max(peaks.values())
    operations = {row.name: row.limit * fast for row in rows if row.name.endswith("full size")}
    named = {str(dtype).removeprefix("torch."): value for dtype, value in peaks.items()}
    peak = "; ".join(f"{name} {value / 1e9:.0f}" for name, value in named.items())
    later = [[name, f"{taken[0]:.2f}", f"{statistics.median(taken[1:]):.2f}"] for name, taken in jobs.items()]
    return f"""# Performance

`.venv/bin/python -m benchmarks --full` has measured this and written the page, {date.today().isoformat()},
on {torch.get_num_threads()} processor cores, where a product of two matrices reaches, in GFLOP/s: {peak}.
Every row is measured in turn with what it is compared with. Figures of different runs do not compare, as
machines are shared.

## A step

"Published" are the algorithms as published, written plainly in `benchmarks/reference.py`: float32, one
picture at a time. Both have the same weights; those of full size are made up. StyleCLIP's published code
freezes no network, so that its steps also compute gradients of all weights; Latent Revisions' freezes all.
"Share of the peak" is the time that the multiplications and additions of our step would take at the peak (of
its number format), divided by the time that it takes. Rows that end in "threads of ours" compare a batch with
a thread for each job. "In float32" is as on a processor without bfloat16 (`PRECISION=float32`).

{steps_table(rows)}

The faster a processor multiplies, the smaller is the share: what else a step does waits for its memory.

## Jobs at once

On the demo weights, with the denoiser.

{jobs_table(found)}

![Steps a second by the number of jobs](performance.png)

## Time to the judge's score

Held-out prompts on the demo weights, with its {judged.MOMENTS[-1]} steps: the share of named attributes that
the reader sees, and the Fréchet distance in its features from drawings of the same prompts (docs/models.md).
So few pictures make all distances large. In bold: the end of the published algorithm's run, and when ours are
as good for both judges.

{judged_table(scores)}

## Whole jobs, and the start

The first job of a process and the median of later ones, with the demo set's own settings, from the form to
the enlarged picture, in seconds:

{table(["", "first", "later"], later)}

From `mead serve` to the first success of `/readyz`: {ready:.1f} s.

## GPUs

{gpu_tables()}

There, the networks of the published StyleCLIP were frozen.

A step never waits for the GPU: losses are told one step late. A seed gives the same picture again, byte for
byte. In a batch, LatentRevisions' pictures round differently than alone, and the optimisation amplifies that
to a similar picture; StyleCLIP's are the same. `CUDA_GRAPHS=1` records the passes of the default size when
the inference server starts, which takes 3 to 6 s; jobs of other sizes run without. It also measures how many
jobs are best advanced in one pass: of 8 on the H200, all 8 of LatentRevisions at 256x256, 4 at 512x512, and
1 of StyleCLIP, which keeps the card busy alone.

**Estimates, not measurements**: the first figure is {REACHED:.0%} of the peak on the card's data sheet (half
precision, dense), the second the H200's time by the cards' memory bandwidths. A step will lie between.

{estimates(operations)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="full-size networks too; needs 12 GB of memory")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default %(default)s)")
    options = parser.parse_args()
    fast = Precision(speed.CPU).dtype
    ready = statistics.median(seconds_until_ready() for _ in range(3))
    print(f"ready after {ready:.1f} s")
    peaks = {dtype: speed.product_peak(dtype) for dtype in dict.fromkeys([fast, torch.float32])}
    rows = [
        row.measure(options.rounds, peaks)
        for row in [*speed.demo_rows(10), *(speed.full_rows(1) if options.full else [])]
    ]
    found = jobs_at_once(steps=10, rounds=options.rounds)
    scores = judged.scores(JUDGED)
    jobs = speed.whole_jobs(4)
    plot(found)
    write_whole(PAGE, page(rows, peaks, found, scores, jobs, ready).encode())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
