"""Pictures of every kind, good and bad."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.fuzz_uploads import HOSTILE, jpeg_with_scans, png_claiming
from benchmarks.fuzz_uploads import encoded as file_of
from mead.images import MAX_SIDE, PictureError, fit_within, png_bytes, read_picture, to_picture


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


# What is made to cost far more than its length

TOO_LARGE = {
    "a tile larger than the picture",
    "a frame larger than the picture",
    "a canvas of gigabytes",
    "a size of gigabytes",
}
HARMLESS = {
    "many EXIF segments",
    "a strip that unpacks to 100 MB",
    "overlapping tags",
    "the largest picture allowed",
    "the largest palette",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of overlapping tags
@pytest.mark.parametrize("kind", HOSTILE)
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
from mead.images import read_picture

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
