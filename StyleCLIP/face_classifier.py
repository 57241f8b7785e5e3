"""Telling whether a picture is a face as a weights set knows them, framed as FFHQ's are.

The detector of `StyleCLIP.align` knows people. A set whose faces are drawings brings a small convolutional
network that knows these.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mead.imaging.faces import Square
from mead.imaging.tensors import to_tensor
from mead.nn.state_dict import StateDict, StateDictError, build, count, shape

SIDES = (1.0, 0.85, 0.72, 0.6)  # of the squares looked at, in shares of the picture's shorter side
STEP = 0.12  # from a square to the next, at most, in sides
MOST = 9  # squares along each axis
ABOUT_AS_SURE = 8.0  # logits: a face that fills the picture is not to be cut into
LOOKED_AT = 256  # pixels, of the shorter side: no square needs more

# Of `FaceClassifier.refine`: how far the squares that are drawn lie from their mean at first, in the
# logarithm of the size, in sides to the right and down, and in degrees. Then how many are drawn, how often,
# and how much closer each time.
SPREAD = (0.18, 0.08, 0.08, 12.0)
DRAWS, ROUNDS, NARROWED = 48, 4, 0.75
FEW, HOPELESS = 24, -8.0  # of so many draws, the first, some should have so many logits
SURE = 2.0  # logits, in the end; the faces of drawn scenes have 5 to 14
VERY_SURE = 6.0  # the same, where nothing else says that there is a face
AROUND = 2.0  # sides of what is looked at, in sides of the first square
DETAIL = 1.3  # its pixels for one of the network's input

# Of `FaceClassifier.glimpses`: sides of faces, in shares of the picture's shorter side, degrees that they are
# turned by, logits, and how many are worth a closer look.
SHARES, ANGLES = (0.6, 0.45, 0.34, 0.26, 0.2), range(0, 360, 30)
LIKELY, CLOSER = -2.0, 8
LONGEST = 1280  # pixels, of what it looks at: a very long picture's small faces would take too much time

Box = tuple[float, float, float, float]


class FaceClassifier(nn.Module):
    """Pictures [N, 3, S, S] in [-1, 1] -> logits [N], above zero for a face in FFHQ's frame.

    Args:
        widths: channels after each convolution, which halves the sides.
        input_size: S.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64), input_size: int = 64) -> None:
        super().__init__()
        if input_size % 2 ** len(widths):
            raise ValueError(f"input_size must be a multiple of {2 ** len(widths)}, not {input_size}")
        self.input_size = input_size
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        channels = 3
        for width in widths:
            self.convs.append(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False))
            self.norms.append(nn.BatchNorm2d(width))
            channels = width
        self.face_out = nn.Linear(channels * (input_size // 2 ** len(widths)) ** 2, 1)

    @classmethod
    def from_state_dict(cls, state_dict: StateDict) -> FaceClassifier:
        """Build the network that `state_dict` holds.

        Raises:
            StateDictError: naming keys that are missing or do not fit.
        """
        widths = [
            shape(state_dict, f"convs.{i}.weight")[0] for i in range(max(1, count(state_dict, "convs.")))
        ]
        features = shape(state_dict, "face_out.weight")[1]
        side = math.isqrt(features // widths[-1])
        if side == 0 or side * side * widths[-1] != features:
            raise StateDictError(
                f"face_out.weight takes {features} features, convs give {widths[-1]} channels"
            )
        return build(lambda: cls(widths, side * 2 ** len(widths)), state_dict)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.face_out(self._features(pictures).flatten(1))[:, 0]

    def _features(self, pictures: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            pictures = norm(conv(pictures)).relu()
        return pictures

    @torch.no_grad()
    def frame(self, picture: Image.Image) -> Box | None:
        """The square of an RGB picture of any size that is a face: left, upper, right, lower, in pixels.

        Of squares that are about as sure as the surest, it is the largest; None if there is none.
        """
        scale = min(1.0, LOOKED_AT / min(picture.size))
        small = picture.resize((math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
        size = (self.input_size, self.input_size)
        boxes = list(squares(*small.size))
        views = torch.cat([to_tensor(small.resize(size, Image.Resampling.LANCZOS, box)) for box in boxes])
        logits = self(views.to(self.face_out.weight.device) * 2 - 1)
        if logits.max() <= 0:
            return None
        sure = (logits >= max(0.0, float(logits.max()) - ABOUT_AS_SURE)).nonzero().flatten().tolist()
        chosen = max(sure, key=lambda k: (boxes[k][2] - boxes[k][0], float(logits[k])))
        left, upper, right, lower = np.multiply(
            boxes[chosen], np.tile(np.divide(picture.size, small.size), 2)
        ).tolist()
        return left, upper, right, lower

    @torch.no_grad()
    def glimpses(self, picture: Image.Image) -> list[Square]:
        """The squares of what may be faces in an RGB picture, small and turned ones too, the likeliest first.

        As the network is convolutional, it sees all of a picture in one pass for each size and angle.
        """
        found: list[tuple[float, Square]] = []
        for share in SHARES:
            scale = self.input_size / (share * min(picture.size))
            size = [max(1, round(side * scale)) for side in picture.size]
            if max(size) > LONGEST:
                continue
            small = np.asarray(picture.resize(size, Image.Resampling.BOX))
            for degrees in ANGLES:
                for logit, square in self._seen_at(small, math.radians(degrees)):
                    found.append((logit, Square(square.centre / scale, square.across / scale)))
        return [square for _, square in sorted(found, key=itemgetter(0), reverse=True)]

    def _seen_at(self, picture: np.ndarray, angle: float) -> Iterator[tuple[float, Square]]:
        """What may be faces as large as the network's input in a picture [H, W, 3], turned by an angle."""
        size, side, strides = np.array(picture.shape[1::-1]), self.input_size, 2 ** len(self.convs)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        around = np.maximum(np.ceil(np.abs(turn) @ size), side)
        offset = size / 2 - turn @ around / 2
        turned = cv2.warpAffine(
            picture,
            np.column_stack([turn, offset + turn @ (0.5, 0.5) - 0.5]),  # OpenCV counts from pixels' centres
            (int(around[0]), int(around[1])),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        view = torch.from_numpy(turned).permute(2, 0, 1)[None].float() / 127.5 - 1
        features = self._features(view.to(self.face_out.weight.device))
        weight = self.face_out.weight.view(1, -1, side // strides, side // strides)
        logits = F.conv2d(features, weight, self.face_out.bias)[0, 0].cpu()
        for row, column in (logits > LIKELY).nonzero().tolist():
            centre = turn @ (np.array([column, row]) * float(strides) + side / 2) + offset
            if (centre >= 0).all() and (centre < size).all():
                yield float(logits[row, column]), Square(centre, turn[:, 0] * side / 2)

    @torch.no_grad()
    def refine(self, picture: Image.Image, square: Square, least: float = SURE) -> Square | None:
        """The face near a square of an RGB picture, which may be turned; None if there is none.

        Squares around the first are drawn, always the same ones, and their mean is taken, each weighted by
        how sure it is; then squares around this mean, and so on (the cross-entropy method).

        Args:
            least: logits that it must have in the end.
        """
        scale = min(1.0, DETAIL * self.input_size / square.side)
        box = Square(square.centre, AROUND * square.across).bounds(*picture.size)
        size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
        if box[0] == box[2] or box[1] == box[3]:
            return None
        around = np.asarray(picture.resize(size, Image.Resampling.BOX, box))
        start = Square((square.centre - box[:2]) * scale, square.across * scale)
        rng = np.random.default_rng(0)
        spread, mean = np.array(SPREAD), np.zeros(4)
        for number in (FEW, *[DRAWS] * ROUNDS):
            draws = mean + rng.standard_normal((number, 4)) * spread
            draws[0] = mean
            logits = self._logits(around, [moved(start, draw) for draw in draws])
            if logits.max() < (HOPELESS if number == FEW else 0):
                return None
            if number == FEW:
                continue
            weights = np.exp((logits - logits.max()) / 2)
            mean = (weights[:, None] * draws).sum(0) / weights.sum()
            spread = spread * NARROWED
        sure = self._logits(around, [moved(start, mean)])[0] > least
        return moved(square, mean) if sure else None

    def _logits(self, picture: np.ndarray, squares: Sequence[Square]) -> np.ndarray:
        """How sure it is that squares of a picture [H, W, 3] are faces, [N]."""
        views = []
        for square in squares:
            turn = np.stack([square.across, square.down], 1) * (2 / self.input_size)
            offset = square.corner + turn @ (0.5, 0.5) - 0.5  # OpenCV counts from the pixels' centres
            views.append(
                cv2.warpAffine(
                    picture,
                    np.column_stack([turn, offset]),
                    (self.input_size, self.input_size),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )
        pictures = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self(pictures.to(self.face_out.weight.device)).cpu().numpy()


def moved(square: Square, by: np.ndarray) -> Square:
    """A square, changed by the logarithm of its size, by sides to the right and down, and by degrees, [4]."""
    size, right, down, degrees = by
    turned = cmath.exp(size + 1j * math.radians(degrees)) * complex(*square.across)
    centre = square.centre + 2 * (right * square.across + down * square.down)
    return Square(centre, np.array([turned.real, turned.imag]))


def squares(width: int, height: int) -> Iterator[Box]:
    """Squares spread over a picture of `width` x `height`, the largest first."""
    for share in SIDES:
        side = share * min(width, height)
        corners = []
        for length in (width, height):
            steps = min(MOST - 1, math.ceil((length - side) / (STEP * side)))
            corners.append(np.linspace(0, length - side, steps + 1) if steps else [(length - side) / 2])
        yield from ((x, y, x + side, y + side) for x in corners[0] for y in corners[1])
