"""Colour management: pictures are converted from their colour profile to sRGB.

The profile is the embedded one, else that of a PNG's primaries and gamma, as in browsers. A profile that is
broken, absurd or for another colour space is ignored, and the picture is taken to be sRGB.
"""

from __future__ import annotations

import functools
import io
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

LONGEST_PROFILE = 8 * 2**20  # bytes; those of printers take a few megabytes
SAME = 2  # levels; a profile that differs from sRGB by no more counts as sRGB
D50 = (0.9642, 1.0, 0.8249)  # the white point of profiles
SRGB_GAMMA = 1 / 2.2  # in PNGs, where it means the curve of sRGB
CHROMATICITIES = {  # by their numbers in ITU-T H.273: white, red, green and blue, x and y of each
    1: (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
GAMMAS = {4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0, 13: SRGB_GAMMA}  # likewise

Mode = Literal["RGB", "L", "CMYK"]
_MODES: dict[str, Mode] = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by what profiles call them
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class ToSrgb:
    """A conversion to sRGB.

    Attributes:
        mode: the mode the picture must have, in which it is also shrunk.
    """

    mode: Mode
    _transform: ImageCms.ImageCmsTransform

    def apply(self, picture: Image.Image) -> Image.Image:
        """A picture of mode `mode` as RGB in sRGB."""
        converted = ImageCms.applyTransform(picture, self._transform)
        assert converted is not None
        return converted


def to_srgb(image: Image.Image, file: bytes) -> ToSrgb | None:
    """The conversion an opened picture needs; None if none, or if its profile is unusable.

    Args:
        file: the file it was opened from.
    """
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    mode: Mode = "L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
    try:
        profile = image.info.get("icc_profile")
        if profile is None and image.format == "PNG":
            profile = _png_profile(image, file, mode)
        return None if profile is None or len(profile) > LONGEST_PROFILE else _to_srgb(profile, mode)
    except MemoryError:
        raise
    except Exception:  # lcms and Pillow raise nearly anything; a picture with a broken profile is usable
        return None


@functools.lru_cache(maxsize=8)  # all pictures of a phone have the same
def _to_srgb(profile: bytes, mode: Mode) -> ToSrgb | None:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if _MODES.get(opened.profile.xcolor_space.strip()) != mode:
        return None
    srgb = ImageCms.createProfile("sRGB")
    found = ToSrgb(mode, ImageCms.buildTransform(opened, srgb, mode, "RGB"))
    return found if _is_worth_it(found) else None


def _is_worth_it(found: ToSrgb) -> bool:
    """Whether it changes colours noticeably, and does not swap light and dark."""
    bands = 4 if found.mode == "CMYK" else len(found.mode)
    levels = (
        range(256) if bands == 1 else (0, 32, 64, 96, 128, 160, 192, 224, 255) if bands == 3 else (0, 255)
    )
    colours = np.array(list(itertools.product(levels, repeat=bands)), np.uint8)
    picture = Image.frombytes(found.mode, (len(colours), 1), colours.tobytes())
    result = np.asarray(found.apply(picture), int)[0]
    dark, light = (-1, 0) if found.mode == "CMYK" else (0, -1)
    if result[light].mean() - result[dark].mean() < 128:
        return False
    return found.mode == "CMYK" or bool(np.abs(result - colours).max() > SAME)


# PNG's own colour chunks


def _png_profile(image: Image.Image, file: bytes, mode: Mode) -> bytes | None:
    """The profile of a PNG's chunks cICP, or gAMA and cHRM; None if it is sRGB or has none of them."""
    code = _cicp(file)
    if code is not None:
        primaries, transfer, *others = code
        if primaries in CHROMATICITIES and transfer in GAMMAS and others == [0, 1]:
            return screen_profile(mode, CHROMATICITIES[primaries], GAMMAS[transfer])
    gamma = image.info.get("gamma")
    if gamma is None or "srgb" in image.info:
        return None
    return screen_profile(mode, image.info.get("chromaticity", CHROMATICITIES[1]), gamma)


def _cicp(png: bytes) -> bytes | None:
    """The four numbers of the chunk cICP, which comes before the pixels."""
    at = 8
    while (name := png[at + 4 : at + 8]) not in (b"IDAT", b"IEND", b""):
        length = int.from_bytes(png[at : at + 4], "big")
        if name == b"cICP" and length == 4:
            return png[at + 8 : at + 12]
        at += 12 + length
    return None


def screen_profile(mode: Mode, chromaticities: Sequence[float], gamma: float) -> bytes:
    """An ICC profile (version 2) of a display.

    Args:
        mode: "RGB" or "L".
        chromaticities: x and y of white, red, green and blue.
        gamma: the exponent that encodes light as levels; near 1/2.2 the curve is that of sRGB.
    """
    share = np.linspace(0, 1, 1024)
    light = share ** (1 / gamma)
    if abs(gamma - SRGB_GAMMA) < 0.01:
        light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    curve = (
        b"curv" + bytes(4) + struct.pack(">I", len(light)) + (light * 65535).round().astype(">u2").tobytes()
    )
    if mode == "L":
        tags = {b"wtpt": _xyz(D50), b"kTRC": curve}
    else:
        columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), _colorants(chromaticities).T, strict=True))
        tags = {name: _xyz(column) for name, column in columns.items()}
        tags |= {b"wtpt": _xyz(D50), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    directory, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        directory += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(tag))
        data += tag
    space = b"GRAY" if mode == "L" else b"RGB "
    length = 128 + len(directory) + len(data)
    head = struct.pack(">I4xI4s4s4s12x4s", length, 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return head.ljust(68, b"\0") + _xyz(D50)[8:] + bytes(48) + directory + data


def _colorants(chromaticities: Sequence[float]) -> np.ndarray:
    """Red, green and blue in XYZ, the columns of [3, 3], adapted to the white point D50."""
    x, y = np.array(chromaticities, float).reshape(4, 2).T
    if not y.all():
        raise ValueError("a colour without light")
    white, *primaries = np.array([x / y, np.ones(4), (1 - x - y) / y]).T
    columns = np.array(primaries).T
    columns = columns * np.linalg.solve(columns, white)
    adapt = np.diag(_BRADFORD @ D50 / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ adapt @ _BRADFORD @ columns


def _xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
