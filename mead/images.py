"""Reading pictures that anybody may have sent: what comes out is a plain RGB picture, or a PictureError.

The size is read and judged before a single pixel is decoded, the format is told from the content and never
from the name, and nothing of the file but its pixels goes any further (no EXIF position, no profile, no
comment).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:  # the process that answers HTTP reads pictures too, and does without PyTorch
    import torch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # longest side of a WebP, and more than any camera's


class PictureError(ValueError):
    """A picture that cannot be used.

    Attributes:
        field: the argument or form field that held it.
        kind: "too_large" (its dimensions), "not_a_picture" (no picture, or one that cannot be decoded) or
            "no_face".
    """

    def __init__(
        self, field: str, kind: Literal["too_large", "not_a_picture", "no_face"], reason: str
    ) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.kind = kind


def read_picture(source: Path | BinaryIO, field: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF of any colour mode.

    The picture is turned upright by its EXIF orientation; transparency is laid on white; 16-bit, palette,
    grey and CMYK become RGB.

    Args:
        source: a path, or a binary file open for reading.
        field: what to call the picture in errors.
        max_pixels: the most pixels (width times height) it may have.

    Returns:
        A PIL picture, mode RGB, without metadata.

    Raises:
        PictureError: for everything wrong with the content.
        FileNotFoundError: when `source` is a path and nothing is there.
    """
    if isinstance(source, Path):
        if not source.exists():
            raise FileNotFoundError(f"{field}: there is no file {source}")
        with source.open("rb") as file:
            return read_picture(file, field, max_pixels)
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_size(image, field, max_pixels)
            image.load()
            return _plain_rgb(image)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(field, "too_large", f"has far more than {max_pixels:,} pixels") from error
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        raise PictureError(
            field, "not_a_picture", f"not a picture that can be read ({_reason(error)})"
        ) from error


def fit_within(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture`, shrunk if need be to fit `width` x `height`, aspect kept; never enlarged."""
    scale = min(width / picture.width, height / picture.height)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def png_bytes(picture: Image.Image) -> bytes:
    """`picture` as a PNG file. The same pixels give the same bytes."""
    file = BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


def _check_size(image: Image.Image, field: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(field, "too_large", f"{width} x {height} is more than {max_pixels:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureError(
            field, "too_large", f"{width} x {height} has a side longer than {MAX_SIDE:,} pixels"
        )


def _plain_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB copy of a decoded picture of any mode, with nothing attached."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    plain = Image.new("RGB", image.size)
    plain.paste(image.convert("RGB"))
    return plain


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits, or floats, brought to 8 bits.

    "I;16" says its own range; "I" and "F" do not, so it is the smallest usual one that holds the brightest
    pixel.
    """
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
    peak = next((brightest for brightest in ranges if levels.max() <= brightest), levels.max())
    return Image.fromarray((levels / peak * 255).round().clip(0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as [1, 3, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(picture, np.uint8)).permute(2, 0, 1)[None].float() / 255


def to_picture(image: torch.Tensor) -> Image.Image:
    """[1, 3, H, W] in [0, 1] (clipped to it) as an RGB picture."""
    levels = image[0].float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
