"""Edits that have names: what mappers and sliders change and keep, and how much identity they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mead.imaging.tensors import to_tensor
from mead.weights.sets import WeightSet
from StyleCLIP.choices import choices
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.revision import StyleRevision
from training.evaluation import cases
from training.evaluation.bench import Bench, image_of, share
from training.evaluation.edits import Judge, mean
from training.evaluation.sheets import Tile, pages, sheet
from training.evaluation.studio import chunks
from training.levels_mapper import EDITS, NamedEdit
from training.sliders import SLIDERS, growing
from training.world import Face, draw
from training.world.attributes import labels

SLIDER_FACES = 100
POSITIONS = 7  # over a slider's range
SHOWN = 5  # faces on sheets
GLOBAL_SHOWN = 40


def mappers(bench: Bench) -> None:
    """Each mapper on unseen drawn faces that are not so yet."""
    rows, examples = [], []
    for name, edit in EDITS.items():
        asked = list(_edits_by(edit, bench.options.edits))
        judge = Judge(bench, asked)
        jobs = [_job(bench, judge.files[k], mapper=name) for k in range(len(asked))]
        before, after = _before_and_after(bench, jobs)
        tally = judge.tally(bench.read(after))
        survived = mean(judge.survived(bench.read(before)))
        drawn_so = judge.tally(bench.read([draw(one.after) for one in asked])).row()[0]
        rows.append([name, drawn_so, *tally.row(), survived, f"{identity(bench, before, after):.3f}"])
        shown = zip(judge.drawn, before, after, strict=True)
        for number, (drawn, inverted, edited) in zip(range(SHOWN), shown, strict=False):
            first = [Tile(drawn, f"{name} {number + 1}"), Tile(inverted, "inversion")]
            examples += [*first, Tile(edited, name)]
    kept = ("all others kept, mean over attributes", "kept by inversion")
    head = ("", "true drawings of the change", "changed", *kept, "identity")
    bench.table(f"Mappers, {bench.options.edits} unseen drawn faces each", head, rows)
    bench.sheets("mappers", pages(examples, columns=3 * SHOWN, rows=len(EDITS)))


@torch.no_grad()
def sliders(bench: Bench) -> None:
    """Each slider over its range on unseen drawn faces."""
    pipeline, ranges = bench.style_clip, choices(WeightSet.find("demo"))["sliders"]
    rng = np.random.default_rng(43)
    faces = [Face.sample(rng, test=k % 2 == 1) for k in range(SLIDER_FACES)]
    codes = _codes(bench, [bench.file(draw(face)) for face in faces])
    rows, shown = [], []
    for name, ends in SLIDERS.items():
        allowed = ranges[name]
        assert allowed is not None and pipeline.edits.sliders is not None
        way = pipeline.edits.sliders.offset({name: 1.0})
        own = codes[[place for place, face in enumerate(faces) if ends.suits(face)]]
        positions = [float(at) for at in np.linspace(allowed.least, allowed.most, POSITIONS)]
        at_rest, *halves = (_faces(bench, own + at * way) for at in (0, allowed.least / 2, allowed.most / 2))
        made = [_faces(bench, own + at * way) for at in positions]
        scores = torch.stack([ends.score(bench.reader.probabilities(some)) for some in made])
        rest = bench.reader.read(at_rest)
        others = [field for field in cases.face_fields() if field != ends.field]
        kept = []
        for some in halves:
            read = zip(rest, bench.reader.read(some), strict=True)
            kept.append(np.mean([a[field] == b[field] for a, b in read for field in others]))
        rows.append(
            [
                f"{name}, {allowed.least:g} to {allowed.most:g}",
                f"{float(growing(scores).float().mean()):.0%} of {len(own)}",
                *(f"{share:.1%}" for share in kept),
                f"{_cosine(bench, at_rest, made[0]):.3f}",
                f"{_cosine(bench, at_rest, made[-1]):.3f}",
            ]
        )
        shown.append(
            [Tile(image_of(some[0]), f"{name} {at:g}") for at, some in zip(positions, made, strict=True)]
        )
    kept_at = ("others kept at half of the least", "at half of the most")
    head = ("slider", "grows on", *kept_at, "identity at the least", "at the most")
    bench.table("Sliders, unseen drawn faces", head, rows)
    bench.sheets("sliders", [sheet(shown)])


def global_directions(bench: Bench) -> None:
    """The same edits as the optimisation's, by global directions."""
    if bench.style_clip.edits.directions is None:
        bench.table("Global directions", ("the demo set has none",), [])
        return
    asked = list(cases.edits(bench.options.edits))
    judge = Judge(bench, asked)
    jobs = [_job(bench, judge.files[k], prompt=edit.prompt, method="global") for k, edit in enumerate(asked)]
    before, after = _before_and_after(bench, jobs)
    read = bench.read(after)
    tally = judge.tally(read)
    row = ["global", *tally.row(), f"{identity(bench, before, after):.3f}"]
    bench.table("Global directions", ("", "changed", "all others kept", "identity"), [row])
    rows = [[name, share(tally.changed[name]), share(tally.kept[name])] for name in cases.face_fields()]
    bench.table("Each attribute", ("", "changed", "kept by edits of others"), rows)
    tiles = []
    for k, edit in enumerate(asked[:GLOBAL_SHOWN]):
        done = read[k][edit.field] == labels(edit.after)[edit.field]
        tiles += [Tile(before[k], f"{k + 1}"), Tile(after[k], edit.prompt, "" if done else "not changed")]
    bench.sheets("global", pages(tiles))


