"""The time to the judge's score: `python -m benchmarks.judged`.

How long our pictures take until they show as much of their prompts, and are as close to drawings, as those of
the published algorithm at the end of its run. Demo weights, held-out prompts. The judges are those of the
evaluation: the share of named attributes that the reader sees, and the Fréchet distance in its features from
drawings of the same prompts (docs/models.md). Starts and steps count as time, not the decoding of what is
judged. What saves work (an early end, fewer cutouts at first, steps at half the size) is judged as well.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed import latent_revisions, picture_settings, read
from LatentRevisions.params import LatentRevisionsParams
from mead.imaging.tensors import to_tensor
from training.evaluation import cases
from training.evaluation.autoencoder import reconstructions
from training.evaluation.bench import right
from training.evaluation.frechet import Judge
from training.pictures import tensor
from training.reader import Reader
from training.world import draw

MOMENTS = (0, 2, 5, 10, 20, 40)
"""The steps after which pictures are judged; the last is the demo set's default."""

Job = Iterator[tuple[Tensor, float]]
"""Makes one picture: after each of MOMENTS, the picture [1, 3, H, W] in [0, 1] and the seconds so far."""


@dataclass(frozen=True)
class Score:
    """What the judges say of the pictures of one way, after some steps."""

    way: str
    steps: int
    seconds: float  # a picture, so far
    named: float  # the share of named attributes that the reader sees
    distance: float  # from drawings of the same prompts

    def reaches(self, other: Score) -> bool:
        """Whether both judges find these pictures at least as good as the other ones."""
        return self.named >= other.named and self.distance <= other.distance


def run(begin: Callable[[], tuple[Callable[[], object], Callable[[], Tensor]]]) -> Job:
    """`begin` returns what takes a step and what gives the picture so far."""
    taken, began = 0.0, time.perf_counter()
    step, picture = begin()
    done = 0
    for moment in MOMENTS:
        while done < moment:
            step()
            done += 1
        taken += time.perf_counter() - began
        yield picture(), taken
        began = time.perf_counter()


def published(prompt: str, seed: int) -> Job:
    """As published: from noise, in float32."""
    # here, as it comes with open_clip, which benchmarks.speed would count as memory of ours
    from benchmarks import reference

    settings = picture_settings("demo")
    clip, vqgan = reference.CLIP(read("demo", "clip")), reference.floats(read("demo", "vqgan"))

    def begin() -> tuple[Callable[[], object], Callable[[], Tensor]]:
        torch.manual_seed(seed)
        job = reference.LatentRevisions(clip, vqgan, settings, prompt, settings.sides)

        @torch.no_grad()
        def picture() -> Tensor:
            return (reference.decode(vqgan, job.z.detach()).clamp(-1, 1) + 1) / 2

        return job.step, picture

    return run(begin)


def ours(prompt: str, seed: int, start: str, patience: int = 0, **settings: Any) -> Job:
    """As the demo set makes it, from noise or from its learned start.

    Args:
        settings: hyperparameters that are to differ from the set's.
    """
    pipeline = copy.copy(latent_revisions("demo"))
    pipeline.hyperparameters = replace(pipeline.hyperparameters, **settings)

    def begin() -> tuple[Callable[[], object], Callable[[], Tensor]]:
        params = LatentRevisionsParams(
            prompt=prompt, seed=seed, iterations=MOMENTS[-1], start=start, patience=patience, upscale=1
        )
        revision = pipeline.start(params)

        def step() -> None:
            if not revision.finished:
                pipeline.step([revision])

        return step, lambda: to_tensor(pipeline.image(revision))

    return run(begin)


WAYS: dict[str, Callable[[str, int], Job]] = {
    "published, from noise": published,
    "ours, from noise": partial(ours, start="noise"),
    "ours, from noise, 3 cutouts at first": partial(ours, start="noise", first_cutouts=3),
    "ours, from noise, 30% of the steps at half the size": partial(ours, start="noise", half_size=0.3),
    "ours, learned start": partial(ours, start="learned"),
    "ours, learned start, `patience=5`": partial(ours, start="learned", patience=5),
}


def scores(number: int) -> list[Score]:
    """The scores of each way at each moment, of the first `number` prompts of the evaluation."""
    asked = list(cases.prompts(number))
    reader = Reader.load()
    rebuilt, _ = reconstructions(latent_revisions("demo"), tensor([draw(case.drawing) for case in asked]))
    judge = Judge(reader, rebuilt)
    found = []
    for way, make in WAYS.items():
        for _ in make(asked[0].prompt, 0):  # PyTorch chooses its kernels
            pass
        jobs = [list(make(case.prompt, seed)) for seed, case in enumerate(asked)]
        for moment, steps in enumerate(MOMENTS):
            pictures = torch.cat([job[moment][0] for job in jobs]) * 2 - 1
            readings = zip(reader.read(pictures), asked, strict=True)
            hits = [hit for reading, case in readings for hit in right(reading, case.named)]
            seconds = sum(job[moment][1] for job in jobs) / number
            distance, _ = judge.distances(pictures)
            found.append(Score(way, steps, seconds, sum(hits) / len(hits), distance))
    return found


def last_published(found: Sequence[Score]) -> Score:
    """The score of the published algorithm at its end."""
    return [score for score in found if score.way.startswith("published")][-1]


def reached(found: Sequence[Score]) -> dict[str, Score | None]:
    """For each of our ways, the first score that reaches the published algorithm's last."""
    last = last_published(found)
    return {
        way: next((score for score in found if score.way == way and score.reaches(last)), None)
        for way in dict.fromkeys(score.way for score in found)
        if way != last.way
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24, help="(default %(default)s)")
    found = scores(parser.parse_args().prompts)
    for score in found:
        print(
            f"{score.way:52} {score.steps:3} steps {score.seconds:7.2f} s  named {score.named:6.1%}  "
            f"distance {score.distance:6.1f}"
        )
    last = last_published(found)
    for way, first in reached(found).items():
        share = "not reached" if first is None else f"{first.seconds / last.seconds:.1%} of the time"
        print(f"{way}: {share}")


if __name__ == "__main__":
    main()
