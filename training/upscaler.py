"""Train the demo upscaler, 128 -> 512 pixels: `python -m training.upscaler`, after all others.

Drawings are rules, so each exists at 512 pixels as well. What is to be enlarged is the drawing at 128 pixels,
and what the demo networks make of it: VQGAN's reconstruction, the learned start's and StyleGAN2's pictures of
the same drawing, and pictures that LatentRevisions has optimised from there, whose blotches the upscaler may
clean. They are made in chunks, while it trains, and kept in `RUNS/upscaler`. Blurred drawings are to become
nearly as blurred ones: an edge whose place is not known should be soft, not a flight of steps.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import LatentRevisionsPipeline
from LatentRevisions.pipeline import load_pipeline as load_latent_revisions
from mead.imaging.tensors import to_picture
from mead.nn.upscaler import SRVGGNetCompact
from mead.revision import check_loss
from StyleCLIP.StyleCLIP import StyleCLIPPipeline
from StyleCLIP.StyleCLIP import load_pipeline as load_style_clip
from StyleCLIP.stylegan2 import Generator
from training.drafts import Drafted, numbers
from training.faces import z_of
from training.muon import Muon
from training.pictures import detail, tensor
from training.run import DEMO, RUNS, Average, Run, arguments, autocast, export, take_over
from training.world import SIDE, Face, draw
from training.world.captions import caption

SCALE = 4
FEATURES, CONVOLUTIONS = 48, 16
PEAK = 2e-3  # learning rate
CROPS = (32, 48)  # pixels before enlarging, at first and at the end
SMALL_SHARE = 0.8  # of the training, on the small ones, which cost half and teach nearly as much
DETAILED = 0.75  # of the crops are the most detailed of CANDIDATES: large areas are soon learned
CANDIDATES = 4
CHUNKS, DRAWINGS = 6, 48  # kept, and drawings in each
OPTIMISED = 2  # of them are optimised as well
STEPS = (10, 40, 120)  # after which the pictures being optimised are taken
FACES = 0.3  # of the drawings are faces whatever else comes
NOISE = 0.3  # strongest noise on latents, in their own deviations
KINDS = {"drawn": 0.35, "decoded": 0.3, "started": 0.2, "other": 0.1, "optimised": 0.05}
SOFT_SHARE = 0.3  # of the crops are of blurred drawings
SOFTEST = 2.5  # deviation of the strongest blur, in pixels before enlarging
SOFT_BELOW = 0.6  # a blur of so few pixels is to become sharp


class Pictures:
    """Pictures to be enlarged, by kind, and what they should become; grows by a chunk at a time."""

    def __init__(self) -> None:
        self.targets: list[np.ndarray] = []  # [512, 512, 3] uint8
        self.inputs: dict[str, list[tuple[np.ndarray, int]]] = {kind: [] for kind in KINDS}

    def add(self, path: Path) -> None:
        """Add the chunk at `path`, which is made if it is not there."""
        if not path.exists():
            make(int(path.stem), path)
        with np.load(path) as chunk:
            first = len(self.targets)
            self.targets += list(chunk["targets"])
            for kind, inputs in self.inputs.items():
                inputs += [
                    (x, first + int(of)) for x, of in zip(chunk[kind], chunk[f"{kind}_of"], strict=True)
                ]

    def batch(self, rng: np.random.Generator, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Crops [size, 3, side, side] and what they should become [size, 3, 4 side, 4 side], in [0, 1].

        They are turned, mirrored and some of them recoloured, so that nothing hangs on the drawings' habits.
        """
        pairs = [self._crop(rng, side) for _ in range(size)]
        small, large = (
            torch.from_numpy(np.stack(each)).permute(0, 3, 1, 2).float() / 255
            for each in zip(*pairs, strict=True)
        )
        small = small + float(rng.random() ** 2 * 0.012) * torch.randn(small.shape)
        return small, large

    def _crop(self, rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
        soft = rng.random() < SOFT_SHARE
        inputs = self.inputs["drawn" if soft else str(rng.choice(list(KINDS), p=list(KINDS.values())))]
        picture, of = inputs[int(rng.integers(len(inputs)))]
        target = self.targets[of]
        if soft:
            blur = float(rng.uniform(0, SOFTEST))
            picture, target = blurred(picture, blur), blurred(target, SCALE * max(0.0, blur - SOFT_BELOW))
        places = rng.integers(0, SIDE - side + 1, (CANDIDATES if rng.random() < DETAILED else 1, 2))
        crops = [picture[y : y + side, x : x + side] for y, x in places]
        best = int(np.argmax([crop.std() for crop in crops]))
        y, x = places[best] * SCALE
        small, large = crops[best], target[y : y + side * SCALE, x : x + side * SCALE]
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        order = rng.permutation(3) if rng.random() < 0.3 else [0, 1, 2]
        negative = 255 * (rng.random() < 0.1)

        def changed(crop: np.ndarray) -> np.ndarray:
            crop = np.rot90(crop[:, ::-1] if mirrored else crop, turns)[..., order]
            return np.abs(np.int16(negative) - crop).astype(np.uint8)

        return changed(small), changed(large)


@torch.no_grad()
def make(number: int, path: Path) -> None:
    """Make the chunk of this number, which always is the same."""
    rng = np.random.default_rng([11, number])
    torch.manual_seed(number)
    several = [Drafted.sample(rng, Face if rng.random() < FACES else None) for _ in range(DRAWINGS)]
    drawn = [draw(one.drawing) for one in several]
    revisions, faces = load_latent_revisions("demo", "cpu"), load_style_clip("demo", "cpu")
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors"))
    vqgan, start = revisions.vqgan, revisions.learned_start
    assert start is not None
    with autocast():
        z = torch.cat([vqgan.encode(part) for part in tensor(drawn).split(8)]).float()
        noise = NOISE * z.std() * torch.rand(len(z), 1, 1, 1) ** 2
        noisy = torch.where(
            torch.rand(len(z), 1, 1, 1) < 0.3, vqgan.quantise(z)[0], z + noise * torch.randn_like(z)
        )
        grid = (z.shape[2], z.shape[3])
        begun = torch.cat([start(numbers(one)[None], grid) for one in several]).float()
        decoded, started = (
            [to_picture((vqgan.decode(one[None]).float() + 1) / 2) for one in latents]
            for latents in (noisy, begun)
        )
    made: dict[str, list[tuple[Image.Image, int]]] = {
        "drawn": [(compressed(one, rng) if rng.random() < 0.15 else one, k) for k, one in enumerate(drawn)],
        "decoded": [(one, k) for k, one in enumerate(decoded)],
        "started": [(one, k) for k, one in enumerate(started)],
        "other": [],
        "optimised": [],
    }
    for k, one in enumerate(several):
        if isinstance(one.drawing, Face):
            made["other"] += [(face, k) for face in faces_of(faces, generator, one.drawing, drawn[k])]
    for k in rng.choice(DRAWINGS, OPTIMISED, replace=False):
        first = (drawn if rng.random() < 0.5 else started)[k]
        text = caption(several[k].drawing, rng).text
        made["optimised"] += [
            (one, int(k)) for one in optimised(revisions, first, text, int(rng.integers(1 << 30)))
        ]
    arrays: dict[str, Any] = {
        "targets": np.stack([np.asarray(draw(one.drawing, SCALE * SIDE)) for one in several])
    }
    for kind, pictures in made.items():
        arrays[kind] = np.stack([np.asarray(picture) for picture, _ in pictures])
        arrays[f"{kind}_of"] = np.array([of for _, of in pictures])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def blurred(picture: np.ndarray, deviation: float) -> np.ndarray:
    """The picture [H, W, 3] under a Gaussian blur, in pixels."""
    return (
        cv2.GaussianBlur(picture, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)
        if deviation
        else picture
    )


def compressed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture as a JPEG has it."""
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=int(rng.integers(75, 97)), subsampling=0)
    return Image.open(file).convert("RGB")


def faces_of(
    pipeline: StyleCLIPPipeline, generator: Generator, face: Face, drawn: Image.Image
) -> list[Image.Image]:
    """StyleGAN2's picture of a face, and that of its drawing's inversion."""
    own = generator.broadcast(generator.map(z_of(face)[None]))
    found = pipeline.invert(drawn)
    return [to_picture((pipeline.generator.synthesise(codes) + 1) / 2) for codes in (own, found)]


@torch.enable_grad()
def optimised(
    pipeline: LatentRevisionsPipeline, first: Image.Image, text: str, seed: int
) -> list[Image.Image]:
    """What a picture becomes on its way to a text, after each of STEPS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.png"
        first.save(path)
        params = LatentRevisionsParams(prompt=text, img_path=path, seed=seed, iterations=STEPS[-1])
        revision = pipeline.start(params)
    taken = []
    while not revision.finished:
        pipeline.step([revision])
        check_loss(revision)
        if revision.step in STEPS:
            taken.append(pipeline.image(revision))
    return taken


def enlarged_loss(enlarged: Tensor, wanted: Tensor) -> Tensor:
    """L1, where small things count most, plus L1 between edges, which L1 alone would leave soft."""
    weight = 1 + 8 * F.interpolate(detail(F.avg_pool2d(wanted, SCALE)), scale_factor=SCALE)
    off = enlarged - wanted
    edges = sum(off.diff(dim=axis).abs().mean() for axis in (-1, -2))
    return (weight * off.abs()).mean() / weight.mean() + edges


def build() -> SRVGGNetCompact:
    network = SRVGGNetCompact(FEATURES, CONVOLUTIONS, SCALE)
    first, *hidden, last = (module for module in network.body if isinstance(module, nn.Conv2d))
    for module in (first, *hidden, last):
        nn.init.kaiming_normal_(module.weight, a=0.25)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    # contrasts, which are 0 where the picture is even: what is random of levels would be unlearned first
    first.weight.data.sub_(first.weight.mean((2, 3), keepdim=True)).mul_(4)
    for module in hidden:  # pass them on nearly unchanged at first
        module.weight.data.mul_(0.3)
        module.weight.data[range(FEATURES), range(FEATURES), 1, 1] += 1
    nn.init.zeros_(last.weight)  # begins as the nearest pixel
    return network


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=4)
    torch.manual_seed(0)
    network = build()
    if options.onward:
        take_over("upscaler", network)
    network = network.to(memory_format=torch.channels_last)
    average = Average(network, decay=0.998)
    muon = Muon([p for p in network.parameters() if p.ndim >= 2], lr=0.0)
    adam = torch.optim.Adam([p for p in network.parameters() if p.ndim < 2], betas=(0.9, 0.99))
    run = Run(
        "upscaler", options.minutes, {"network": network, "average": average, "muon": muon, "adam": adam}
    )
    pictures, chunks = Pictures(), 0
    for step in () if options.export else run:
        # the first chunks at once, then one at a time
        while chunks < min(CHUNKS, 4 + step // 150):
            pictures.add(RUNS / "upscaler" / f"{chunks}.npz")
            chunks += 1
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = run.rate(PEAK, warm_up=1000)
        small, large = pictures.batch(
            np.random.default_rng([12, step]), options.batch, CROPS[run.done >= SMALL_SHARE]
        )
        small = small.contiguous(memory_format=torch.channels_last)
        with autocast():
            enlarged = network(small)
        loss = enlarged_loss(enlarged, large)
        network.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
        average.update()
        run.log(loss=loss, l1=F.l1_loss(enlarged, large))
    export("upscaler", average.weights)


if __name__ == "__main__":
    main()
