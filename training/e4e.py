"""Train the demo e4e encoder to invert drawn faces: `python -m training.e4e`, after `training.stylegan2`.

The generator's own pairs (z, drawing) give the codes a drawing should get; the generator's picture of the
codes found is compared with the drawing as well. Most drawings are shown as a camera would show them
(`training.camera`), warped, with eyes as small as people's: it is to look past what photos have. What is
learned most carefully is not to see what is not there: a hat, glasses, earrings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.stylegan2 import Generator
from training.camera import before, photograph, scene
from training.drafts import WORN
from training.faces import STYLE_DIM, z_of
from training.muon import Muon
from training.pictures import picture_loss, tensor
from training.run import DEMO, Average, Run, Stateful, arguments, autocast, export, take_over
from training.world import SIDE, Face, draw
from training.world.faces import CANVAS, CHOICES, MEASURES

PEAK = 3e-3  # learning rate
ONWARD = 0.5  # of that, from weights that ship: the full rate undoes what is learned
READING = 10.0  # weight of how far it is off what is read from codes
WORN_SHARE = 0.3  # faces that wear more than the world draws: what is worn must be learned, but not expected
PLAIN = 0.25  # share of drawings shown as they are, but for blur and noise
IN_FRONT = 0.75  # share of the others in front of another picture
STRENGTH = 1.2  # of the camera's changes
# The attributes, and what they weigh: a hat seen where none is, more than any other mistake.
ATTRIBUTES = {
    "headwear": 2.0,
    "glasses": 2.0,
    "earrings": 6.0,
    "hair_colour": 2.0,
    "eye_colour": 2.0,
    "hair_style": 1.0,
    "expression": 3.0,
    "beard": 1.0,
    "skin": 2.0,
    "gender": 2.0,
    "age": 1.0,
    "clothes": 0.5,
}
WORN_OUTCOMES = torch.tensor(
    [
        (name, outcome)
        in {("headwear", "hat"), ("headwear", "crown"), ("glasses", "yes"), ("earrings", "yes")}
        for name, outcomes in CHOICES.items()
        for outcome in outcomes
    ]
)
OUTCOME_WEIGHTS = torch.tensor(
    [ATTRIBUTES.get(name, 0.0) for name, outcomes in CHOICES.items() for _ in outcomes]
)
FALSE = 2.0  # times as bad: seeing what is worn where it is not
RIDGE = 1e-3


def build(n_styles: int) -> Encoder4Editing:
    return Encoder4Editing(
        input_size=128,
        n_styles=n_styles,
        style_dim=STYLE_DIM,
        widths=(16, 32, 48, 64),
        blocks=(1, 2, 2, 2),
        coarse=n_styles,  # heads that look at finer features are larger, and these see enough
        middle=0,
    )


def batch(rng: np.random.Generator, size: int) -> tuple[list[Face], Tensor, Tensor]:
    """Faces, what is shown of them and their drawings, [size, 3, SIDE, SIDE] in [-1, 1]."""
    faces, views = [], []
    for _ in range(size):
        face = Face.sample(rng, odds=WORN if rng.random() < WORN_SHARE else CHOICES)
        if rng.random() < PLAIN:
            view = draw(face)
        else:
            picture = np.asarray(draw(face), np.float32)
            if rng.random() < IN_FRONT:
                picture, face = before(face, scene(rng, SIDE))
            view = photograph(picture, rng, STRENGTH)
        faces.append(face)
        views.append(view)
    return faces, tensor(views), tensor(map(draw, faces))


def warp(views: Tensor, faces: Sequence[Face], rng: torch.Generator) -> Tensor:
    """The views [N, 3, SIDE, SIDE], half of them bent, turned, with smaller eyes and mouths, more hair."""
    n = len(faces)
    half = CANVAS / 2
    strength = (torch.rand((n, 1, 1, 1), generator=rng) - 0.5).clamp_min(0) * 2
    turn, scale = (0.05 * strength[:, 0, 0, 0] * torch.randn(n, generator=rng) for _ in range(2))
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = scale.exp()
    maps[:, 0, 1], maps[:, 1, 0] = -turn, turn
    maps[:, :, 2] = 0.03 * strength[:, 0, 0] * torch.randn((n, 2), generator=rng)
    grid = F.affine_grid(maps, [n, 3, SIDE, SIDE], align_corners=False)
    bends = F.interpolate(
        torch.randn((n, 2, 5, 5), generator=rng), (SIDE, SIDE), mode="bicubic", align_corners=True
    )
    shift = 0.03 * strength * bends.permute(0, 2, 3, 1)
    measures = torch.tensor([face.measures for face in faces])
    of = {name: measures[:, k] for k, name in enumerate(MEASURES)}
    x, y = (of["shift_x"] - 0.5) * 14 / half, (121 - half + (of["shift_y"] - 0.5) * 12) / half
    dx = (28 + of["eye_spacing"] * 7) / half
    eyes, mouths = (torch.rand(n, generator=rng) for _ in range(2))
    parts = [(x - dx, y, 0.13, eyes), (x + dx, y, 0.13, eyes), (x, y + 62 / half, 0.18, 0.5 * mouths)]
    for across, down, size, smaller in parts:
        away = grid - torch.stack([across, down], 1)[:, None, None]
        near = torch.exp(-away.square().sum(3, keepdim=True) / (2 * size**2))
        shift = shift + strength * smaller[:, None, None, None] * near * away
    # more hair: what is around the head from the cheeks up goes outwards
    away = grid - torch.stack([x, y], 1)[:, None, None]
    around = away.square().sum(3, keepdim=True) / (2 * 0.42**2)
    upper = (10 * (0.25 - away[..., 1:])).sigmoid()
    more = 0.5 * torch.rand((n, 1, 1, 1), generator=rng)
    shift = shift - strength * more * around * torch.exp(-around) * upper * away
    return F.grid_sample(views, grid + shift, padding_mode="reflection", align_corners=False)


def roughen(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures [N, 3, H, W], some blurred, all with some noise, a little off in brightness and colour."""
    n = len(pictures)
    blurred = F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    share = torch.rand((n, 1, 1, 1), generator=generator) ** 2
    pictures = pictures + 0.7 * share * (blurred - pictures)
    pictures = pictures * (1 + 0.05 * torch.randn((n, 3, 1, 1), generator=generator))
    pictures = pictures + 0.03 * torch.randn((n, 3, 1, 1), generator=generator)
    strength = 0.1 * torch.rand((n, 1, 1, 1), generator=generator) ** 2
    return pictures + strength * torch.randn(pictures.shape, generator=generator)


