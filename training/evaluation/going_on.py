"""Going on with half as many further steps; and whether the smallest loss belongs to a better picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.revision import LatentRevision
from mead.provenance import Weights
from mead.resuming import Origin, latents_file, resume
from training.evaluation import cases
from training.evaluation.bench import Bench, right, share
from training.evaluation.studio import chunks

WAYS = ("learned", "noise")


def going_on(bench: Bench) -> None:
    """From a learned start and from noise: attributes read right after a job's steps, and after more."""
    asked = list(cases.prompts(bench.options.going_on))
    rows = []
    for way in WAYS:
        jobs = [bench.job(case.prompt, seed, start=way) for seed, case in enumerate(asked)]
        found: dict[str, list[Image.Image]] = {"the last step": [], "the step of the smallest loss": []}
        longer: list[tuple[Image.Image, Image.Image]] = []
        for some in chunks(jobs, bench.options.batch):
            for last, best, resumed, whole in _made(bench, some):
                found["the last step"].append(last)
                found["the step of the smallest loss"].append(best)
                longer.append((resumed, whole))
        found["half as many further steps"] = [resumed for resumed, _ in longer]
        for name, pictures in found.items():
            readings = zip(bench.read(pictures), asked, strict=True)
            rows.append(
                [
                    way,
                    name,
                    share(hit for reading, case in readings for hit in right(reading, case.named)),
                    "",
                ]
            )
        rows[-1][-1] = share(resumed.tobytes() == whole.tobytes() for resumed, whole in longer)
    head = ("start", "picture of", "named attributes right", "the same as all steps at once")
    bench.table(f"Going on, {len(asked)} prompts", head, rows)


def _made(
    bench: Bench, jobs: Sequence[LatentRevisionsParams]
) -> list[tuple[Image.Image, Image.Image, Image.Image, Image.Image]]:
    """For each job: its picture, that of the smallest loss in its second half, that after further steps, and
    that of a job with all of the steps.
    """
    pipeline = bench.latent_revisions
    here = Origin(model="LatentRevisions", weights=Weights.of("demo"), device="cpu")
    ended = [pipeline.start(job) for job in jobs]
    best = _run(bench, ended)
    lasts = [pipeline.image(revision) for revision in ended]
    longer = [
        job.model_copy(update={"iterations": one.steps + max(1, one.steps // 2)})
        for job, one in zip(jobs, ended, strict=True)
    ]
    whole = [pipeline.start(job) for job in longer]
    resumed = []
    for job, before in zip(longer, ended, strict=True):
        content = latents_file(before, here)
        assert content is not None
        resumed.append(resume(pipeline, job, content, here))
    for revisions in (resumed, whole):
        _run(bench, revisions)
    pictures = ([pipeline.image(revision) for revision in revisions] for revisions in (resumed, whole))
    return list(zip(lasts, best, *pictures, strict=True))


def _run(bench: Bench, revisions: Sequence[LatentRevision]) -> list[Image.Image]:
    """Take all steps; the pictures of the smallest loss in the second half."""
    pipeline = bench.latent_revisions
    smallest = [float("inf")] * len(revisions)
    kept = [revision.latents.detach().clone() for revision in revisions]
    while not revisions[0].finished:
        before = [revision.latents.detach().clone() for revision in revisions]
        pipeline.step(revisions)
        for k, revision in enumerate(revisions):
            if revision.step > revision.steps / 2 and revision.loss < smallest[k]:
                smallest[k], kept[k] = revision.loss, before[k]  # the loss is that before the step
    pictures = []
    for revision, latents in zip(revisions, kept, strict=True):
        last = revision.latents.detach().clone()
        with torch.no_grad():
            revision.latents.copy_(latents)
            pictures.append(pipeline.image(revision))
            revision.latents.copy_(last)
    return pictures
