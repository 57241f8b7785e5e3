"""How well the demo weights draw what they are told: `python -m training.evaluate`.

Prints tables and writes them, with contact sheets, to var/evaluation; docs/models.md explains them. Pictures
are made as users make them, with default settings and fixed seeds, and read by the reader
(`training.reader`), whose own errors stand beside: what it reads right on true drawings is the most that can
be reached. Pictures once made are kept there: a run that was stopped goes on, and one with other weights or
other code makes its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.evaluation.autoencoder import autoencoder
from training.evaluation.bench import Bench
from training.evaluation.edits import edits
from training.evaluation.faces import faces
from training.evaluation.going_on import going_on
from training.evaluation.inversions import inversions
from training.evaluation.masks import masks
from training.evaluation.photos import photos
from training.evaluation.prompts import prompts, steps
from training.evaluation.texts import texts
from training.evaluation.weights import weights
from training.run import ROOT

METHODS = ["optimisation", "global", "mapper", "sliders"]
PARTS = {
    "autoencoder": autoencoder,
    "prompts": prompts,
    "steps": steps,
    "weights": weights,
    "going_on": going_on,
    "texts": texts,
    "masks": masks,
    "faces": faces,
    "inversions": inversions,
    "edits": edits,
    "photos": photos,
}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "var" / "evaluation", help="folder for tables, sheets, pictures")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    add("--drawings", type=int, default=500, help="for the reader and VQGAN (default %(default)s)")
    add("--prompts", type=int, default=200, help="(default %(default)s)")
    add(
        "--step-prompts",
        type=int,
        default=32,
        help="made with several numbers of steps (default %(default)s)",
    )
    add("--starts-only", action="store_true", help="prompts: the learned start alone, no steps")
    add("--cases", type=int, default=50, help="for each weight (default %(default)s)")
    add("--rows", type=int, default=4, help="sheets of rows of weights (default %(default)s)")
    add("--going-on", type=int, default=32, help="prompts that go on (default %(default)s)")
    add("--masks", type=int, default=100, help="scenes with a masked object (default %(default)s)")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="of edits: " + ", ".join(METHODS))
    add("--edits", type=int, default=200, help="(default %(default)s)")
    add("--faces", type=int, default=200, help="and as many pictures without (default %(default)s)")
    add("--inversions", type=int, default=200, help="(default %(default)s)")
    add("--photos", type=int, default=100, help="scenes with a face in them (default %(default)s)")
    add("--iterations", type=int, help="steps of each job, instead of the models' own")
    add("--refine", type=int, help="steps that refine each inversion, instead of the weights' own")
    add("--batch", type=int, default=4, help="jobs optimised together (default %(default)s)")
    add("--threads", type=int, default=2, help="processor threads (default %(default)s)")
    options = parser.parse_args(given)
    if min(options.prompts, options.step_prompts) < 2:
        parser.error("--prompts and --step-prompts must be at least 2: one picture has no Fréchet distance")
    return options


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    for part in options.only:
        PARTS[part](bench)
        bench.write(part)


if __name__ == "__main__":
    main()