def readout(z: Tensor, codes: Tensor) -> Tensor:
    """What tells the choices of faces from their codes, by least squares: [style_dim, outcomes].

    Codes times this are one where an outcome was chosen and zero where not, roughly, but for a constant.
    """
    codes = codes - codes.mean(0)
    outcomes = sum(map(len, CHOICES.values()))
    chosen = (z[:, :outcomes] > 0).float()
    square = codes.mT @ codes
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square, codes.mT @ (chosen - chosen.mean(0)))


def reading_loss(off: Tensor, read: Tensor, z: Tensor) -> Tensor:
    """How far what `readout` reads is off, squared; more so where it leads to what is not there.

    So earrings count as much as a background, which changes codes far more.

    Args:
        off: of codes, [N, n_styles, style_dim].
        read: [style_dim, outcomes].
        z: what the faces are, [N, style_dim].
    """
    gone = off @ read
    absent = z[:, None, : read.shape[1]] == 0
    seen = torch.where(absent & WORN_OUTCOMES & (gone > 0), FALSE, 1.0)
    return (OUTCOME_WEIGHTS * seen * gone.square()).sum(2).mean() / OUTCOME_WEIGHTS.sum()


def main() -> None:
    options = arguments(__doc__, minutes=25, batch=16)
    torch.manual_seed(0)
    generator = Generator.from_state_dict(load_file(DEMO / "stylegan2.safetensors")).requires_grad_(False)
    encoder = build(generator.n_latent)
    if options.onward:
        take_over("e4e", encoder)
    average = Average(encoder, decay=0.995)
    matrices = {name: p for name, p in encoder.named_parameters() if p.ndim >= 2}
    last = [p for name, p in matrices.items() if name.endswith(".linear.weight")]
    earlier = [p for name, p in matrices.items() if not name.endswith(".linear.weight")]
    # the last layers' weights are stored larger than they act
    muon = Muon([{"params": earlier, "share": 1.0}, {"params": last, "share": 10.0}], lr=0.0)
    adam = torch.optim.Adam([{"params": [p for p in encoder.parameters() if p.ndim < 2], "share": 1.0}])
    rng = np.random.default_rng(8)
    several = torch.stack([z_of(Face.sample(rng)) for _ in range(5000)])
    with torch.no_grad():
        codes = generator.map(several)
    mean, spread = codes.mean(0), codes.std(0).mean()
    read = readout(several, codes)
    parts: dict[str, Stateful] = {"encoder": encoder, "average": average, "muon": muon, "adam": adam}
    run = Run("e4e", options.minutes, parts)
    peak = PEAK * (ONWARD if options.onward else 1)
    for step in () if options.export else run:
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = run.rate(peak) * group["share"]
        noise, rng = torch.Generator().manual_seed(step), np.random.default_rng([7, step])
        faces, views, drawings = batch(rng, options.batch)
        z = torch.stack([z_of(face) for face in faces])
        with torch.no_grad():
            wanted = generator.map(z) - mean
        with autocast():
            offsets = encoder(roughen(warp(views, faces, noise), noise)).float()
            few = slice(0, max(1, options.batch // 4))  # pictures cost ten times what codes do
            drawn = generator.synthesise(offsets[few] + mean)
        off = offsets - wanted[:, None]
        code_loss = (off / spread).square().mean()
        reading = reading_loss(off, read, z)
        picture = picture_loss(drawn, drawings[few])
        loss = code_loss + READING * reading + picture
        encoder.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update()
        run.log(codes=code_loss, reading=reading, picture=picture)
    export("e4e", {**average.weights, "latent_avg": mean.expand(generator.n_latent, -1)})


if __name__ == "__main__":
    main()
