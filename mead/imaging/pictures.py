"""Reading untrusted pictures: the result is a plain RGB picture, or a PictureError.

The size is checked before any pixel is decoded, the format is detected from the content, never from the name,
and only the pixels are kept, converted to sRGB: no EXIF position, no comment, no colour profile.

A file can be made to cost far more than its length: by what it decompresses to, by being cut into millions of
pieces, by many scans of the same pixels. Pillow bounds the first (decompressed text, profiles and tags, tiles
and canvases larger than the picture); the limits below bound the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from mead.imaging.colours import to_srgb
from mead.imaging.formats import FORMATS, why_not_read

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # the longest side of a WebP, longer than any camera's
MAX_PIECES = 200_000  # reads of a file's chunks, segments or blocks; a PNG of 32 MB takes some 16,000
MAX_SCANS = 100  # passes over the pixels of a JPEG; a progressive one has about ten

BYTES_PER_PIXEL = 16  # that decoding takes at most, beside the file itself
BAND_PIXELS = 1_000_000  # converted at once
OVERSHOOT = 0.1  # of white, by which levels may pass it, or be below black: resampling and sharpening do that
DIMMEST = 0.01  # of white, that floats of 0 to 255 reach; others were hardly meant so
DNG_VERSION = 50706  # a TIFF's tag
MASK_NOISE = 16  # levels from black or white that still count as it: JPEGs are not exact

_UPRIGHT = {  # by EXIF orientation: how to turn the picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}

# In a JPEG's coded data FF 00 is a byte, FF D0 to FF D7 restart the coder; others begin a segment.
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


class PictureError(ValueError):
    """A picture that cannot be used.

    Attributes:
        field: the argument or form field that held it.
        kind: "too_large" (its dimensions, or the cost of decoding it), "not_a_picture" (not a picture, or one
            that cannot be decoded), "no_face" or "no_mask".
        reason: what is wrong, without the field.
    """

    def __init__(
        self, field: str, kind: Literal["too_large", "not_a_picture", "no_face", "no_mask"], reason: str
    ) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.kind = kind
        self.reason = reason


def read_picture(
    source: Path | BinaryIO,
    field: str,
    max_pixels: int = MAX_PIXELS,
    within: tuple[int, int] | None = None,
    before_decoding: Callable[[int], None] | None = None,
    mask: bool = False,
) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF of any colour mode.

    The EXIF orientation is applied; transparency is composited on white; 16-bit, palette, grey and CMYK
    pictures are converted to RGB, and colours to sRGB. Takes at most about BYTES_PER_PIXEL of memory per
    pixel, besides the file itself.

    Args:
        source: a path, or a binary file open for reading.
        field: what to call the picture in errors.
        max_pixels: the most pixels (width times height) it may have.
        within: width and height that it is shrunk to fit, aspect kept; never enlarged. Its own size when
            None.
        before_decoding: called with its number of pixels, once the file is opened; may raise MemoryError.
        mask: whether it is a mask: then the result is white where it is white, or, if a part of it is
            transparent, where it is transparent; nearly white is white, and nearly black is black.

    Returns:
        A PIL picture, mode RGB (a mask: L), without metadata.

    Raises:
        PictureError: if the content cannot be used.
        MemoryError: if there is too little memory.
        FileNotFoundError: if `source` is a path that does not exist.
    """
    if isinstance(source, Path):
        if not source.exists():
            raise FileNotFoundError(f"{field}: there is no file {source}")
        with source.open("rb") as file:
            return read_picture(file, field, max_pixels, within, before_decoding, mask)
    content = source.read()
    try:
        with _Upload(content) as upload, Image.open(upload, formats=FORMATS) as image:
            if before_decoding is not None:
                before_decoding(image.width * image.height)
            _check_size(image, field, max_pixels)
            if image.format in ("JPEG", "MPO"):
                _check_scans(content)
            return _plain(image, content, within, mask)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(field, "too_large", f"has far more than {max_pixels:,} pixels") from error
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = why_not_read(content) if unknown else str(error) or type(error).__name__
        raise PictureError(field, "not_a_picture", f"not a picture that can be read ({reason})") from error