WAYS: dict[str, Callable[[Bench], None]] = {
    "global": global_directions,
    "mapper": mappers,
    "sliders": sliders,
}


def identity(bench: Bench, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> float:
    """The mean cosine of faces' identities before and after an edit."""
    return _cosine(bench, *(torch.cat(list(map(to_tensor, some))) * 2 - 1 for some in (before, after)))


def _before_and_after(
    bench: Bench, jobs: Sequence[StyleCLIPParams]
) -> tuple[list[Image.Image], list[Image.Image]]:
    """The faces of jobs as inverted, and edited."""

    def without(job: StyleCLIPParams) -> StyleCLIPParams:
        return job.model_copy(update={"strength": 0.0})

    def unedited(
        job: StyleCLIPParams, revision: StyleRevision
    ) -> Iterator[tuple[StyleCLIPParams, StyleRevision]]:
        yield without(job), bench.style_clip.resume(without(job), revision.state())

    after = bench.faces.pictures(jobs, unedited)
    return bench.faces.pictures([*map(without, jobs)]), after


@torch.enable_grad()
def _codes(bench: Bench, files: Sequence[Path]) -> Tensor:
    """The codes w+ [N, n_latent, style_dim] of drawn faces, as edits start from them: refined."""
    found = []
    for some in chunks(files, bench.options.batch):
        revisions = [bench.style_clip.start(_job(bench, file, sliders="smile:0")) for file in some]
        while unfinished := [revision for revision in revisions if not revision.finished]:
            bench.style_clip.step(unfinished)
        found += [revision.face for revision in revisions]
    return torch.cat(found)


def _cosine(bench: Bench, before: Tensor, after: Tensor) -> float:
    ends = [torch.cat([bench.style_clip.features(one) for one in some.split(16)]) for some in (before, after)]
    return float((ends[0] * ends[1]).sum(1).mean())


def _faces(bench: Bench, codes: Tensor) -> Tensor:
    """The faces of codes w+ [N, n_latent, style_dim]: [N, 3, H, W] in [-1, 1]."""
    return torch.cat([bench.style_clip.spaces.synthesise(some) for some in codes.split(16)]).clamp(-1, 1)


def _edits_by(edit: NamedEdit, number: int) -> list[cases.Edit]:
    """Unseen faces that a mapper's edit can be made of, half of them of combinations never trained on."""
    rng = np.random.default_rng(42)
    found: list[cases.Edit] = []
    while len(found) < number:
        face = Face.sample(rng, test=len(found) % 2 == 1)
        if edit.suits(face) and labels(face)[edit.field] != edit.value:
            found.append(cases.Edit(face, "", edit.field, edit.of(face)))
    return found


def _job(bench: Bench, file: Path, **given: Any) -> StyleCLIPParams:
    return StyleCLIPParams(seed=0, img_path=file, refine=bench.options.refine, **given)
