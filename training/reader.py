"""Train the reader, which tells what a drawing shows: `python -m training.reader`.

It judges what the demo networks draw (`training.evaluate`) and never takes part in the drawing: a small
convolutional classifier with a head for each attribute, "none" (not there) among its values. It learns from
drawings with some blur, noise, warps and changes of colour, and from spoilt ones (blurred or warped until a
stranger could not name their things, cut up, their eyes or mouth smeared), whose small things it must call
not there. Thresholds found on drawings it has not seen keep it from being lenient on blobs. It alone is shown
the combinations that are kept out of all other training: a judge that never saw an orange car reads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.pictures import tensor
from training.run import ROOT, Average, Run, arguments, autocast, export
from training.world import SIDE, Drawing, draw, sample
from training.world.attributes import FIELDS, labels

WEIGHTS = ROOT / "training" / "reader.safetensors"
NONE = "none"
UNREADABLE = -100  # a target that no loss is taken of
SPOILT_SHARE = 0.4  # spoilt views, beside one fair view of each drawing
HELD_OUT_SHARE = 0.3  # drawings of combinations that the other networks never see

# Colours of large areas are still there when a picture is blurred or warped beyond its things.
LARGE = {"background", "sky", "ground", "skin", "hair_colour", "clothes"}
# Blobs already as they are drawn: whether they survive a warp is anybody's guess.
ROUND = {"sun", "moon", "cloud", "mountains"}
# Parts of a face, where FFHQ's frame has them (x, y, half width, half height, in sides), and what is gone
# when they are smeared.
PARTS = {
    (0.5, 0.47, 0.27, 0.13): ("eye_colour", "glasses"),
    (0.5, 0.72, 0.2, 0.1): ("expression",),
}

Readings = dict[str, str]


class Residual(nn.Module):
    """Two 3x3 convolutions, added to what came in; the first may halve the sides."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.skip = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            if stride > 1 or in_channels != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


