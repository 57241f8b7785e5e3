"""How many jobs fit in memory: what steps take is measured, and no further job is admitted than fits."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
import torch

from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.queue.jobs import Jobs
from mead.worker.memory import RESERVED, ProcessMemory, Room, room_on
from tests.colours import QUEUE, ColourPipeline, make_engine

MEGABYTE = 2**20
JOB = 8 * 8 * 3  # numbers in the latents of a colour


class SmallMachine:
    """A machine that a pipeline's steps fill, with 1 byte for each number of their latents."""

    def __init__(self, pipeline: ColourPipeline, room: int) -> None:
        self.pipeline = pipeline
        self.room = room

    def used(self) -> int:
        return 0

    def peak(self) -> int:
        return JOB * max(self.pipeline.batches, default=0)

    def free(self) -> int:
        return self.room


def test_what_this_process_takes() -> None:
    memory = ProcessMemory()
    before = memory.used()
    with mmap.mmap(-1, 100 * MEGABYTE) as block:  # not of the heap, so that it goes back to the system
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert memory.used() - before > 90 * MEGABYTE
    assert memory.peak() - before > 90 * MEGABYTE and memory.used() < memory.peak()
    assert memory.free() > 0


def test_what_was_freed_before_is_not_what_a_process_takes() -> None:
    """A step that takes it again takes memory, as much as one of a process that never had it."""
    kept = [bytearray(100_000) for _ in range(3_000)]  # small enough for the heap
    below_the_top = bytearray(100_000)
    del kept
    memory = ProcessMemory()
    before = memory.used()
    block = torch.ones(100 * MEGABYTE, dtype=torch.uint8)
    assert memory.peak() - before > 90 * MEGABYTE
    del block, below_the_top


def test_what_was_measured_tells_what_fits() -> None:
    room = room_on(torch.device("cpu"))
    assert room is not None
    block = torch.ones(200 * MEGABYTE, dtype=torch.uint8)  # what a step with 200 numbers takes
    room.measure(200)
    del block
    assert room.has(200)
    free = room.memory.free() // MEGABYTE
    assert room.has(free // 2) and not room.has(2 * free)
    room.measure(100)  # of a smaller step, the peak says nothing
    assert room.has(free // 2)


def put(jobs: Jobs, name: str, **more: Any) -> None:
    params = LatentRevisionsParams(prompt="teal", seed=1, iterations=5, **more)
    jobs.enqueue(name, "lr", QUEUE, params.model_dump(mode="json", exclude_none=True))


@pytest.mark.parametrize(("fit", "most"), [(2, 2), (3, 3), (100, 4)])
def test_no_more_jobs_at_once_than_fit(jobs: Jobs, storage: FolderStorage, fit: int, most: int) -> None:
    """The first step is taken by one job, and measured; then others join it."""
    pipeline = ColourPipeline()
    room = Room(SmallMachine(pipeline, int(JOB * fit / (1 - RESERVED)) + 1))
    engine = make_engine(pipeline, jobs, storage, room=room)
    for name in "abcdef":
        put(jobs, name)
    for _ in range(30):
        engine.step()
    assert all(jobs.get(name).status == "succeeded" for name in "abcdef")
    assert pipeline.batches[0] == 1 and max(pipeline.batches) == most
    assert all(jobs.get(name).attempts == 1 for name in "abcdef")


def test_a_job_that_is_too_large_for_what_is_known_is_tried_alone(jobs: Jobs, storage: FolderStorage) -> None:
    pipeline = ColourPipeline()
    engine = make_engine(pipeline, jobs, storage, room=Room(SmallMachine(pipeline, JOB // 2)))
    for name in "ab":
        put(jobs, name)
    for _ in range(15):
        engine.step()
    assert all(jobs.get(name).status == "succeeded" for name in "ab") and set(pipeline.batches) == {1}


def test_a_finished_job_that_was_never_measured_holds_nobody_up(jobs: Jobs, storage: FolderStorage) -> None:
    """Such as one that only shows another one's edit anew, while its picture cannot be stored."""
    pipeline = ColourPipeline()
    engine = make_engine(pipeline, jobs, storage, room=Room(SmallMachine(pipeline, 10 * JOB)))
    put(jobs, "a")
    engine.admit()
    (first,) = engine.batch.jobs.values()
    assert engine.batch.is_full
    first.revision.step = first.revision.steps
    assert not engine.batch.is_full
