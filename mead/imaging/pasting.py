"""Pasting an edited face back into the photo that it was cut out of.

What is pasted is the change: photo + mask · (edit - inversion). A generator never draws a face quite as it
is; whatever the edit leaves alone thus stays the photo's own pixels. In a face that the generator draws
nearly so, what is replaced by something else is pasted as the edit shows it: of the change alone, a rim of
the old hair would be left where the inversion has missed it, and a hat would let it through. The soft mask is
that of facexlib (Wang, https://github.com/xinntao/facexlib): the square, made smaller by a few pixels and by
a twentieth of its side, then blurred.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from mead.imaging.faces import Square

EDGE = 1.0  # pixels of the photo along the square's edges that stay as they are
MARGIN = 1 / 20  # the mask's edge lies that much further inside, and is blurred as far; in sides
LEFT_ALONE, CHANGED = 6.0, 24.0  # levels of 255; a change of less is none, one of more counts fully
SMOOTHED = 1 / 50  # over how much of a side the size of a change is averaged
REPLACED = 40.0, 80.0  # what changes by less is the same thing in another shade, by more fully another one
REACH = 1 / 32  # how far around such a change the edit itself is pasted, in sides
BAND_PIXELS = 1_000_000  # of the photo, changed at once
ENLARGED = 0.9  # below this scale, cubic instead of linear interpolation, which would show its lines
PARTING = 0.3  # between two faces, over how much of a face's reach the one gives way to the other


def change(
    inversion: Image.Image, edit: Image.Image, strength: float = 1.0, replaces: bool = False
) -> np.ndarray:
    """What an edit changes, and nothing where it is hardly to be seen.

    Args:
        inversion, edit: RGB, [S, S]: the face as its codes draw it before and after the edit.
        strength: of the edit. How much changes is measured in it, so that half of a small edit is not less
            than half of it; at 0 there is no change.
        replaces: whether the edit itself is to be pasted where it shows something else than before.

    Returns:
        [S, S, 3], in levels of 255 that are added; [S, S, 4] if it replaces something: the last number is how
        much of the photo they stand for, 0 to 1.
    """
    before, after = (np.asarray(picture, np.float32) for picture in (inversion, edit))
    difference = after - before
    if strength == 0:
        return np.zeros_like(difference)
    size = np.abs(difference).max(axis=2)
    size = cv2.GaussianBlur(size, (0, 0), SMOOTHED * len(size)) / strength
    weights = _ramp((size - LEFT_ALONE) / (CHANGED - LEFT_ALONE))[..., None]
    if not replaces:
        return difference * weights
    least, most = REPLACED
    replaced = _widened(_ramp((size - least) / (most - least)), REACH * len(size))[..., None]
    instead = min(strength, 1.0) * replaced
    return np.dstack([difference * np.maximum(weights, replaced) + instead * before, instead])


def paste(photo: np.ndarray, changed: np.ndarray, square: Square, neighbours: Sequence[Square] = ()) -> None:
    """Add a change to the face of a photo. Pixels outside the mask keep their values.

    Args:
        photo: [H, W, 3], uint8; changed in place.
        changed: [S, S, 3 or 4], what `change` returns.
        square: where in the photo the face was cut out.
        neighbours: where other faces are, which keep what is nearer to them.
    """
    side = max(1, round(square.side))
    if len(changed) > side:
        changed = cv2.resize(changed, (side, side), interpolation=cv2.INTER_AREA)  # averages: no aliasing
    weights = soft_mask(len(changed), square) * _share(len(changed), square, neighbours)
    added = changed * weights[..., None]
    left, upper, right, lower = square.bounds(photo.shape[1], photo.shape[0])
    if left == right:
        return
    rows = max(1, BAND_PIXELS // (right - left))
    for top in range(upper, lower, rows):
        bottom = min(top + rows, lower)
        part = photo[top:bottom, left:right]
        colours, instead = np.split(_warp(added, square, (left, top, right, bottom)), [3], axis=2)
        kept = part * (1 - instead) if instead.size else part
        part[:] = np.rint(kept + colours).clip(0, 255)


def mask_of(square: Square, width: int, height: int) -> np.ndarray:
    """How much of a change each pixel of a photo may take, [height, width], 0 to 1: exactly 0 far outside."""
    mask = np.zeros((height, width), np.float32)
    left, upper, right, lower = box = square.bounds(width, height)
    if left < right and upper < lower:
        mask[upper:lower, left:right] = _warp(soft_mask(max(1, round(square.side)), square), square, box)
    return mask


def soft_mask(size: int, square: Square) -> np.ndarray:
    """The mask in the cut-out picture, [size, size]: 0 at its edges, 1 in the middle."""
    pixel = size / max(1.0, square.side)  # of the photo
    width = MARGIN * size
    place = np.arange(size) + 0.5
    inside = np.minimum(place, size - place) - EDGE * pixel
    across = _ramp(inside / (2 * width))  # from the edge to twice the margin, as wide as the blur is
    return np.outer(across, across).astype(np.float32)


def _widened(weights: np.ndarray, by: float) -> np.ndarray:
    """Weights [S, S] that reach further by so many pixels, and fall off softly."""
    round_window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(by) + 1,) * 2)
    return cv2.GaussianBlur(cv2.dilate(weights, round_window), (0, 0), by / 2)


def _warp(picture: np.ndarray, square: Square, box: tuple[int, int, int, int]) -> np.ndarray:
    """What a picture [S, S, ...] of the square shows of a photo's box; black outside of the square."""
    scale = len(picture) / square.side
    unit = square.across / np.hypot(*square.across)
    turn = np.array([[unit[0], unit[1]], [-unit[1], unit[0]]]) * scale  # from the photo to the picture
    # both in pixels whose centres are whole numbers, as OpenCV counts them
    offset = turn @ (np.array(box[:2]) + 0.5 - square.corner) - 0.5
    smooth = cv2.INTER_CUBIC if scale < ENLARGED else cv2.INTER_LINEAR
    size = (box[2] - box[0], box[3] - box[1])
    return cv2.warpAffine(
        picture, np.column_stack([turn, offset]), size, flags=smooth | cv2.WARP_INVERSE_MAP, borderValue=0
    )


def _share(size: int, square: Square, neighbours: Sequence[Square]) -> np.ndarray:
    """How much of each pixel [size, size] belongs to this face rather than to its neighbours, 0 to 1."""
    place = (np.arange(size) + 0.5) / size * 2 - 1  # -1 to 1 from edge to edge
    x, y = np.meshgrid(place, place)
    reach = np.hypot(x, y)
    points = square.centre + x[..., None] * square.across + y[..., None] * square.down
    share = np.ones((size, size), np.float32)
    for other in neighbours:
        theirs = np.hypot(*np.moveaxis(points - other.centre, 2, 0)) / (other.side / 2)
        share *= _ramp((theirs - reach) / PARTING + 0.5)
    return share


def _ramp(values: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth in between."""
    values = values.clip(0, 1)
    return values * values * (3 - 2 * values)
