"""How long the full-size networks take to load, and what memory: `python -m benchmarks.loading`.

The weights are made up by the rule of tests/parity.py, written in the published formats, and converted as
fetched ones are: 2.3 GB that stay in --folder. Every measurement is a process of its own, with the files in
the disk cache. Imports are told apart: a process pays for them once, whatever it loads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SET = "made_up"
MODELS = {"LatentRevisions": ("clip", "vqgan"), "StyleCLIP": ("clip", "stylegan2", "e4e", "identity")}


def make(folder: Path) -> None:
    """Make the set in `folder`, a WEIGHTS_DIR."""
    from mead.weights import conversion
    from mead.weights.lock import Lock, VerifiedFile
    from mead.weights.sets import FOLDER, WeightSet
    from tests import full_size, originals, parity

    home = folder / SET
    home.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (_, networks) in WeightSet.find("full", FOLDER / "manifest.toml").downloads.items():
        original = home / name
        if "clip" in networks:  # as published: the matrices in half precision
            halved = ("proj", "proj_weight", "proj.weight", "fc.weight", "conv1.weight", "projection")
            clip = parity.load("clip_vit_b_32").state_dict.items()
            originals.clip(
                {key: tensor.half() if key.endswith(halved) else tensor for key, tensor in clip}, original
            )
        else:
            full_size.write(name, original)
        for network in networks:
            target = home / f"{network}.safetensors"
            conversion.convert(original, network, target)
            files[network] = VerifiedFile.of(target, name)
        original.unlink()
    Lock(files=files).write(home)
    (home / "manifest.toml").write_text('description = "Full-size networks with made-up weights."\n', "utf-8")


def measure(model: str) -> dict[str, float]:
    """Load a model in this process; seconds and megabytes by what they are."""
    began = time.perf_counter()
    if model == "LatentRevisions":
        from LatentRevisions.pipeline import load_pipeline
    else:
        from StyleCLIP.StyleCLIP import load_pipeline  # type: ignore[assignment]
    imported = time.perf_counter()
    busy, own, peak = time.process_time(), memory("RssAnon"), memory("VmHWM")
    load_pipeline(SET, "cpu")
    return {
        "imports, s": imported - began,
        "ready after, s": time.perf_counter() - imported,
        "of these computing, s": time.process_time() - busy,
        "own memory, MB": memory("RssAnon") - own,
        "peak with mapped files, MB": memory("VmHWM") - peak,
    }


def memory(kind: str) -> float:
    """What /proc says of this process, in MB: RssAnon is memory that is no file's, VmHWM the peak of all."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"/proc/self/status says nothing of {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("var/loading"), help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default %(default)s)")
    parser.add_argument("--measure", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    if not (options.folder / SET / "manifest.toml").exists():
        make(options.folder)
    environment = {**os.environ, "WEIGHTS_DIR": str(options.folder.resolve())}
    for model, networks in MODELS.items():
        sizes = [(options.folder / SET / f"{network}.safetensors").stat().st_size for network in networks]
        rounds: list[dict[str, Any]] = []
        for _ in range(options.rounds + 1):  # the first warms the disk cache
            command = [sys.executable, "-m", "benchmarks.loading", "--measure", model]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            rounds.append(json.loads(done.stdout))
        print(f"{model}: files of {sum(sizes) / 1e6:,.0f} MB")
        for name in rounds[0]:
            values = [measured[name] for measured in rounds[1:]]
            print(
                f"  {name:28} {statistics.median(values):8,.2f}  ({min(values):,.2f} to {max(values):,.2f})"
            )


if __name__ == "__main__":
    main()