class Reader(nn.Module):
    """Pictures [N, 3, SIDE, SIDE] in [-1, 1] -> logits [N, values of all of FIELDS, one after the other]."""

    thresholds: Tensor

    def __init__(self, widths: Sequence[int] = (24, 40, 80, 112), hidden: int = 96) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, 2, padding=2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(Residual(before, after, 2) for before, after in pairwise(widths)),
            Residual(widths[-1], widths[-1]),
        )
        self.narrow = nn.Conv2d(widths[-1], 16, 1)
        self.hidden = nn.Linear(2 * widths[-1] + 16 * (SIDE // 16) ** 2, hidden)
        values = sum(map(len, FIELDS.values()))
        self.heads = nn.Linear(hidden, values)
        # what each place says for itself: a thing and its colour are at the same one
        self.places = nn.Conv2d(widths[-1], values, 1)
        # the least probability with which each field's value is believed to be there
        self.register_buffer("thresholds", torch.full((len(FIELDS),), 0.5))

    def forward(self, pictures: Tensor) -> Tensor:
        h = self._grid(pictures)
        return self.heads(self._whole(h)) + self.places(h).amax((2, 3))

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What the reader makes of pictures [N, 3, SIDE, SIDE] in [-1, 1] before it names it: [N, hidden]."""
        return torch.cat([self._whole(self._grid(some)) for some in pictures.split(64)])

    def _grid(self, pictures: Tensor) -> Tensor:
        """[N, C, 8, 8]"""
        return self.blocks(self.stem(pictures.contiguous(memory_format=torch.channels_last)))

    def _whole(self, h: Tensor) -> Tensor:
        placed = F.relu(self.narrow(h)).flatten(1)
        whole = torch.cat([h.mean((2, 3)), h.amax((2, 3)), placed], 1)
        return F.relu(self.hidden(F.dropout(whole, 0.1, self.training)))

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Reader:
        """The trained reader, ready to read."""
        reader = cls()
        reader.load_state_dict(load_file(path))
        return reader.float().eval().requires_grad_(False)

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> list[Tensor]:
        """Each field's probabilities [N, its values] for pictures [N, 3, SIDE, SIDE] in [-1, 1]."""
        return [part.softmax(1) for part in by_field(torch.cat([self(some) for some in pictures.split(64)]))]

    def read(self, pictures: Tensor) -> list[Readings]:
        """What pictures [N, 3, SIDE, SIDE] in [-1, 1] show: a value of each of FIELDS, by picture."""
        columns = []
        for field, threshold, chances in zip(
            FIELDS, self.thresholds.tolist(), self.probabilities(pictures), strict=True
        ):
            best, value = chances[:, 1:].max(1)
            columns.append(
                [
                    FIELDS[field][1 + v] if chance >= threshold else NONE
                    for chance, v in zip(best.tolist(), value.tolist(), strict=True)
                ]
            )
        return [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns, strict=True)]


def fresh(rng: np.random.Generator, test: bool = False) -> Drawing:
    """A drawing of any kind; with a combination kept out of the other networks' training if `test`."""
    return type(sample(rng)).sample(rng, test=test)


def batch(rng: np.random.Generator, size: int) -> tuple[Tensor, list[Drawing]]:
    """`size` fresh drawings of all combinations: [size, 3, SIDE, SIDE] in [-1, 1] and what they show."""
    drawings = [fresh(rng, test=rng.random() < HELD_OUT_SHARE) for _ in range(size)]
    return tensor(map(draw, drawings)), drawings


def by_field(logits: Tensor) -> tuple[Tensor, ...]:
    """Split [N, values of all fields] into a part [N, values] for each of FIELDS."""
    return logits.split([len(values) for values in FIELDS.values()], dim=1)


def targets(drawings: Sequence[Drawing]) -> Tensor:
    """What the drawings show, as indices into the values of FIELDS: [N, fields]."""
    rows = [labels(drawing) for drawing in drawings]
    return torch.tensor(
        [[values.index(row[field]) for field, values in FIELDS.items()] for row in rows], dtype=torch.long
    )


def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy, summed over the fields; `wanted` [N, fields] may be UNREADABLE in places."""
    parts = zip(by_field(logits), wanted.unbind(1), strict=True)
    return torch.stack(
        [F.cross_entropy(part, target, ignore_index=UNREADABLE) for part, target in parts]
    ).sum()


# Views ------------------------------------------------------------------------------------------------


def uniform(low: float, high: float, n: int, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng)


def blur(pictures: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each of [N, 3, H, W] by a Gaussian of its own deviation [N], in pixels."""
    n, channels = pictures.shape[:2]
    reach = max(1, int(2.5 * float(sigmas.max())))
    offsets = torch.arange(-reach, reach + 1)
    kernels = torch.exp(-offsets.square() / (2 * sigmas[:, None].square() + 1e-6))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = pictures.reshape(1, n * channels, *pictures.shape[2:])
    flat = F.pad(flat, (reach,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernels[..., None], groups=n * channels)
    flat = F.conv2d(flat, kernels[:, :, None], groups=n * channels)
    return flat.view_as(pictures)


def waves(n: int, channels: int, cells: int, rng: torch.Generator) -> Tensor:
    """Smooth noise of about unit deviation, about `cells` / 2 waves a side: [n, channels, SIDE, SIDE]."""
    coarse = torch.randn((n, channels, cells, cells), generator=rng)
    curved = F.interpolate(coarse, (SIDE // 4, SIDE // 4), mode="bicubic", align_corners=True)
    return F.interpolate(1.3 * curved, (SIDE, SIDE), mode="bilinear", align_corners=True)


def warp(pictures: Tensor, bend: Tensor, maps: Tensor | None = None) -> Tensor:
    """Move pixels by `bend` [N, 2, SIDE, SIDE], in half sides, after the affine `maps` [N, 2, 3]."""
    if maps is None:
        maps = torch.eye(2, 3).expand(len(pictures), -1, -1)
    grid = F.affine_grid(maps, list(pictures.shape), align_corners=False) + bend.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def fair(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Views [N, 3, SIDE, SIDE] on which everything can still be read: a little off in every way."""
    n = len(pictures)
    strength = torch.rand((n, 1, 1, 1), generator=rng).square()
    turn, scale = uniform(-0.1, 0.1, n, rng), uniform(0.92, 1.08, n, rng)
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = turn.cos() * scale
    maps[:, 1, 0] = turn.sin() * scale
    maps[:, 0, 1] = -maps[:, 1, 0]
    maps[:, :, 2] = 0.04 * torch.randn((n, 2), generator=rng)
    cells = int(torch.randint(4, 9, (), generator=rng))
    views = warp(pictures, 0.11 / cells * strength * waves(n, 2, cells, rng), maps)
    flipped = torch.rand((n, 1, 1, 1), generator=rng) < 0.5
    views = torch.where(flipped, views.flip(3), views)
    views = blur(views, 2 * torch.rand(n, generator=rng).square())
    return tint(views, rng)


def tint(views: Tensor, rng: torch.Generator) -> Tensor:
    """The views [N, 3, H, W] a little off in contrast and colour, smoothly and by pixel noise."""
    n = len(views)
    gain = 1 + 0.06 * torch.randn((n, 1, 1, 1), generator=rng)
    shift = 0.05 * torch.randn((n, 3, 1, 1), generator=rng)
    patches = 0.06 * torch.rand((n, 1, 1, 1), generator=rng) * waves(n, 3, 6, rng)
    grain = 0.25 * torch.rand((n, 1, 1, 1), generator=rng).pow(3) * torch.randn(views.shape, generator=rng)
    return (views * gain + shift + patches + grain).clamp(-1, 1)


def spoil(pictures: Tensor, wanted: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Views [N, 3, SIDE, SIDE] a stranger could not name the things of, and what to read there [N, fields].

    `wanted` is what the pictures showed before.
    """
    kinds = torch.randint(4, (len(pictures),), generator=rng)
    views, read = pictures.clone(), wanted.clone()
    fields = list(FIELDS)
    for kind, way in enumerate((too_blurred, too_warped, cut_up)):
        rows = (kinds == kind).nonzero().flatten()
        if len(rows):
            views[rows] = way(pictures[rows], rng)
            for k, field in enumerate(fields):
                if field in ROUND or (field in LARGE and way is cut_up):
                    read[rows, k] = UNREADABLE
                elif field not in LARGE:
                    read[rows, k] = 0
    rows = (kinds == 3).nonzero().flatten()
    if len(rows):
        part, gone = list(PARTS.items())[int(torch.randint(len(PARTS), (), generator=rng))]
        views[rows] = smeared(pictures[rows], part, rng)
        for field in gone:
            read[rows, fields.index(field)] = 0
    return tint(views, rng), read


def too_blurred(pictures: Tensor, rng: torch.Generator) -> Tensor:
    return blur(pictures, uniform(8, 18, len(pictures), rng))


def too_warped(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Warped by waves of several lengths: outlines become those of blobs."""
    n = len(pictures)
    amount = uniform(0.7, 1.3, n, rng)[:, None, None, None]
    bend = 0.16 * waves(n, 2, 5, rng) + 0.12 * waves(n, 2, 8, rng) + 0.06 * waves(n, 2, 14, rng)
    return blur(warp(pictures, amount * bend), uniform(0.1, 3, n, rng))


def cut_up(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Square pieces, laid out in another order."""
    side = int(torch.tensor([16, 32])[torch.randint(2, (), generator=rng)])
    pieces = F.unfold(pictures, side, stride=side)  # [N, 3 * side * side, pieces]
    order = torch.rand(len(pictures), pieces.shape[2], generator=rng).argsort(1)
    pieces = pieces.gather(2, order[:, None].expand_as(pieces))
    shuffled = F.fold(pieces, (SIDE, SIDE), side, stride=side)
    return blur(shuffled, uniform(0.1, 4, len(pictures), rng))


def smeared(pictures: Tensor, part: tuple[float, float, float, float], rng: torch.Generator) -> Tensor:
    """One part (x, y, half width, half height, in sides) blurred and warped beyond reading."""
    n = len(pictures)
    x, y, half_width, half_height = (SIDE * number for number in part)
    down, across = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = ((across - x) / half_width).square() + ((down - y) / half_height).square()
    mask = (4 * (1.2 - distance)).sigmoid()
    bend = 0.14 * waves(n, 2, 8, rng) + 0.07 * waves(n, 2, 16, rng)
    gone = blur(warp(pictures, bend), uniform(3, 8, n, rng))
    return mask * gone + (1 - mask) * pictures


# Thresholds -------------------------------------------------------------------------------------------


@torch.no_grad()
def calibrate(reader: Reader, drawings: int = 3000, lost: float = 0.005, lenient: float = 0.02) -> None:
    """Set each field's threshold from drawings of their own, fair and spoilt.

    It is the lowest at which at most a share `lenient` of spoilt pictures is read as something, but never so
    high that more than a share `lost` of what is there on fair ones goes unread for it.
    """
    reader.eval()
    shown, there, gone = [], [], []
    for chunk in range(max(1, drawings // 100)):
        rng = torch.Generator().manual_seed(chunk)
        pictures, drawn = batch(np.random.default_rng([21, chunk]), 100)
        wanted = targets(drawn)
        spoilt, read = spoil(pictures, wanted, rng)
        there.append(reader.probabilities(fair(pictures, rng)))
        gone.append(reader.probabilities(spoilt))
        shown.append((wanted, read))
    wanted, read = (torch.cat(parts) for parts in zip(*shown, strict=True))
    for k in range(len(FIELDS)):
        on_fair, on_spoilt = (torch.cat([part[k] for part in parts]) for parts in (there, gone))
        rows = wanted[:, k] > 0
        right = on_fair[rows].gather(1, wanted[rows, k : k + 1]).flatten()
        wrong = on_spoilt[read[:, k] == 0, 1:].amax(1)
        highest = right.quantile(lost) if len(right) else torch.tensor(0.5)
        reader.thresholds[k] = wrong.quantile(1 - lenient).clamp_min(0.5).clamp_max(highest.clamp(0.5, 0.98))


def train(minutes: float, pictures: int) -> dict[str, Tensor]:
    """Train, or go on training, for `minutes` in all; returns the averaged weights."""
    torch.manual_seed(0)
    reader = Reader().to(memory_format=torch.channels_last)
    average = Average(reader, decay=0.995)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.02)
    run = Run("reader", minutes, {"reader": reader, "average": average, "optimiser": optimiser})
    for step in run:
        for group in optimiser.param_groups:
            group["lr"] = run.rate(3e-3)
        rng = torch.Generator().manual_seed(step)
        drawn, drawings = batch(np.random.default_rng([20, step]), pictures)
        wanted = targets(drawings)
        few = slice(0, max(1, round(SPOILT_SHARE * pictures)))
        spoilt, read = spoil(drawn[few], wanted[few], rng)
        views = torch.cat([fair(drawn, rng), spoilt])
        with autocast():
            logits = reader(views)
        loss = loss_of(logits.float(), torch.cat([wanted, read]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
        optimiser.step()
        average.update()
        values = torch.stack([part.argmax(1) for part in by_field(logits[: len(wanted)])], 1)
        run.log(loss=loss, right=(values == wanted)[wanted > 0].float().mean())
    return average.weights


def main() -> None:
    options = arguments(__doc__, minutes=40, batch=64)
    reader = Reader()
    reader.load_state_dict(train(0.0 if options.export else options.minutes, options.batch))
    calibrate(reader)
    export("reader", reader.state_dict(), WEIGHTS.parent)


if __name__ == "__main__":
    main()