def check_mask(mask: Image.Image, field: str) -> None:
    """Check that a mask, mode L, leaves something to change and something to keep.

    Raises:
        PictureError: "no_mask".
    """
    darkest, lightest = mask.getextrema()
    if lightest == 0:
        raise PictureError(field, "no_mask", "nothing in it is white (or transparent), so nothing may change")
    if darkest == 255:
        raise PictureError(
            field, "no_mask", "all of it is white (or transparent), so nothing would stay; leave it out"
        )


def fit_within(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture`, shrunk to fit `width` x `height` if it is larger; the aspect ratio is kept."""
    return picture.resize(_fitted(picture.size, (width, height)), Image.Resampling.LANCZOS)


class _Upload(BytesIO):
    """A file in memory that Pillow may read from only a limited number of times.

    Pillow reads each chunk, segment and block separately, so a file with millions of them would keep it busy.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_PIECES:
            raise OSError("it is in far too many pieces")
        return super().read(size)


def _check_size(image: Image.Image, field: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(field, "too_large", f"{width} x {height} is more than {max_pixels:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureError(
            field, "too_large", f"{width} x {height} has a side longer than {MAX_SIDE:,} pixels"
        )
    if isinstance(image, TiffImageFile):
        if DNG_VERSION in image.tag_v2:
            raise OSError("a camera's RAW file; develop it and send a JPEG")
        tile = image.tag_v2.get(TILEWIDTH, 1), image.tag_v2.get(TILELENGTH, 1)
        if not all(isinstance(side, int) for side in tile):
            raise OSError("the size of its tiles is no number")
        if tile[0] * tile[1] > max_pixels:
            raise PictureError(field, "too_large", f"has tiles of more than {max_pixels:,} pixels")


def _check_scans(jpeg: bytes) -> None:
    """Raise OSError if a JPEG has too many scans: a few bytes may cost a pass over all pixels."""
    scans, position = 0, 2
    for _ in range(MAX_PIECES):
        found = _JPEG_SEGMENT.search(jpeg, position)
        if found is None or found[1] == _END_OF_IMAGE:
            return
        scans += found[1] == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise OSError(f"it has more than {MAX_SCANS} scans")
        position = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
    raise OSError("it is in far too many pieces")


def _plain(image: Image.Image, file: bytes, within: tuple[int, int] | None, mask: bool) -> Image.Image:
    """An upright copy of an opened picture of any mode, without metadata: RGB, or L if it is a mask."""
    if within is not None:  # a JPEG decodes to a half, a quarter or an eighth of its size much faster
        finest = max(_fitted(image.size, within), _fitted(image.size, within[::-1]))  # it may lie or stand
        image.draft(None, (2 * finest[0], 2 * finest[1]))
    _scale_transparent_colour(image)
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    colours = None if mask else to_srgb(image, file)
    if mask:
        image = _mask_levels(image)
    if within is not None and turn in _QUARTER_TURNS:
        within = within[::-1]
    size = image.size if within is None else _fitted(image.size, within)
    factor = max(1, min(image.width // (2 * size[0]), image.height // (2 * size[1])))
    coarse = _coarse(image, factor, "L" if mask else colours.mode if colours else "RGB")
    whole = (0, 0, image.width / factor, image.height / factor)  # without the padding of rounding up
    # a mask must not overshoot: its black is exact
    plain = coarse.resize(size, Image.Resampling.BILINEAR if mask else Image.Resampling.LANCZOS, whole)
    if colours:
        plain = colours.apply(plain)
    if mask:
        plain = plain.point(_without_noise)
    plain.info = {}
    return plain if turn is None else plain.transpose(turn)


def _mask_levels(image: Image.Image) -> Image.Image:
    """A picture of any mode as a mask, mode L: its transparency if it has some, else its brightness."""
    levels = Image.new("L", image.size)
    if image.has_transparency_data and not image.mode.startswith(("I", "F")):
        for top, band in _bands(image, 1):
            rgba = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
            levels.paste(ImageChops.invert(rgba.getchannel("A")), (0, top))
        if levels.getextrema()[1]:
            return levels
    black_and_white = _black_and_white(image)
    for top, band in _bands(image, 1):
        levels.paste(_opaque_rgb(band, *black_and_white).convert("L"), (0, top))
    return levels


def _without_noise(level: int) -> int:
    return 0 if level < MASK_NOISE else 255 if level > 255 - MASK_NOISE else level


def _coarse(image: Image.Image, factor: int, mode: str) -> Image.Image:
    """A picture as one of mode `mode` without alpha, its sides divided by `factor` (and rounded up)."""
    if image.mode == mode and not image.has_transparency_data:
        return image if factor == 1 else image.reduce(factor)
    coarse = Image.new(mode, (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    levels = _black_and_white(image)
    for top, band in _bands(image, factor):
        coarse.paste(_opaque_rgb(band, *levels).convert(mode).reduce(factor), (0, top // factor))
    return coarse


def _fitted(size: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same aspect ratio that fits `within`, but not larger than `size`."""
    scale = min(1, within[0] / size[0], within[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing or unreadable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not make a picture unusable
        return 1


def _bands(image: Image.Image, multiple: int) -> Iterator[tuple[int, Image.Image]]:
    """A picture in full-width bands from its top, each with its first row; rows a multiple of `multiple`."""
    rows = max(1, BAND_PIXELS // image.width // multiple) * multiple
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _opaque_rgb(image: Image.Image, black: float, white: float) -> Image.Image:
    """A picture of any mode as RGB; grey levels of more than 8 bits as shares between `black` and `white`."""
    if image.mode.startswith(("I", "F")):
        levels = _levels(image)
        transparent = levels == image.info.get("transparency", math.nan)
        shares = np.where(transparent, 1.0, (levels - black) / (white - black))
        image = Image.fromarray((shares * 255).round().clip(0, 255).astype(np.uint8))
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _black_and_white(image: Image.Image) -> tuple[float, float]:
    """The grey levels that are black and white, in a picture of more than 8 bits or of floats.

    "I;16" implies its range; "I" and "F" do not, so white is the smallest usual maximum that is not below the
    brightest pixel.

    Raises:
        OSError: the levels have no usual range, or are not all finite.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits, signed = tags.get(BITSPERSAMPLE, (16,))[0], tags.get(SAMPLEFORMAT, (1,))[0] == 2
    if image.mode == "F":
        white = _white(image, (1, 255), floats=True)
    elif bits == 16 and signed:
        white = _white(image, (255, 32767))
    elif image.mode == "I":
        white = _white(image, (255, 65535))
    else:
        white = 4095 if bits == 12 else 65535
    white_is_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0  # Pillow turns only those of up to 8 bits
    return (white, 0) if white_is_zero else (0, white)


def _white(image: Image.Image, whites: tuple[int, int], floats: bool = False) -> int:
    """Which of `whites` is this picture's. Levels may be a little below black, and floats above white.

    Raises:
        OSError: as `_black_and_white`.
    """
    ranges = [(float(levels.min()), float(levels.max())) for levels in map(_levels, _crops(image))]
    darkest, brightest = np.min(ranges), np.max(ranges)  # NaN if any level is
    expected = " or ".join(f"0 to {white}" for white in whites)
    if not np.isfinite([darkest, brightest]).all():
        raise OSError(f"it has pixels that are not finite; expected are {expected}")
    highest = 1 + OVERSHOOT if floats else 1
    white = next((white for white in whites if brightest <= white * highest), None)
    dim = floats and white == 255 and brightest < DIMMEST * white
    if white is None or darkest < -OVERSHOOT * white or dim:
        raise OSError(f"its pixels range from {darkest:.6g} to {brightest:.6g}; expected are {expected}")
    return white


def _crops(image: Image.Image) -> Iterator[Image.Image]:
    return (band for _, band in _bands(image, 1))


def _levels(image: Image.Image) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # signalling NaNs warn when they are copied
        return np.asarray(image, dtype=np.float64)


def _scale_transparent_colour(image: Image.Image) -> None:
    """Scale the transparent colour of a PNG of 2, 4 or 16 bits to 8 bits, as Pillow scales the pixels."""
    transparent = image.info.get("transparency")
    if transparent is None or not isinstance(image, PngImageFile) or not image.tile:
        return
    raw_mode = image.tile[0].args
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
