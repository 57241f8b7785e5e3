"""How long an edit by a global direction takes, after the inversion: `python -m benchmarks.edits`.

On networks of the published sizes with made-up weights (see tests/parity.py), on the demo set with --demo. An
edit is the directions of its words, the styles and one pass of the generator, up to the picture.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.speed import style_clip
from mead.revision import result_of, start
from StyleCLIP.edits import Edits
from StyleCLIP.global_directions import GlobalDirections, GlobalEdits
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.pipeline import StyleCLIPPipeline


def full_size() -> StyleCLIPPipeline:
    """Networks of the published sizes, with directions."""
    pipeline = style_clip("full")
    torch.manual_seed(0)
    channels = sum(layer.size_in for layer in pipeline.generator.layers)
    directions = GlobalDirections(channels, pipeline.perceptor.embed_dim)
    directions.table.copy_(F.normalize(torch.randn_like(directions.table)))
    directions.deviation.uniform_()
    parts = pipeline.perceptor, pipeline.generator, pipeline.hyperparameters, pipeline.precision
    pipeline.edits = Edits(pipeline.spaces, GlobalEdits(directions, *parts), {}, None)
    return pipeline


def seconds(pipeline: StyleCLIPPipeline, **words: Any) -> float:
    """How long an edit of the average face takes."""
    params = StyleCLIPParams(method="global", beta=0.0, seed=1, upscale=1, **words)
    began = time.perf_counter()
    with torch.no_grad():
        result_of(pipeline, start(pipeline, params))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", action="store_true", help="the demo set instead")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default %(default)s)")
    options = parser.parse_args()
    pipeline = style_clip("demo") if options.demo else full_size()
    print(f"{torch.get_num_threads()} threads, {options.rounds} rounds, in {pipeline.precision.dtype}")
    seconds(pipeline, prompt="a warm start", neutral="a start")
    kinds = {
        "new words, and a new neutral": lambda n: {
            "prompt": f"a person with {n} beards",
            "neutral": f"{n} people",
        },
        "new words": lambda n: {"prompt": f"a smiling person, {n}", "neutral": "a person"},
        "the same words, another alpha": lambda n: {
            "prompt": "a smiling person, 0",
            "neutral": "a person",
            "alpha": n / 2,
        },
    }
    seconds(pipeline, **kinds["new words"](0))
    for kind, words in kinds.items():
        taken = [seconds(pipeline, **words(n)) for n in range(1, options.rounds + 1)]
        spread = f"{min(taken):.2f} to {max(taken):.2f}"
        print(f"{kind:40} {statistics.median(taken):6.2f} s, {spread}", flush=True)


if __name__ == "__main__":
    main()
