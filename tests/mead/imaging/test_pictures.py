"""Pictures of every kind, good and bad."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from benchmarks.fuzz_uploads import HOSTILE, jpeg_with_scans, png_chunk, png_claiming, tiff
from benchmarks.fuzz_uploads import encoded as file_of
from mead.imaging.colours import screen_profile
from mead.imaging.encoding import Bitmap, png_bytes
from mead.imaging.pictures import MAX_SIDE, PictureError, check_mask, fit_within, read_picture
from mead.imaging.tensors import to_picture


def encoded(picture: Image.Image, form: str, **options: object) -> io.BytesIO:
    return io.BytesIO(file_of(picture, form, **options))


@pytest.fixture
def photo(face: Path) -> Image.Image:
    return read_picture(face, "img").resize((96, 64))


def difference(left: Image.Image, right: Image.Image) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(np.asarray(left, np.float32) - np.asarray(right, np.float32)).mean())


KINDS: dict[str, Callable[[Image.Image], io.BytesIO]] = {
    "JPEG": lambda photo: encoded(photo, "JPEG", quality=95),
    "progressive JPEG": lambda photo: encoded(photo, "JPEG", quality=95, progressive=True),
    "CMYK JPEG": lambda photo: encoded(photo.convert("CMYK"), "JPEG", quality=95),
    "PNG": lambda photo: encoded(photo, "PNG"),
    "RGBA PNG": lambda photo: encoded(photo.convert("RGBA"), "PNG"),
    "palette PNG": lambda photo: encoded(photo.quantize(256), "PNG"),
    "WebP": lambda photo: encoded(photo, "WEBP", quality=95),
    "lossless RGBA WebP": lambda photo: encoded(photo.convert("RGBA"), "WEBP", lossless=True),
    "GIF": lambda photo: encoded(photo, "GIF"),
    "animated GIF": lambda photo: encoded(
        photo, "GIF", save_all=True, append_images=[Image.new("RGB", photo.size, "red")]
    ),
    "BMP": lambda photo: encoded(photo, "BMP"),
    "TIFF": lambda photo: encoded(photo, "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": lambda photo: encoded(photo.convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_colour_kind_becomes_rgb(kind: str, photo: Image.Image) -> None:
    read = read_picture(KINDS[kind](photo), "img")
    assert read.mode == "RGB" and read.size == photo.size and not read.info
    assert difference(read, photo) < 8


def sixteen_bit(photo: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)


GREYS: dict[str, Callable[[Image.Image], io.BytesIO]] = {
    "grey PNG": lambda photo: encoded(photo.convert("L"), "PNG"),
    "grey and alpha PNG": lambda photo: encoded(photo.convert("LA"), "PNG"),
    "grey JPEG": lambda photo: encoded(photo.convert("L"), "JPEG", quality=95),
    "16-bit PNG": lambda photo: encoded(sixteen_bit(photo), "PNG"),
    "16-bit TIFF": lambda photo: encoded(sixteen_bit(photo), "TIFF"),
    "32-bit TIFF": lambda photo: encoded(photo.convert("I"), "TIFF"),
    "float TIFF": lambda photo: encoded(photo.convert("F"), "TIFF"),
}


@pytest.mark.parametrize("kind", GREYS)
def test_every_grey_kind_becomes_rgb(kind: str, photo: Image.Image) -> None:
    read = read_picture(GREYS[kind](photo), "img")
    assert read.mode == "RGB" and difference(read, photo.convert("L").convert("RGB")) < 4


def test_black_and_white() -> None:
    read = read_picture(encoded(Image.new("1", (8, 8), 1), "PNG"), "img")
    assert read.getpixel((3, 3)) == (255, 255, 255)


def test_floats_of_unit_range() -> None:
    unit = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert read_picture(encoded(unit, "TIFF"), "img").getpixel((0, 0)) == (128, 128, 128)


def grey_tiff(*levels: float, kind: type[np.number[Any]] = np.float32) -> io.BytesIO:
    """A TIFF of one row of greys."""
    return encoded(Image.fromarray(np.array([levels], kind)), "TIFF")


@pytest.mark.parametrize(
    ("file", "right"),
    [
        (grey_tiff(0, 0.5, 1.001), [0, 128, 255]),
        (grey_tiff(-0.09, 0.5, 1.09), [0, 128, 255]),
        (grey_tiff(-20, 128, 280), [0, 128, 255]),
        (grey_tiff(0, 0, 0), [0, 0, 0]),
        (grey_tiff(-9, 128, 255, kind=np.int32), [0, 128, 255]),
        (grey_tiff(0, 32768, 65535, kind=np.int32), [0, 128, 255]),
        (grey_tiff(0, 300, 300, kind=np.int32), [0, 1, 1]),
    ],
)
def test_levels_a_little_out_of_range_are_clipped(file: io.BytesIO, right: list[int]) -> None:
    picture = read_picture(file, "img")
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(level,) * 3 for level in right]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (grey_tiff(-1, 0, 1), "its pixels range from -1 to 1; expected are 0 to 1 or 0 to 255"),
        (grey_tiff(0, 0.5, 1.3), "its pixels range from 0 to 1.3; expected are 0 to 1 or 0 to 255"),
        (grey_tiff(0, 65535), "expected are 0 to 1 or 0 to 255"),
        (grey_tiff(-100, 255), "expected are 0 to 1 or 0 to 255"),
        (grey_tiff(0, np.nan), "it has pixels that are not finite; expected are 0 to 1 or 0 to 255"),
        (grey_tiff(0, np.inf), "not finite"),
        (grey_tiff(-np.inf, 0), "not finite"),
        (
            grey_tiff(0, 2e9, kind=np.int32),
            "its pixels range from 0 to 2e\\+09; expected are 0 to 255 or 0 to 65535",
        ),
        (grey_tiff(-20_000, 65_535, kind=np.int32), "expected are 0 to 255 or 0 to 65535"),
        (grey_tiff(-20_000, 30_000, kind=np.int16), "expected are"),
    ],
)
def test_levels_of_no_usual_range_are_refused(file: io.BytesIO, why: str) -> None:
    with pytest.raises(PictureError, match=why) as refused:
        read_picture(file, "img")
    assert refused.value.kind == "not_a_picture" and refused.value.field == "img"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture = clear.quantize(4) if mode == "P" else clear.convert(mode)
    assert read_picture(encoded(picture, "PNG"), "img").getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation(form: str) -> None:
    lying = Image.new("RGB", (32, 16), "blue")
    lying.paste("red", (0, 0, 16, 16))  # the left half; turned a quarter clockwise it is the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = read_picture(encoded(lying, form, exif=exif), "img")
    assert upright.size == (16, 32)
    top, bottom = upright.getpixel((8, 4)), upright.getpixel((8, 28))
    assert isinstance(top, tuple) and isinstance(bottom, tuple)
    assert top[0] > 200 > 60 > top[2] and bottom[2] > 200 > 60 > bottom[0]


def masked(mode: str, form: str = "PNG", **options: object) -> io.BytesIO:
    """A mask of which the left half may change, in a mode: by transparency where that has some."""
    size = (40, 20)
    if mode in ("RGBA", "LA", "P with transparency"):
        picture = Image.new("RGBA", size, (0, 80, 200, 255))
        picture.paste((255, 0, 0, 0), (0, 0, 20, 20))
        if mode == "P with transparency":
            picture = picture.quantize(8)
        return encoded(picture.convert("LA") if mode == "LA" else picture, form, **options)
    picture = Image.new("L", size)
    picture.paste(255, (0, 0, 20, 20))
    if mode == "I;16":
        levels = np.asarray(picture, np.uint16) * 257
        return encoded(Image.fromarray(levels), form, **options)
    if mode == "opaque RGBA":
        return encoded(picture.convert("RGBA"), form, **options)
    return encoded(picture.convert(mode), form, **options)


MASK_MODES = ["1", "L", "RGB", "P", "I;16", "CMYK", "opaque RGBA", "RGBA", "LA", "P with transparency"]


@pytest.mark.parametrize("mode", MASK_MODES)
def test_masks_of_every_mode(mode: str) -> None:
    mask = read_picture(masked(mode, "TIFF" if mode == "CMYK" else "PNG"), "mask", mask=True)
    expected = Image.new("L", (40, 20))
    expected.paste(255, (0, 0, 20, 20))
    assert mask.mode == "L" and mask.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 60}), ("WEBP", {}), ("GIF", {})])
def test_masks_of_formats_that_are_not_exact(form: str, options: dict[str, object]) -> None:
    mask = np.asarray(read_picture(masked("RGB", form, **options), "mask", mask=True))
    assert (mask[:, :16] == 255).all() and (mask[:, 24:] == 0).all()


def test_a_mask_keeps_its_greys_and_turns_as_a_picture_does() -> None:
    grey = Image.new("L", (30, 20), 128)
    grey.paste(0, (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = read_picture(encoded(grey, "PNG", exif=exif), "mask", mask=True)
    assert mask.size == (20, 30) and mask.tobytes() == grey.transpose(Image.Transpose.ROTATE_270).tobytes()
    small = read_picture(encoded(grey, "PNG"), "mask", within=(15, 15), mask=True)
    assert small.size == (15, 10) and small.getextrema() == (0, 128)


def test_empty_and_full_masks_are_named() -> None:
    for level, why in ((0, "nothing"), (255, "all of it")):
        with pytest.raises(PictureError, match=rf"^mask: {why}") as caught:
            check_mask(Image.new("L", (4, 4), level), "mask")
        assert caught.value.kind == "no_mask"
    check_mask(Image.new("L", (4, 4), 128), "mask")


def test_metadata_goes_no_further(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    file = encoded(photo, "JPEG", exif=exif, comment=b"where I live", icc_profile=b"where I live" * 20)
    assert b"where I live" in file.getvalue()
    assert b"where I live" not in png_bytes(read_picture(file, "img"))


def test_the_name_does_not_matter(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "picture.txt"
    photo.save(path, "PNG")
    assert read_picture(path, "img").size == photo.size


BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda photo: b"",
    "text": lambda photo: b"This is not a picture.\n" * 100,
    "truncated": lambda photo: photo[: len(photo) // 2],
    "cut in the header": lambda photo: photo[:40],
    "only its first bytes": lambda photo: b"\xff\xd8\xff\xe0",
    "SVG": lambda photo: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PostScript": lambda photo: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "PNG without data": lambda photo: png_claiming(64, 64),
    "ZIP": lambda photo: b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_a_picture(kind: str, face: Path) -> None:
    with pytest.raises(PictureError, match="img_enc: ") as caught:
        read_picture(io.BytesIO(BAD[kind](face.read_bytes())), "img_enc")
    assert caught.value.kind == "not_a_picture" and caught.value.field == "img_enc"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_in_every_format(form: str, photo: Image.Image) -> None:
    whole = encoded(photo, form).getvalue()
    with pytest.raises(PictureError) as caught:
        read_picture(io.BytesIO(whole[: len(whole) * 2 // 3]), "img")
    assert caught.value.kind == "not_a_picture"


@pytest.mark.parametrize("size", [(30_000, 30_000), (30_000, 8), (8, MAX_SIDE + 1), (7_072, 7_072)])
def test_too_large_is_known_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError) as caught:
        read_picture(io.BytesIO(png_claiming(*size)), "img")
    assert caught.value.kind == "too_large"


SCALED: dict[str, Callable[[Image.Image], io.BytesIO]] = {**KINDS, **GREYS}


@pytest.mark.parametrize("kind", SCALED)
def test_shrunk_as_it_is_read(kind: str, face: Path) -> None:
    """Decoding a JPEG at less than its size, and others band by band, looks as shrinking the whole does."""
    large = read_picture(face, "img").resize((650, 530))
    file = SCALED[kind](large)
    whole = read_picture(file, "img")
    assert whole.size == large.size
    file.seek(0)
    shrunk = read_picture(file, "img", within=(100, 150))
    assert shrunk.size == (100, 82)
    assert difference(shrunk, fit_within(whole, 100, 150)) < 1.5


def test_what_lies_is_shrunk_as_it_will_stand() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = encoded(Image.new("RGB", (3000, 1000), "teal"), "JPEG", exif=exif)
    assert read_picture(lying, "img", within=(100, 300)).size == (100, 300)


def test_nothing_is_enlarged(photo: Image.Image) -> None:
    assert read_picture(encoded(photo, "PNG"), "img", within=(500, 500)).size == photo.size


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of corrupt EXIF
def test_damaged_metadata_makes_no_picture_unusable(photo: Image.Image) -> None:
    for damage in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)):
        file = encoded(photo, "JPEG", exif=b"Exif\0\0" + damage)
        assert read_picture(file, "img").size == photo.size


# Colours


XYZ = tuple[float, float, float]


def profile(red: XYZ, green: XYZ, blue: XYZ) -> bytes:
    """sRGB's profile with other colorants, as they are under D50."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    colorants = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    for tag in range(int.from_bytes(made[128:132], "big")):
        name, at = struct.unpack_from(">4sI", made, 132 + 12 * tag)
        if name in colorants:
            struct.pack_into(">3i", made, at + 8, *(round(65536 * value) for value in colorants[name]))
    return bytes(made)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DISPLAY_P3 = profile((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
PROPHOTO = profile((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8251))
GREEN = (60, 160, 60)


def first_pixel(file: bytes | io.BytesIO, **options: Any) -> tuple[int, ...]:
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    pixel = read_picture(stream, "img", **options).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("within", [None, (8, 8)])
def test_profiles_are_applied(form: str, within: tuple[int, int] | None) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    for icc, right in ((DISPLAY_P3, (0, 163, 40)), (PROPHOTO, (0, 174, 0)), (SRGB, GREEN)):
        file = encoded(Image.new("RGB", (64, 64), GREEN), form, icc_profile=icc, **options)
        assert np.abs(np.subtract(first_pixel(file, within=within), right)).max() <= 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L"])
def test_profiles_in_other_modes(mode: str) -> None:
    if mode in ("LA", "L"):  # 128 shares of linear light
        picture, icc, right = Image.new("L", (16, 16), 128), screen_profile("L", (), 1.0), (188, 188, 188)
    else:
        picture, icc, right = Image.new("RGB", (16, 16), GREEN), DISPLAY_P3, (0, 163, 40)
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    assert first_pixel(encoded(picture, "PNG", icc_profile=icc)) == right


def test_profiles_of_inks() -> None:
    """Against littlecms's own conversion of the whole picture."""
    inks = cmyk_profile()
    file = encoded(Image.new("CMYK", (200, 200), (255, 0, 0, 0)), "TIFF", icc_profile=inks)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(inks))
    srgb = ImageCms.createProfile("sRGB")
    whole = ImageCms.profileToProfile(Image.open(file), opened, srgb, outputMode="RGB")
    assert whole is not None
    for within in (None, (50, 50)):
        file.seek(0)
        assert np.abs(np.subtract(first_pixel(file, within=within), whole.getpixel((0, 0)))).max() <= 1
    assert first_pixel(encoded(Image.new("CMYK", (9, 9), (255, 0, 0, 0)), "TIFF")) == (0, 255, 255)


def cmyk_profile() -> bytes:
    """Inks that are a little paler than Pillow's own conversion has them: a table of two steps an ink."""
    steps = list(itertools.product((0, 1), repeat=4))  # of cyan, magenta, yellow, black
    lab = []
    for cyan, magenta, yellow, black in steps:
        light = 1 - 0.2 * cyan - 0.3 * magenta - 0.05 * yellow
        light = light * (0.2 if black else 1)
        lab += [light * 65280, 32768 + 8000 * (magenta - cyan), 32768 + 8000 * (yellow - cyan)]
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    tables = struct.pack(">HH", 2, 2) + struct.pack(">2H", 0, 65535) * 4
    tables += struct.pack(f">{len(lab)}H", *(int(value) for value in lab)) + struct.pack(">2H", 0, 65535) * 3
    table = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + tables
    head = struct.pack(">I4xI4s4s4s12x4s", 144 + len(table), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = head.ljust(68, b"\0") + white + bytes(48)
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


ABSURD = {
    "no profile": bytes(999),
    "cut off": DISPLAY_P3[:300],
    "all colours black": profile((0, 0, 0), (0, 0, 0), (0, 0, 0)),
    "of gigabytes": HOSTILE["a profile of gigabytes"](),
    "of another kind": screen_profile("L", (), 1.0),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_a_profile_of_no_use_is_left_out(kind: str) -> None:
    assert first_pixel(encoded(Image.new("RGB", (8, 8), GREEN), "PNG", icc_profile=ABSURD[kind])) == GREEN


def test_pictures_in_srgb_stay_as_they_are(photo: Image.Image) -> None:
    read = read_picture(encoded(photo, "PNG", icc_profile=SRGB), "img")
    assert read.tobytes() == photo.tobytes()


def png(bits: int, colours: int, row: bytes, width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row; `colours` is its colour type."""
    head = struct.pack(">IIBBBBB", width, 1, bits, colours, 0, 0, 0)
    all_chunks = ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in all_chunks)


def test_what_png_says_of_colours() -> None:
    linear, usual = (b"gAMA", struct.pack(">I", 100_000)), (b"gAMA", struct.pack(">I", 45_455))
    p3 = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    row = bytes(GREEN)
    assert first_pixel(png(8, 0, b"\x80", 1, linear)) == (188, 188, 188)
    assert first_pixel(png(8, 0, b"\x80", 1, usual)) == (128, 128, 128)
    assert first_pixel(png(8, 0, b"\x80", 1, linear, (b"sRGB", b"\0"))) == (128, 128, 128)
    for chunks in ([usual, p3], [(b"cICP", bytes([12, 13, 0, 1]))]):
        assert np.abs(np.subtract(first_pixel(png(8, 2, row, 1, *chunks)), (0, 163, 40))).max() <= 2
    assert first_pixel(png(8, 2, row, 1, (b"cICP", bytes([1, 13, 0, 1])), linear)) == GREEN
    assert first_pixel(png(8, 2, row, 1, usual, (b"cHRM", bytes(32)))) == GREEN


WHITE = (255, 255, 255)


def transparent(*levels: int) -> tuple[bytes, bytes]:
    return b"tRNS", struct.pack(f">{len(levels)}H", *levels)


@pytest.mark.parametrize(
    ("file", "pixels"),
    [
        (png(1, 0, b"\x40", 2, transparent(0)), [WHITE, WHITE]),
        (png(1, 0, b"\x40", 2, transparent(1)), [(0, 0, 0), WHITE]),
        (png(2, 0, b"\x18", 3, transparent(1)), [(0, 0, 0), WHITE, (170, 170, 170)]),
        (png(4, 0, b"\x5a", 2, transparent(5)), [WHITE, (170, 170, 170)]),
        (png(8, 0, b"\5\x10", 2, transparent(5)), [WHITE, (16, 16, 16)]),
        (png(16, 0, struct.pack(">HH", 0, 40_000), 2, transparent(0)), [WHITE, (156, 156, 156)]),
        (png(8, 2, bytes([9, 8, 7, 9, 8, 6]), 2, transparent(9, 8, 7)), [WHITE, (9, 8, 6)]),
        (
            png(16, 2, struct.pack(">6H", 40_000, 1, 2, 40_000, 1, 60_000), 2, transparent(40_000, 1, 2)),
            [WHITE, (156, 0, 234)],
        ),
        (
            png(8, 3, b"\0\1\2", 3, (b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 255, 0])), (b"tRNS", b"\0\x80")),
            [WHITE, (255, 127, 127), (0, 255, 0)],
        ),
    ],
)
def test_transparent_levels_are_white(file: bytes, pixels: list[tuple[int, ...]]) -> None:
    read = read_picture(io.BytesIO(file), "img")
    assert [read.getpixel((x, 0)) for x in range(len(pixels))] == pixels


def tiff_row(row: bytes, bits: int, **tags: int) -> bytes:
    """A grey TIFF of two pixels."""
    return tiff(
        row + bytes(len(row) % 2), t256=2, t257=1, t258=bits, t259=1, t273=8, t278=1, t279=len(row), **tags
    )


def test_greys_of_other_tiffs() -> None:
    signed = tiff_row(struct.pack("<hh", -5, 20_000), 16, t339=2)
    upside_down = tiff_row(struct.pack("<HH", 0, 65_535), 16, t262=0)
    of_12_bits = tiff_row(b"\xff\xf0\x00", 12)
    both_alphas = [tiff_row(bytes([50, 128, 0, 0]), 8, t277=2, t338=kind) for kind in (1, 2)]
    assert [read_picture(io.BytesIO(signed), "img").getpixel((x, 0)) for x in (0, 1)] == [
        (0,) * 3,
        (156,) * 3,
    ]
    assert first_pixel(upside_down) == WHITE and first_pixel(of_12_bits) == WHITE
    assert [first_pixel(one)[0] for one in both_alphas] == [177, 152]  # 50 times its alpha already, or not


# What is not read says what it is


def jpeg_of_bits(bits: int) -> bytes:
    whole = bytearray(encoded(Image.new("L", (8, 8)), "JPEG").getvalue())
    whole[whole.index(b"\xff\xc0") + 4] = bits
    return bytes(whole)


FLOATS = struct.pack("<6f", 0.5, 0.2, 0.1, 1, 1, 1)
OTHERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(99), "it is HEIC; send JPEG, PNG, WEBP, GIF, BMP or TIFF"),
    "AVIF": (encoded(Image.new("RGB", (8, 8)), "AVIF").getvalue(), "it is AVIF;"),
    "SVG": (
        b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "it is SVG;",
    ),
    "PDF": (b"%PDF-1.7\n", "it is PDF;"),
    "JPEG XL": (b"\xff\x0a" + bytes(20), "it is JPEG XL;"),
    "JPEG 2000": (encoded(Image.new("RGB", (8, 8)), "JPEG2000").getvalue(), "it is JPEG 2000;"),
    "Canon RAW": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "it is a Canon RAW file;"),
    "base64": (b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBD\n", "it is base64 text;"),
    "12 bits": (jpeg_of_bits(12), "a JPEG of 12 bits a channel: save it with 8"),
    "floats": (
        tiff(FLOATS, t256=2, t257=1, t258=32, t259=1, t262=2, t273=8, t277=3, t278=1, t279=24, t339=3),
        "RGB floating-point TIFF: save it with 8 or 16 bits a channel",
    ),
    "grey and alpha of 16 bits": (tiff_row(bytes(8), 16, t277=2, t338=2), "TIFF of 2 channels of 16 bits"),
    "DNG": (tiff_row(b"ab", 8, t50706=0x401), "a camera's RAW file"),
    "text": (b"This is not a picture.", "none of JPEG, PNG, WEBP, GIF, BMP, TIFF"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_read_says_what_it_is(kind: str) -> None:
    file, reason = OTHERS[kind]
    with pytest.raises(PictureError, match=re.escape(reason)) as caught:
        read_picture(io.BytesIO(file), "img")
    assert caught.value.kind == "not_a_picture"


# What is made to cost far more than its length

TOO_LARGE = {
    "a tile width of many numbers",
    "a tile larger than the picture",
    "a frame larger than the picture",
    "a canvas of gigabytes",
    "a size of gigabytes",
}
HARMLESS = {
    "a tile 190,000 times",
    "a JPEG tile 190,000 times",
    "large frames",
    "interlaced zeros",
    "a profile of gigabytes",
    "EXIF of giants",
    "many EXIF segments",
    "a strip that unpacks to 100 MB",
    "overlapping tags",
    "the largest picture allowed",
    "the largest palette",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of overlapping tags
@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if not kind.startswith("arithmetic")])
def test_hostile_files(kind: str) -> None:
    file = io.BytesIO(HOSTILE[kind]())
    if kind in HARMLESS:
        assert read_picture(file, "img", within=(64, 64)).mode == "RGB"
        return
    with pytest.raises(PictureError, match="img: ") as caught:
        read_picture(file, "img", within=(64, 64))
    assert caught.value.kind == ("too_large" if kind in TOO_LARGE else "not_a_picture")


def test_as_many_scans_as_anybody_makes(photo: Image.Image) -> None:
    assert read_picture(io.BytesIO(jpeg_with_scans(50)), "img").size == (64, 64)


MEMORY = """
import io, sys
from pathlib import Path
from benchmarks.fuzz_uploads import HOSTILE, jpeg_with_scans, png_claiming
from benchmarks.fuzz_uploads import encoded as file_of
from mead.imaging.pictures import read_picture

def resident(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

file = Path(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = resident("VmRSS")
read_picture(file, "img", within=(1024, 1024))
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_memory_for_the_largest_picture_is_bounded(form: str, tmp_path: Path) -> None:
    side = 3000
    path = tmp_path / "picture"
    mode = {"TIFF": "F", "JPEG": "CMYK", "GIF": "L"}.get(form, "RGBA")
    options = {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"method": 0}}.get(form, {})
    Image.new(mode, (side, side)).save(path, form, **options)
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    allowed = 16 * side * side / 2**20 + 30  # MB; Pillow itself, and a picture of the final size
    assert float(ran.stdout) < allowed


def test_a_lower_limit(photo: Image.Image) -> None:
    with pytest.raises(PictureError):
        read_picture(encoded(photo, "PNG"), "img", max_pixels=96 * 64 - 1)
    assert read_picture(encoded(photo, "PNG"), "img", max_pixels=96 * 64).size == (96, 64)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="img: "):
        read_picture(tmp_path / "nothing.png", "img")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of corrupt EXIF
def test_damage_never_escapes_as_another_error(photo: Image.Image) -> None:
    """Any byte of a file may be wrong: the picture is read, or it is a PictureError."""
    rng = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = np.frombuffer(encoded(photo, form).getvalue(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, min(400, len(whole)), 8)] = rng.integers(0, 256, 8)
            with contextlib.suppress(PictureError):
                assert read_picture(io.BytesIO(damaged.tobytes()), "img").mode == "RGB"


def test_fit_within(photo: Image.Image) -> None:
    assert fit_within(photo, 200, 200).size == photo.size
    assert fit_within(photo, 48, 48).size == (48, 32)
    assert fit_within(photo, 96, 16).size == (24, 16)
    assert fit_within(Image.new("RGB", (3000, 1)), 100, 100).size == (100, 1)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_no_picture(value: str) -> None:
    image = torch.rand(1, 3, 4, 4)
    assert to_picture(image).size == (4, 4)
    image[0, 1, 2, 3] = float(value)
    with pytest.raises(FloatingPointError, match="not finite"):
        to_picture(image)


# What uploads become


@pytest.mark.parametrize("width", [1, 2, 3, 4, 61, 64])
def test_a_bitmap_is_the_bmp_that_pillow_writes(width: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (5, width, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    bitmap = Bitmap.of(picture)
    assert bitmap.file == encoded(picture, "BMP").getvalue()
    assert bitmap.picture().tobytes() == picture.tobytes()
    assert Bitmap((width, 5), bytearray(bitmap.file)).size == (width, 5)
    for size, file in (
        ((width, 4), bitmap.file),
        ((width, 5), bitmap.file + b"."),
        ((width, 5), b"P" + bitmap.file[1:]),
    ):
        with pytest.raises(ValueError, match="no such bitmap"):
            Bitmap(size, file)
