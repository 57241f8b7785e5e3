"""Many pictures made as users make them, in batches, and kept: a long evaluation that was stopped goes on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from mead.imaging.encoding import write_picture
from mead.params import JobParams
from mead.revision import Pipeline, Revision
from mead.weights.sets import WeightSet
from training.run import ROOT

P = TypeVar("P", bound=JobParams)
T = TypeVar("T")


class Studio(Generic[P]):
    """Runs jobs on a pipeline and keeps their pictures in a folder.

    Args:
        pipeline: makes the pictures.
        folder: holds a PNG for each job, named after all that it follows from: the job's parameters and
            pictures, the weights, the code that draws.
        batch: how many jobs are optimised together.
    """

    def __init__(self, pipeline: Pipeline[Any], folder: Path, batch: int) -> None:
        self.pipeline = pipeline
        self.folder = folder
        self.batch = batch
        self._origin = origin()

    def starts(self, jobs: Sequence[P]) -> list[Image.Image]:
        """Where each job starts: its picture before the first step."""
        for job in jobs:
            if not self._path(job, "start").exists():
                self._keep(self.pipeline.start(job), job, "start")
        return [self._open(job, "start") for job in jobs]

    def pictures(
        self,
        jobs: Sequence[P],
        also: Callable[[P, Any], Iterable[tuple[P, Revision]]] = lambda job, revision: (),
    ) -> list[Image.Image]:
        """What each job makes.

        Args:
            also: says for a job and its finished revision which other jobs that answers, and with what; these
                pictures are kept, too.
        """
        missing = list({self._path(job, "end"): job for job in jobs}.items())
        missing = [(path, job) for path, job in missing if not path.exists()]
        for done, some in enumerate(chunks(missing, self.batch)):
            print(f"\rpicture {done * self.batch} of {len(missing)} ", end="", file=sys.stderr, flush=True)
            revisions = [self.pipeline.start(job) for _, job in some]
            while unfinished := [revision for revision in revisions if not revision.finished]:
                self.pipeline.step(unfinished)
            for revision, (_, job) in zip(revisions, some, strict=True):
                for one, its in ((job, revision), *also(job, revision)):
                    self._keep(its, one, "end")
        return [self._open(job, "end") for job in jobs]

    def _keep(self, revision: Revision, job: P, moment: str) -> None:
        write_picture(self.pipeline.image(revision), self._path(job, moment))

    def _open(self, job: P, moment: str) -> Image.Image:
        with Image.open(self._path(job, moment)) as picture:
            return picture.convert("RGB")

    def _path(self, job: P, moment: str) -> Path:
        given = job.model_dump_json(exclude={f"{name}_path" for name in job.pictures()})
        seen = [f"{name} {digest(path.read_bytes())}" for name, path in job.pictures().items()]
        name = digest("\n".join([self._origin, type(job).__name__, moment, given, *seen]).encode())
        return self.folder / f"{name}.png"


def origin() -> str:
    """What the pictures follow from beside their parameters: the demo weights and the code that draws."""
    weights = WeightSet.find("demo")
    code = [*sorted(ROOT.glob("LatentRevisions/*.py")), *sorted(ROOT.glob("StyleCLIP/*.py"))]
    sums = [str(file.sha256) for file in weights.files.values()]
    return "\n".join([*sums, repr(weights.models), *(digest(path.read_bytes()) for path in code)])


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in parts of `size`, the last maybe smaller."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
