"""Run a script of the project, or `mead`, with the toy model: `python tests/toy/run.py SCRIPT ...`."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from mead.registry import MODELS
    from tests.toy.spec import SPEC

    MODELS[SPEC.type] = SPEC
    script, *sys.argv[1:] = sys.argv[1:]
    if script == "mead":
        runpy.run_module("mead", run_name="__main__")
    else:
        runpy.run_path(str(ROOT / script), run_name="__main__")
