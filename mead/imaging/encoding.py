"""Writing pictures: PNG, WebP and the plain BMP that decoders hand over."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mead.files import write_whole

BMP_HEADER = struct.Struct("<2sI4xI IiiHH4xIii8x")
TEXTS = ("parameters", "mead")  # keywords of the text chunks that pictures are written with, in this order
DOTS_PER_METRE = 3780  # 96 an inch, as Pillow writes them


def png_bytes(picture: Image.Image) -> bytes:
    """`picture` as a PNG file, with the text chunks of `add_texts`.

    The same pixels and texts give the same bytes.
    """
    file = BytesIO()
    texts = PngInfo()
    for keyword in (keyword for keyword in TEXTS if keyword in picture.info):
        texts.add_text(keyword, picture.info[keyword])  # as iTXt where it is not Latin-1
    picture.save(file, "PNG", compress_level=3, pnginfo=texts)
    return file.getvalue()


def add_texts(picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Have a picture written with text chunks, by keyword: some of TEXTS."""
    for keyword, text in texts.items():
        picture.info[keyword] = text


class Bitmap:
    """An RGB picture as a BMP file: as large as its pixels, and made in a hundredth of the time a PNG takes.

    Args:
        size: width and height.
        file: the whole file.

    Raises:
        ValueError: the file is not just what `of` makes of a picture of this size.
    """

    def __init__(self, size: tuple[int, int], file: bytes | bytearray) -> None:
        header = self._header(size)
        if len(file) != len(header) + self._row(size) * size[1] or not file.startswith(header):
            raise ValueError("no such bitmap")
        self.size = size
        self.file = file

    @classmethod
    def of(cls, picture: Image.Image) -> Bitmap:
        """A picture of mode RGB as a bitmap."""
        rows = picture.tobytes("raw", "BGR", cls._row(picture.size), -1)
        return cls(picture.size, cls._header(picture.size) + rows)

    def picture(self) -> Image.Image:
        """The picture."""
        rows = self.file[BMP_HEADER.size :]
        return Image.frombytes("RGB", self.size, rows, "raw", "BGR", self._row(self.size), -1)

    @staticmethod
    def _row(size: tuple[int, int]) -> int:
        """Bytes of a row: three a pixel, and up to a multiple of four."""
        return (3 * size[0] + 3) // 4 * 4

    @classmethod
    def _header(cls, size: tuple[int, int]) -> bytes:
        length = cls._row(size) * size[1]
        whole, offset, info = BMP_HEADER.size + length, BMP_HEADER.size, 40
        return BMP_HEADER.pack(
            b"BM", whole, offset, info, *size, 1, 24, length, DOTS_PER_METRE, DOTS_PER_METRE
        )


def webp_bytes(picture: Image.Image) -> bytes:
    """`picture` as a lossless WebP file, at the fastest compression.

    A photo takes a third of its raw size and half the time of a PNG; repetitive pictures become tiny.
    """
    file = BytesIO()
    picture.save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` as a PNG, creating its folder if needed; the permissions follow the umask.

    Raises:
        OSError: if the disk is full or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png_bytes(picture))
