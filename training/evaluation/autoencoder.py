"""The reader on drawings it has not seen, which is its ceiling, and what VQGAN keeps of them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from LatentRevisions.pipeline import LATENT_LIMIT, LatentRevisionsPipeline
from training.evaluation.bench import Bench, image_of, share, there
from training.evaluation.sheets import Tile, pages
from training.pictures import tensor
from training.reader import LARGE, NONE, ROUND, Readings, fair, fresh, spoil, targets
from training.world import draw
from training.world.attributes import FIELDS, labels


def autoencoder(bench: Bench) -> None:
    """How much is read right on true drawings, on rough ones, on VQGAN's, and how much on spoilt ones."""
    number = bench.options.drawings
    drawings = [fresh(np.random.default_rng([32, k]), test=k % 2 == 1) for k in range(number)]
    shown = [labels(drawing) for drawing in drawings]
    pictures = tensor(map(draw, drawings))
    rng = torch.Generator().manual_seed(0)
    spoilt, left = spoil(pictures, targets(drawings), rng)
    rebuilt, from_codes = reconstructions(bench.latent_revisions, pictures)
    read = bench.reader.read
    readings = {
        "true drawings": read(pictures),
        "the same with some blur, noise, warps": read(fair(pictures, rng)),
        "their VQGAN reconstructions": read(rebuilt),
        "the same from codes": read(from_codes),
    }
    originals = readings["true drawings"]

    def triples(found: list[Readings], fields: Collection[str]) -> list[tuple[str, str, str]]:
        rows = zip(shown, found, originals, strict=True)
        return [(truth[f], seen[f], before[f]) for truth, seen, before in rows for f in fields]

    rows = []
    for name, found in readings.items():
        read_ = triples(found, FIELDS)
        rows.append(
            [
                name,
                share(truth == seen for truth, seen, _ in read_ if truth != NONE),
                share(seen != NONE for truth, seen, _ in read_ if truth == NONE),
                share(truth == seen for truth, seen, before in read_ if truth == before != NONE),
            ]
        )
    small = [k for k, field in enumerate(FIELDS) if field not in LARGE | ROUND]
    lenient = share(
        list(reading.values())[k] != NONE
        for reading, wanted in zip(read(spoilt), left.tolist(), strict=True)
        for k in small
        if wanted[k] == 0
    )
    rows.append(["spoilt drawings, their small things", "-", lenient, "-"])
    head = (
        "",
        "right, of what is there",
        "read, of what is not there",
        "kept, of what is right on originals",
    )
    bench.table(f"The reader and VQGAN, {number} unseen drawings", head, rows)
    rows = []
    for field in FIELDS:
        if any(one[field] != NONE for one in shown):
            of_field = [triples(found, [field]) for found in readings.values()]
            rows.append([field, *(share(t == s for t, s, _ in read_ if t != NONE) for read_ in of_field)])
    bench.table("Each attribute, where it is there", ("", *readings), rows)
    tiles = []
    for k, drawing in enumerate(drawings[:40]):
        seen = readings["their VQGAN reconstructions"][k]
        wrong = [f"{field}: {seen[field]}" for field, value in there(drawing).items() if seen[field] != value]
        tiles += [Tile(draw(drawing), "drawing"), Tile(image_of(rebuilt[k]), "VQGAN", "; ".join(wrong))]
    bench.sheets("autoencoder", pages(tiles))


@torch.no_grad()
def reconstructions(
    pipeline: LatentRevisionsPipeline, pictures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What VQGAN makes of [N, 3, H, W] in [-1, 1]: from its latents as they are, and from their codes."""
    drawn: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for some in pictures.split(16):
        with pipeline.precision.autocast():
            z = pipeline.vqgan.encode(some)
            for to, latents in zip(drawn, (z, pipeline.vqgan.quantise(z)[0]), strict=True):
                to.append(
                    pipeline.vqgan.decode(latents.clamp(-LATENT_LIMIT, LATENT_LIMIT)).float().clamp(-1, 1)
                )
    return torch.cat(drawn[0]), torch.cat(drawn[1])
