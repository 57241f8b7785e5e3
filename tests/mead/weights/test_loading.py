"""Networks are loaded once, and not used behind a fork that they would hang in."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from LatentRevisions.LatentRevisions import LatentRevisions, load_pipeline
from mead.openmp import LOWEST_SPIN_COUNT
from mead.weights.errors import WeightsError
from mead.weights.loading import OncePerProcess
from mead.weights.perceptor import load_perceptor
from StyleCLIP.StyleCLIP import StyleCLIP
from StyleCLIP.StyleCLIP import load_pipeline as load_faces

ROOT = Path(__file__).parents[3]
JOBS: list[tuple[type[LatentRevisions] | type[StyleCLIP], int]] = [
    (LatentRevisions, 1),
    (LatentRevisions, 2),
    (StyleCLIP, 1),
    (LatentRevisions, 1),
]


def make(folder: Path, model: type[LatentRevisions] | type[StyleCLIP], seed: int) -> bytes:
    """A picture, made in a few steps."""
    made = model("a red house", seed=seed, iterations=2, output_path=folder, device="cpu")
    return Path(made.run()).read_bytes()


def make_with_threads(threads: int, folder: Path) -> bytes:
    torch.set_num_threads(threads)
    return make(folder, LatentRevisions, 1)


def test_threads_that_ask_at_once_get_one() -> None:
    loaded = []

    @OncePerProcess
    def load(weights: str, device: str) -> object:
        loaded.append(weights)
        time.sleep(0.2)
        return object()

    with ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)
        given = list(pool.map(lambda _: (barrier.wait(), load("demo", "cpu"))[1], range(8)))
    assert loaded == ["demo"] and len(set(map(id, given))) == 1
    assert load("demo", "cpu") is not load("other", "cpu")


def test_what_fails_to_load_is_tried_again() -> None:
    tries = iter([WeightsError("not whole"), None])

    @OncePerProcess
    def load(weights: str, device: str) -> str:
        if error := next(tries):
            raise error
        return weights

    with pytest.raises(WeightsError, match="not whole"):
        load("demo", "cpu")
    assert load("demo", "cpu") == "demo"


def test_the_same_networks_however_they_are_asked_for() -> None:
    assert load_pipeline() is load_pipeline("demo") is load_pipeline(device="cpu", weights="demo")
    assert load_pipeline().perceptor is load_faces().perceptor is load_perceptor()


@pytest.mark.slow
def test_pictures_made_in_threads_are_those_made_one_by_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(JOBS)) as pool:
        together = list(pool.map(lambda job: make(tmp_path, *job), JOBS))
    assert together == [make(tmp_path, *job) for job in JOBS]


BEHIND_A_FORK = """
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import torch

from tests.mead.weights.test_loading import Path, StyleCLIP, make, make_with_threads

def pool(method):
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method))

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(2)
    {before}
    with pool("fork") as forked, pool("spawn") as spawned:
        for threads, processes in ((2, forked), (1, forked), (2, spawned)):
            try:
                assert processes.submit(make_with_threads, threads, folder).result(300)
                print("made")
            except RuntimeError as error:
                print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "make(folder, StyleCLIP, 1)"])
def test_behind_a_fork(tmp_path: Path, before: str) -> None:
    """A child of a process that has made a picture says what to do; one of a fresh process works."""
    script = tmp_path / "script.py"
    script.write_text(BEHIND_A_FORK.format(before=before))
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "GOMP_SPINCOUNT": LOWEST_SPIN_COUNT},
        capture_output=True,
        text=True,
        timeout=900,
    )
    said = done.stdout.splitlines()
    assert len(said) == 3, done.stderr
    assert said[1:] == ["made", "made"]
    if not before:
        assert said[0] == "made"
    else:
        assert "was forked after process" in said[0] and '"spawn"' in said[0]
        assert "torch.set_num_threads(1)" in said[0]
