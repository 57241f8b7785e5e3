"""How many jobs are advanced in a pass: told by a clock that passes move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.queue.jobs import Jobs
from mead.worker.warm_up import jobs_in_a_pass
from tests.colours import ColourPipeline, ColourRevision, make_engine
from tests.mead.worker.test_engine import put


class Costly(ColourPipeline):
    """One whose steps take a time that depends on the number of jobs.

    Args:
        cost: the seconds of a step of so many jobs.
    """

    def __init__(self, cost: Callable[[int], float], room: int = 100) -> None:
        super().__init__(room)
        self.cost = cost
        self.queued = 0.0  # seconds of work that nobody has waited for
        self.now = 0.0

    def step(self, revisions: Sequence[ColourRevision]) -> None:
        super().step(revisions)
        self.queued += self.cost(len(revisions)) * (1 if len(revisions) in self.batches[:-1] else 100)

    def wait(self) -> None:
        self.now += self.queued
        self.queued = 0

    def best(self, most: int) -> int:
        jobs = [LatentRevisionsParams(prompt="teal", seed=seed, iterations=99) for seed in range(most)]
        return jobs_in_a_pass(self, [self.start(job) for job in jobs], self.wait, lambda: self.now)


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        (lambda jobs: jobs, 1),  # each alone keeps the GPU busy
        (lambda jobs: 1, 6),  # further ones cost nothing
        (lambda jobs: 1 + jobs, 6),
        (lambda jobs: 0.04 + jobs, 1),  # 4 %, for which it is not worth it
        (lambda jobs: max(jobs, 3.9), 4),  # four keep it busy
        (lambda jobs: 1 + jobs**2 / 4, 2),  # many are slower
    ],
)
def test_the_fewest_that_cost_hardly_more_than_the_best(cost: Callable[[int], float], best: int) -> None:
    assert Costly(cost).best(6) == best


def test_no_more_than_fit_in_memory() -> None:
    pipeline = Costly(lambda jobs: 1, room=3)
    assert pipeline.best(8) == 2
    assert set(pipeline.batches) == {1, 2}
    assert Costly(lambda jobs: 1, room=0).best(8) == 1


def test_the_jobs_of_an_engine_advance_in_such_passes(jobs: Jobs, storage: FolderStorage) -> None:
    colours = ColourPipeline()
    engine = make_engine(colours, jobs, storage, capacity=5, in_a_pass=2)
    for number in range(5):
        put(jobs, f"j{number}")
    engine.step()
    assert colours.batches == [2, 2, 1]
    assert engine.load().running == 5
