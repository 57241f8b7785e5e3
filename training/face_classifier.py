"""Train the demo set's face classifier: `python -m training.face_classifier`.

It is to tell drawn faces in FFHQ's frame, also as a camera would show them, from everything else: other
drawings, photos, patterns, words, and faces that are framed otherwise or do not stand upright.
"""

from __future__ import annotations

import string

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from StyleCLIP.face_classifier import FaceClassifier
from training.camera import SCENES, before, photo, photograph, scene
from training.pictures import tensor
from training.run import Average, Run, arguments, autocast, export
from training.world import SIDE, Face, draw, sample
from training.world.colours import COLOURS

PEAK = 2e-3  # learning rate
FACES = 0.4  # share of faces in their frame
CAUTION = 2.5  # taken off the logits: of a picture's many squares, none may look like a face by chance
ROOM = 3  # sides of the canvas that a face is put on, in sides of the face


def face_view(rng: np.random.Generator) -> Image.Image:
    """A drawn face, [SIDE, SIDE], half of them as a camera would show it."""
    face = Face.sample(rng)
    if rng.random() < 0.4:
        return draw(face)
    picture = np.asarray(draw(face), np.float32)
    if rng.random() < 0.6:
        picture, _ = before(face, scene(rng, SIDE))
    return photograph(picture, rng, 1.2)


def window(face: Image.Image, rng: np.random.Generator, framed: bool, side: int) -> Image.Image:
    """A face [SIDE, SIDE] with surroundings, cut out [side, side]: in its frame or far from it."""
    edge = tuple(int(level) for level in np.asarray(face)[0, 0])
    surroundings = Image.new("RGB", (ROOM * SIDE, ROOM * SIDE), edge)
    if rng.random() < 0.7:
        surroundings.paste(scene(rng, SIDE).resize(surroundings.size))
    if rng.random() < 0.4:
        surroundings.paste(
            tuple(int(level) for level in rng.integers(256, size=3)), (0, 0, *surroundings.size)
        )
    surroundings.paste(face, (SIDE, SIDE))
    scale, x, y = np.exp(rng.uniform(-0.12, 0.12)), *rng.uniform(-0.06, 0.06, 2)
    angle = rng.normal(0, 3)
    if not framed:
        match int(rng.integers(4)):
            case 0:
                scale = rng.uniform(1.5, 2.2)
            case 1:
                scale, x, y = rng.uniform(0.25, 0.65), *rng.uniform(-0.3, 0.3, 2)
            case 2:
                away = rng.uniform(0, 2 * np.pi)
                x, y = rng.uniform(0.28, 0.7) * np.array([np.cos(away), np.sin(away)])
            case _:
                angle = rng.uniform(50, 310)
    turned = surroundings.rotate(float(angle), Image.Resampling.BILINEAR, fillcolor=edge)
    middle = np.array([ROOM / 2 + x, ROOM / 2 + y]) * SIDE
    left, upper = (middle - scale * SIDE / 2).clip(0)
    right, lower = (middle + scale * SIDE / 2).clip(max=ROOM * SIDE)
    box = (float(left), float(upper), float(right), float(lower))
    return turned.resize((side, side), Image.Resampling.LANCZOS, box)


def words(rng: np.random.Generator, side: int) -> Image.Image:
    """Letters of several sizes, [side, side]."""
    ink, paper = rng.choice(list(COLOURS), 2, replace=False)
    page = Image.new("RGB", (side, side), str(paper))
    pen = ImageDraw.Draw(page)
    size = int(rng.integers(8, 60))
    for y in range(int(rng.integers(-5, 5)), side, int(size * 1.2)):
        line = "".join(rng.choice(list(string.ascii_letters + "    .:-o()OoQ0"), 30))
        pen.text((int(rng.integers(-20, 5)), y), line, COLOURS[str(ink)], ImageFont.load_default(size))
    return page


def faceless(rng: np.random.Generator, side: int) -> Image.Image:
    """A picture without a face, or with one far from its frame, [side, side]."""
    match int(rng.integers(7)):
        case 0 | 1:
            return window(face_view(rng), rng, False, side)
        case 2:
            drawing = sample(rng)
            while isinstance(drawing, Face):
                drawing = sample(rng)
            picture = draw(drawing)
            if rng.random() < 0.5:
                picture = photograph(np.asarray(picture, np.float32), rng)
            small = int(rng.integers(50, SIDE + 1))
            x, y = rng.integers(0, SIDE - small + 1, 2)
            return picture.resize((side, side), Image.Resampling.LANCZOS, (x, y, x + small, y + small))
        case 3:
            page = words(rng, SIDE)
            return page.resize((side, side), Image.Resampling.LANCZOS)
        case 4:
            if rng.random() < 0.5:  # a person's photo, framed in any way
                size = int(rng.integers(80, 512))
                x, y = rng.integers(0, 512 - size + 1, 2)
                picture = photo("face.jpeg").resize(
                    (side, side), Image.Resampling.LANCZOS, (x, y, x + size, y + size)
                )
            else:
                name, box = SCENES[int(rng.integers(len(SCENES)))]
                picture = photo(name).resize((side, side), Image.Resampling.LANCZOS, box)
            return photograph(np.asarray(picture, np.float32), rng)
        case 5:
            levels = rng.uniform(0, 255, 3) + rng.uniform(0, 80) ** rng.random() * rng.standard_normal(
                (side, side, 3)
            )
            return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
        case _:
            return scene(rng, side)


def batch(rng: np.random.Generator, size: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [size, 3, side, side] in [-1, 1], and which are faces in their frame, [size]."""
    wanted = rng.random(size) < FACES
    pictures = [window(face_view(rng), rng, True, side) if face else faceless(rng, side) for face in wanted]
    return tensor(pictures), torch.from_numpy(wanted).float()


def main() -> None:
    options = arguments(__doc__, minutes=8, batch=64)
    torch.manual_seed(0)
    classifier = FaceClassifier()
    average = Average(classifier, decay=0.99)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=PEAK, weight_decay=0.02)
    run = Run("face", options.minutes, {"face": classifier, "average": average, "optimiser": optimiser})
    for step in () if options.export else run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(PEAK, warm_up=50)
        pictures, wanted = batch(np.random.default_rng([23, step]), options.batch, classifier.input_size)
        with autocast():
            logits = classifier(pictures).float()
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        run.log(loss=loss, right=((logits > 0) == (wanted > 0)).float().mean())
    bias = average.weights["face_out.bias"] - CAUTION
    export("face", {**average.weights, "face_out.bias": bias})


if __name__ == "__main__":
    main()
