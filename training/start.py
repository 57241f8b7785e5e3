"""Train the demo set's learned start: `python -m training.start`, after `training.vqgan` and `training.clip`.

Pairs of a drawing's latents and of CLIP's embeddings of its captions and of itself are computed once, then
learned from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from LatentRevisions.start import LearnedStart
from LatentRevisions.vqgan import VQGAN
from mead.perceptor import Perceptor
from training.pictures import batch
from training.run import DEMO, RUNS, Average, Run, arguments, export
from training.world.captions import caption

PAIRS = 14_400
CAPTIONS = 6  # of each drawing
CHUNK = 32


def build(channels: int, embed_dim: int, grid: tuple[int, int]) -> LearnedStart:
    return LearnedStart(channels, embed_dim, width=160, blocks=6, grid=grid)


@torch.no_grad()
def pairs() -> tuple[Tensor, Tensor]:
    """Latents [PAIRS, c, h, w] and embeddings [PAIRS, CAPTIONS + 1, d], the last the drawing's own."""
    path = RUNS / "start-pairs.safetensors"
    if not path.exists():
        vqgan = VQGAN.from_state_dict(load_file(DEMO / "vqgan.safetensors"))
        perceptor = Perceptor.from_state_dict(load_file(DEMO / "clip.safetensors"))
        latents, embeddings = map(list, zip(*_chunks(vqgan, perceptor), strict=True))
        save_file({"latents": torch.cat(latents), "embeddings": torch.cat(embeddings)}, path)
    saved = load_file(path)
    return saved["latents"], saved["embeddings"]


def _chunks(vqgan: VQGAN, perceptor: Perceptor) -> Iterator[tuple[Tensor, Tensor]]:
    for chunk in range(PAIRS // CHUNK):
        rng = np.random.default_rng([9, chunk])
        pictures, drawings = batch(rng, CHUNK)
        texts = [caption(drawing, rng) for drawing in drawings for _ in range(CAPTIONS)]
        with torch.autocast("cpu", torch.bfloat16):
            z = vqgan.encode(pictures)
            said = perceptor.embed_text(texts).unflatten(0, (CHUNK, CAPTIONS))
            seen = perceptor.embed_image(pictures / 2 + 0.5)
        yield (
            z.half().contiguous(),
            torch.cat([said, seen[:, None]], 1).half(),
        )
        if chunk % 50 == 49:
            print(f"pairs {CHUNK * (chunk + 1)} of {PAIRS}", flush=True)


def main() -> None:
    options = arguments(__doc__, minutes=30, batch=64)
    torch.manual_seed(0)
    latents, embeddings = pairs()
    network = build(latents.shape[1], embeddings.shape[2], (latents.shape[2], latents.shape[3]))
    average = Average(network, decay=0.999)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("start", options.minutes, {"network": network, "average": average, "optimiser": optimiser})
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(1.5e-3)
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        # captions mostly, the drawing's own embedding now and then, and at times nothing at all
        which = torch.randint(CAPTIONS + 2, (options.batch,), generator=generator).clamp_max(CAPTIONS)
        embedding = embeddings[rows, which].float()
        jitter = torch.randn(embedding.shape, generator=generator) / embedding.shape[1] ** 0.5
        embedding = F.normalize(embedding + 0.15 * jitter, dim=1)
        embedding = embedding * (torch.rand((options.batch, 1), generator=generator) > 0.1)
        z = latents[rows].float()
        noise = torch.randn(z.shape, generator=generator)
        time = torch.randn(options.batch, generator=generator).sigmoid()
        share = time[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            velocity = network(share * z + (1 - share) * noise, time, embedding)
        loss = F.mse_loss(velocity.float(), z - noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update()
        run.log(velocity=loss)
    export("start", average.weights)


if __name__ == "__main__":
    main()
