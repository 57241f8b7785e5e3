"""Damaged, strange and hostile pictures and forms, sent to a running service.

`python -m benchmarks.fuzz_uploads` starts Redis, the caching server under gunicorn and an inference server
on the demo weights. It sends pictures of every format with bytes flipped, cut, swapped and spliced, files
made to cost far more than their length, other formats, forms with everything wrong that a form can have
wrong, and good pictures between them; what is accepted runs for a step. It says what was answered and what
fell short: an answer of 500 or above, a process that ended, an error in a log, a job that failed for
another reason than what was sent, or a process whose memory grew by more than 50 MB after the first tenth.
`--only N` sends example N alone and prints what came of it.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageFilter

from caching_config import Settings, connect
from mead.cli.local_service import LocalService, local_service
from mead.cli.serve import PHOTOS

LIMIT_MB = 50  # that memory may grow by
WARM_UP = 100  # examples, at least, before memory is measured: jobs of all kinds and sizes have run by then
LONGEST_QUEUE = 50  # jobs waiting before the clients pause, so that the queue's limit refuses none
TIMEOUT = 120.0  # seconds for one answer, on a busy machine


# Hostile files


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    """A picture as a file of the format that Pillow calls `form`."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(name: bytes, data: bytes, times: int = 1) -> bytes:
    """A small PNG with a further chunk, `times` times."""
    whole = encoded(Image.new("RGB", (8, 8)), "PNG")
    return whole[:33] + png_chunk(name, data) * times + whole[33:]


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + head + data + png_chunk(b"IEND", b"")


def jpeg_with_scans(times: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * times + whole[-2:]


def jpeg_of_arithmetic_scans(side: int, times: int) -> bytes:
    """A grey progressive JPEG, arithmetic-coded: of each short scan the decoder makes up what is missing."""

    def segment(marker: int, data: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data

    tables = segment(0xDB, b"\0" + b"\1" * 64)
    frame = segment(0xCA, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + b"\0"
    second = segment(0xDA, b"\1\1\0\x01\x3f\x0d") + b"\xfe" * 40
    refining = segment(0xDA, b"\1\1\0\x01\x3f\x10") + b"\xfe" * 40
    return b"\xff\xd8" + tables + frame + first + second + refining * (times - 2) + b"\xff\xd9"


def jpeg_with_segments(segment: bytes, times: int) -> bytes:
    """A JPEG with an application segment (its marker and length included), `times` times."""
    whole = encoded(Image.new("L", (8, 8)), "JPEG")
    return whole[:2] + segment * times + whole[2:]


def tiff(data: bytes, more_tags: Sequence[tuple[int, int, int, int]] = (), **tags: int) -> bytes:
    """A little-endian grey TIFF, 64 x 64: `data` at byte 8, a number a tag (t256=...), more tags."""
    numbers = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1}
    numbers |= {int(tag[1:]): value for tag, value in tags.items()}
    entries = [*((tag, 4, 1, value) for tag, value in sorted(numbers.items())), *more_tags]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    offset = struct.pack("<I", 8 + len(data))
    return b"II*\0" + offset + data + struct.pack("<H", len(entries)) + directory + bytes(4)


def tiff_with_a_tile(side: int) -> bytes:
    """A TIFF whose one tile is `side` x `side`."""
    data = zlib.compress(bytes(side * side), 9)
    return tiff(data, t322=side, t323=side, t324=8, t325=len(data))


def tiff_with_a_strip(length: int) -> bytes:
    """A TIFF whose one strip unpacks to `length` bytes."""
    data = zlib.compress(bytes(length), 9)
    return tiff(data, t273=8, t278=2**31 - 1, t279=len(data))


def tiff_with_a_tile_width(kind: int, values: int, length: int) -> bytes:
    """A TIFF whose tiles are as wide as many values of a type say: letters (2) or numbers (3)."""
    size = {2: 1, 3: 2}[kind]
    wide = (322, kind, values, 8)
    return tiff(b"A" * values * size, [wide, (323, 4, 1, length)], t259=1, t273=8, t278=64, t279=4096)


def tiff_of_one_tile(side: int, compression: int, tile: bytes) -> bytes:
    """A TIFF of `side` x `side`, all of whose tiles, 16 x 16, are the same bytes."""
    number = (side // 16) ** 2
    tile += bytes(len(tile) % 2)
    offsets, lengths = struct.pack("<I", 8) * number, struct.pack("<I", len(tile)) * number
    tables = [(324, 4, number, 8 + len(tile)), (325, 4, number, 8 + len(tile) + len(offsets))]
    numbers = {"t256": side, "t257": side, "t259": compression, "t322": 16, "t323": 16}
    return tiff(tile + offsets + lengths, tables, **numbers)


def jpeg_in_a_tiff(jpeg: bytes, side: int) -> bytes:
    """A TIFF of one strip that is a JPEG of `side` x `side`."""
    return tiff(jpeg, t256=side, t257=side, t259=7, t273=8, t278=side, t279=len(jpeg))


def tiff_with_tags(number: int, length: int) -> bytes:
    """A TIFF in which `number` tags each claim the same `length` bytes."""
    tags = [(1000 + tag, 7, length, 8) for tag in range(number)]
    return tiff(bytes(length), tags, t259=1, t273=8, t278=64, t279=64 * 64)


def gif_with_a_frame(side: int, extension: bytes = b"", times: int = 1) -> bytes:
    """A GIF of one pixel, whose frame is larger, and with extension blocks before it."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00\x3b"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + extension * times + frame


def webp_with_a_canvas(side: int) -> bytes:
    """An animation of 16 x 16 pixels that says it is `side` x `side`."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    whole = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    whole[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(whole)


def webp_of_frames(side: int, times: int) -> bytes:
    """An animation of `times` empty frames, `side` x `side`."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    size = (side - 1).to_bytes(3, "little") * 2
    picture = encoded(Image.new("RGB", (side, side)), "WEBP", lossless=True, method=0)[12:]
    frame = chunk(b"ANMF", bytes(6) + size + b"\x64\0\0\0" + picture)
    body = b"WEBP" + chunk(b"VP8X", b"\2\0\0\0" + size) + chunk(b"ANIM", bytes(6)) + frame * times
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of_runs(side: int) -> bytes:
    """A BMP of `side` x `side`, packed as runs of one colour."""
    runs = b"\xff\1" * (side * side // 255 + 1) + b"\0\1"
    head = struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + head + info + bytes(1024) + runs


def png_of_zeros(side: int, bits: int, colours: int) -> bytes:
    """An interlaced PNG of `side` x `side`, all zeros; `colours` is the PNG's colour type."""
    head = struct.pack(">IIBBBBB", side, side, bits, colours, 0, 0, 1)
    bytes_per_pixel = bits * {0: 1, 2: 3, 6: 4}[colours] / 8
    zeros = zlib.compress(bytes(int(side * side * bytes_per_pixel) + 8 * side), 9)
    chunks = ((b"IHDR", head), (b"IDAT", zeros), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def profile_of_gigabytes() -> bytes:
    """A colour profile with a table of 255 steps for each of four inks, most of which is missing."""
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft2" + bytes(4) + bytes([4, 3, 255, 0]) + matrix + struct.pack(">HH", 2, 2) + bytes(10**6)
    head = struct.pack(">I4xI4s4s4s12x4s", 144 + len(table), 0x02400000, b"prtr", b"CMYK", b"XYZ ", b"acsp")
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def exif_of_giants() -> bytes:
    """EXIF data whose tags each claim nearly all of it."""
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, 60_000, 8) for tag in range(3000))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3000) + tags + bytes(4)


@cache
def swollen() -> bytes:
    """100 MB in 100 kB."""
    return zlib.compress(bytes(10**8), 9)


def exif_segment() -> bytes:
    """As much EXIF data as fits one segment."""
    return b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "text that unpacks to 100 MB": lambda: png_with(b"zTXt", b"a\0\0" + swollen()),
    "international text that does": lambda: png_with(b"iTXt", b"a\0\1\0\0\0" + swollen()),
    "a profile that does": lambda: png_with(b"iCCP", b"a\0\0" + swollen()),
    "a million chunks": lambda: png_with(b"abCd", b"", 10**6),
    "a million segments": lambda: jpeg_with_segments(b"\xff\xe5\0\2", 10**6),
    "a million comments": lambda: gif_with_a_frame(8, b"\x21\xfe\x01a\0", 10**6),
    "a thousand scans": lambda: jpeg_with_scans(1000),
    "many EXIF segments": lambda: jpeg_with_segments(exif_segment(), 60),
    "a strip that unpacks to 100 MB": lambda: tiff_with_a_strip(10**8),
    "overlapping tags": lambda: tiff_with_tags(4000, 10**6),
    "a tile larger than the picture": lambda: tiff_with_a_tile(7_088),
    "a frame larger than the picture": lambda: gif_with_a_frame(9_000),
    "a canvas of gigabytes": lambda: webp_with_a_canvas(60_000),
    "a size of gigabytes": lambda: png_claiming(30_000, 30_000),
    "a tile width that is a text": lambda: tiff_with_a_tile_width(2, 10_000, 300_000),
    "a tile width of many numbers": lambda: tiff_with_a_tile_width(3, 10_000, 300_000),
    "arithmetic-coded scans": lambda: jpeg_of_arithmetic_scans(7_000, 98),
    "arithmetic-coded scans in a TIFF": lambda: jpeg_in_a_tiff(jpeg_of_arithmetic_scans(7_000, 98), 7_000),
    "a tile 190,000 times": lambda: tiff_of_one_tile(6_992, 8, zlib.compress(bytes(256))),
    "a JPEG tile 190,000 times": lambda: tiff_of_one_tile(
        6_992, 7, encoded(Image.new("L", (16, 16)), "JPEG")
    ),
    "large frames": lambda: webp_of_frames(7_000, 200),
    "runs of one colour": lambda: bmp_of_runs(7_000),
    "interlaced zeros": lambda: png_of_zeros(7_000, 16, 6),
    "a profile of gigabytes": lambda: encoded(
        Image.new("CMYK", (8, 8)), "TIFF", icc_profile=profile_of_gigabytes()
    ),
    "EXIF of giants": lambda: encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif_of_giants()),
    "the largest picture allowed": lambda: encoded(Image.new("RGB", (7_000, 7_000), "teal"), "PNG"),
    "the largest palette": lambda: encoded(Image.new("P", (7_000, 7_000)), "GIF"),
}


# What is sent


@dataclass
class Example:
    """A request as its bytes, and how it is described."""

    kind: str
    route: str
    headers: dict[str, str]
    body: bytes


@cache
def hostile_files() -> list[tuple[str, bytes]]:
    """All of HOSTILE, made once."""
    return [(name, make()) for name, make in HOSTILE.items()]


@cache
def good_files() -> list[bytes]:
    """One small photo as files of many kinds."""
    with Image.open(PHOTOS / "face.jpeg") as opened:
        photo = opened.convert("RGB").resize((160, 160))
    still = photo.filter(ImageFilter.BLUR)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    grey = photo.convert("L")
    animated = {"save_all": True, "append_images": [still]}
    return [
        encoded(photo, "JPEG"),
        encoded(photo, "JPEG", progressive=True, exif=exif, comment=b"a comment", icc_profile=bytes(999)),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG", restart_marker_rows=1),
        encoded(photo, "PNG", exif=exif, icc_profile=bytes(999)),
        encoded(photo.convert("RGBA"), "PNG"),
        encoded(photo.quantize(64), "PNG", transparency=3),
        encoded(grey.convert("I;16"), "PNG"),
        encoded(photo.convert("1"), "PNG"),
        encoded(photo, "PNG", **animated),
        encoded(photo, "WEBP", exif=exif),
        encoded(photo.convert("RGBA"), "WEBP", lossless=True),
        encoded(photo, "WEBP", **animated),
        encoded(photo, "GIF"),
        encoded(photo, "GIF", **animated, comment=b"a comment"),
        encoded(photo, "BMP"),
        encoded(photo.quantize(16), "BMP"),
        encoded(photo, "TIFF"),
        encoded(photo, "TIFF", compression="tiff_lzw", exif=exif),
        encoded(photo, "TIFF", compression="jpeg"),
        encoded(photo.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        encoded(photo.convert("1"), "TIFF", compression="group4"),
        encoded(photo.convert("F"), "TIFF", compression="packbits"),
        encoded(photo.convert("YCbCr"), "TIFF"),
    ]


@cache
def other_files() -> list[tuple[str, bytes]]:
    """What is no picture, or one of a format that is not read."""
    small = Image.new("RGB", (32, 32), "teal")
    formats = ["PPM", "TGA", "ICO", "PCX", "SGI", "EPS", "PDF", "DDS", "ICNS", "AVIF", "JPEG2000", "MSP"]
    modes = {"MSP": "1", "ICNS": "RGBA"}
    others = [(form, encoded(small.convert(modes.get(form, "RGB")), form)) for form in formats]
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 32, 32, 8, 3) + bytes(12) + b"\0\0" + bytes(3072)
    return [
        *others,
        ("PSD", psd),
        ("nothing", b""),
        ("one byte", b"\xff"),
        ("text", b"This is not a picture.\n" * 50),
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        ("HTML", b"<!doctype html><script>alert(1)</script>"),
        ("ZIP", b"PK\x03\x04" + bytes(200)),
        ("ELF", b"\x7fELF" + bytes(200)),
        ("pickle", b"cos\nsystem\n(S'true'\ntR."),
        ("zeros", bytes(100_000)),
    ]


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """A file with one to six things done to it."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        at = rng.randrange(min(len(data), rng.choice([32, 200, 1000, 10**9]))) if data else 0
        length = rng.choice([1, 2, 4, 16, 100, 1000])
        what = rng.randrange(9)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at : at + length] = rng.randbytes(length)
        elif what == 2:  # lengths, sizes, counts
            extreme = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
            size = rng.choice([2, 4])
            data[at : at + size] = (extreme % 256**size).to_bytes(size, rng.choice(["big", "little"]))
        elif what == 3:
            del data[at : at + length]
        elif what == 4:
            data[at:at] = data[at : at + length] * rng.choice([1, 2, 50])
        elif what == 5:
            data[at:at] = rng.randbytes(length)
        elif what == 6:
            del data[at:]
        elif what == 7:
            other = rng.choice(good_files())
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data[at : at + length] = bytes(length)
    return bytes(data)


def generated(rng: random.Random) -> bytes:
    """A good picture of a random size, kind and content."""
    size = (rng.choice([1, 2, 7, 64, 333, 1000]), rng.choice([1, 3, 16, 65, 500]))
    noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    form, modes = rng.choice(
        [
            ("JPEG", ["RGB", "L", "CMYK"]),
            ("PNG", ["RGB", "RGBA", "L", "LA", "P", "1"]),
            ("WEBP", ["RGB", "RGBA"]),
            ("GIF", ["P", "L"]),
            ("BMP", ["RGB", "P", "L", "1"]),
            ("TIFF", ["RGB", "RGBA", "CMYK", "L", "1", "F", "I"]),
        ]
    )
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(10)
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    return encoded(noise.convert(rng.choice(modes)), form, **options)


def a_file(rng: random.Random) -> tuple[str, bytes]:
    """A picture or what pretends to be one: what kind it is, and its bytes."""
    what = rng.random()
    if what < 0.7:
        return "damaged", damaged(rng, rng.choice(good_files()))
    if what < 0.8:
        return "generated", generated(rng)
    if what < 0.88:
        return rng.choice(other_files())
    if what < 0.9:
        return rng.choice(hostile_files())
    if what < 0.95:
        return "noise", rng.choice(good_files())[: rng.choice([0, 4, 12])] + rng.randbytes(
            rng.randrange(5000)
        )
    return "good", rng.choice(good_files())


@dataclass
class Part:
    """A part of a multipart form."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None


def multipart(parts: Sequence[Part], boundary: str) -> bytes:
    """Parts as the body of a form."""
    body = b""
    for part in parts:
        disposition = f'form-data; name="{part.name}"'
        disposition += "" if part.filename is None else f'; filename="{part.filename}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n"
        head += f"Content-Type: {part.content_type}\r\n" if part.content_type else ""
        body += head.encode("utf-8", "surrogateescape") + b"\r\n" + part.content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


NAMES = [
    "img",
    "img_enc",
    "ne_img_enc",
    "file",
    "image",
    "prompt",
    "",
    "img\0",
    "x" * 3000,
    "img[]",
    "é",
    "__proto__",
]
TEXTS = [
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "NaN",
    "Infinity",
    "nul\0",
    "x" * 5000,
    "é",
    "😀" * 50,
    "null",
    "[]",
    "{}",
    "1" * 400,
]
FIELDS = [
    "prompt",
    "w0",
    "w1",
    "w2",
    "w3",
    "seed",
    "iterations",
    "size",
    "start",
    "cutouts",
    "text_to_add",
    "method",
]
FILENAMES = ["face.jpg", "picture.png", "a.gif", "a.exe", "../../etc/passwd", "", "x" * 999, "é", None]
TYPES = [
    "image/jpeg",
    "image/png",
    "text/plain",
    "application/json",
    "image/../../x",
    "",
    "multipart/mixed; boundary=b",
]
BROKEN_HEADERS = [
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": "multipart/form-data; boundary="},
    {"Content-Type": "multipart/form-data; boundary=" + "b" * 300},
    {"Content-Type": "application/json"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "text/plain; charset=utf-7"},
    {"Content-Type": "image/png"},
    {"Content-Encoding": "gzip"},
    {"Prefer": "respond-async; x=" + "y" * 4000},
    {"Idempotency-Key": "\x80 \t" + "k" * 500},
    {"Accept": "text/event-stream;q=nonsense"},
    {"Expect": "nothing"},
    {"X-API-Key": "wrong"},
]


def example(number: int, seed: int) -> Example:
    """Request `number`; the same for the same seed."""
    rng = random.Random(f"{seed} {number}")
    route = rng.choice(["/latent_revision", "/latent_revision", "/styleclip"])
    parts = [
        Part("prompt", rng.choice([b"a red house", b"a girl with green hair"])),
        Part("seed", str(number).encode()),
    ]
    if route == "/latent_revision":
        parts += [Part("size", b"64x64"), Part("cutouts", b"2")]
    boundary = "b" + rng.randbytes(8).hex()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Prefer": "respond-async"}
    one_step = Part("iterations", b"1")
    if rng.random() < 0.8:  # a good form, and any file
        kind, content = a_file(rng)
        name = "img" if route == "/styleclip" else rng.choice(["img", "img_enc", "ne_img_enc"])
        parts += [one_step, Part(name, content, rng.choice(FILENAMES[:-1]), rng.choice(TYPES))]
        return Example(f"file: {kind}", route, headers, multipart(parts, boundary))
    parts.append(Part("img", rng.choice(good_files()), "face.jpg", "image/jpeg"))
    what = rng.randrange(8)
    if what == 0:
        parts.append(Part(rng.choice(NAMES), rng.randbytes(20), rng.choice(FILENAMES), rng.choice(TYPES)))
    elif what == 1:
        name = rng.choice(FIELDS)
        parts = [part for part in parts if part.name != name] + [Part(name, rng.choice(TEXTS).encode())]
    elif what == 2:
        parts.append(Part(rng.choice(FIELDS), rng.randbytes(rng.choice([1, 9, 900]))))
    elif what == 3:
        parts += [rng.choice(parts[:-1])] * rng.choice([1, 3, 2000])
    elif what == 4:
        parts = rng.sample(parts, rng.randrange(len(parts)))
    body = multipart([*parts, one_step], boundary)
    if what == 5:
        body = damaged(rng, body)
    elif what == 6:
        headers.update(rng.choice(BROKEN_HEADERS))
    elif what == 7:
        body = rng.randbytes(rng.choice([0, 1, 100, 100_000]))
    return Example("form", route, headers, body)


# What is seen


@dataclass
class Report:
    """What a run found.

    Attributes:
        answers: how many answers there were of each status; 0 for a connection without one.
        kinds: examples and how many of them were accepted, by kind.
        wrong: what must not be, each as a sentence.
        jobs: accepted jobs by their end.
        before: resident memory after the warm-up, in MB, by process.
        after: the least that was found in the second half: what jobs take while they run is no growth.
        seconds: how long it took.
    """

    answers: Counter[int] = field(default_factory=Counter)
    kinds: dict[str, list[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Fuzzing:
    """Sends examples to a service and watches what becomes of it."""

    def __init__(self, service: LocalService, seed: int, threads: int) -> None:
        self.seed = seed
        self.threads = threads
        self.redis: Any = connect(Settings(redis_url=service.redis_url))
        self.address = urlsplit(service.url).netloc
        self.children = {one.name: one.process.pid for one in service.children}
        self.logs = [one.log for one in service.children if one.log is not None]
        self.report = Report()
        self.accepted: list[str] = []
        self._connections = threading.local()
        self._lock = threading.Lock()
        self._processes = self.processes()

    def run(self, examples: int) -> Report:
        """Send that many, the first tenth (100 at least) as a warm-up; wait for the jobs; judge."""
        began = time.monotonic()
        warm_up = min(examples, max(examples // 10, WARM_UP))
        self.send_all(self._warming(warm_up))
        self.wait_for_jobs()
        self.report.before = self.memory()
        done = warm_up
        found = []
        while done < examples:
            until = min(examples, done + max(1, examples // 10))
            self.send_all(range(done, until))
            done = until
            found.append(self.memory())
            print(f"{done} of {examples}: {found[-1]}", file=sys.stderr, flush=True)
        self.wait_for_jobs()
        found.append(self.memory())
        later = found[len(found) // 2 :]
        self.report.after = {name: min(one.get(name, 0) for one in later) for name in self.report.before}
        self.judge()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _warming(self, number: int) -> Iterator[int]:
        """The first examples, and each hostile file: what the largest leaves allocated is no growth.

        Each of them so often that every process of the caching server has met it.
        """
        yield from range(number)
        for _ in range(self.threads):
            yield from range(-1, -1 - len(HOSTILE), -1)

    def send_all(self, numbers: Iterator[int] | range) -> None:
        """Send examples from several threads."""
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(self.send, numbers):
                pass

    def send(self, number: int) -> None:
        """Send one example; a negative one is a hostile file."""
        if number >= 0:
            sent = example(number, self.seed)
        else:
            parts = [Part("prompt", b"a red house"), Part("iterations", b"1")]
            parts.append(Part("img_enc", hostile_files()[-1 - number][1], "a.png"))
            headers = {"Content-Type": "multipart/form-data; boundary=b", "Prefer": "respond-async"}
            sent = Example("file: hostile", "/latent_revision", headers, multipart(parts, "b"))
        while self.redis.llen("latentrevisions_queue") + self.redis.llen("styleclip_queue") > LONGEST_QUEUE:
            time.sleep(0.1)
        status, body = self.ask(sent)
        with self._lock:
            self.report.answers[status] += 1
            counts = self.report.kinds.setdefault(sent.kind, [0, 0])
            counts[0] += 1
            counts[1] += status == 202
            if status >= 500:
                self.report.wrong.append(
                    f"example {number} ({sent.kind}) was answered {status}: {body[:300]!r}"
                )
            elif status == 202:
                self.accepted.append(json.loads(body)["id"])
            elif status in (413, 415) and sent.kind.startswith("file") and not _names_a_field(body):
                self.report.wrong.append(
                    f"example {number} ({sent.kind}): {status} names no field: {body[:300]!r}"
                )

    def ask(self, sent: Example) -> tuple[int, bytes]:
        """Status and body of the answer; (0, b"") when the server ended the connection instead."""
        connection = getattr(self._connections, "open", None)
        for again in (True, False):
            if connection is None:
                connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
            try:
                headers = {name: value.encode("latin-1", "replace") for name, value in sent.headers.items()}
                connection.request("POST", sent.route, sent.body, headers)
                answer = connection.getresponse()
                body = answer.read()
                self._connections.open = connection
                return answer.status, body
            except (http.client.HTTPException, ConnectionError):
                connection.close()
                connection = None  # it may have been closed while it was idle: once more on a new one
                self._connections.open = None
                if not again:
                    return 0, b""
        raise AssertionError("unreachable")

    def wait_for_jobs(self) -> None:
        """Wait until every accepted job has ended."""
        for job_id in self.accepted:
            while (status := self.redis.hget(f"job:{job_id}", "status")) in ("queued", "processing"):
                self.check_processes()
                time.sleep(0.05)
            self.report.jobs[str(status)] += 1
            if status == "failed" and self.redis.hget(f"job:{job_id}", "error_kind") != "input":
                error = self.redis.hget(f"job:{job_id}", "error")
                self.report.wrong.append(f"job {job_id} failed in the worker: {error}")
            elif status is None:
                self.report.wrong.append(f"job {job_id} was accepted and has no record")
        self.accepted.clear()

    def judge(self) -> None:
        """What is wrong after the last example."""
        self.check_processes()
        self.check_logs()
        for name, megabytes in self.report.after.items():
            grown = megabytes - self.report.before[name]
            if grown > LIMIT_MB:
                self.report.wrong.append(f"memory of the {name} grew by {grown} MB")

    def check_processes(self) -> None:
        """Say so if a process has ended or was replaced."""
        now = self.processes()
        for name, process in self._processes.items():
            if now.get(name) != process:
                self.report.wrong.append(f"the {name} has ended")
                self._processes = now
                raise SystemExit("\n".join(self.report.wrong))

    def check_logs(self) -> None:
        """Say so if a server has logged an error."""
        for log in self.logs:
            for line in log.read_text("utf-8", "replace").splitlines():
                if re.search(r'"level": "(error|critical)"', line):
                    self.report.wrong.append(f"{log.name}: {line}")

    def processes(self) -> dict[str, int]:
        """The children and gunicorn's own, by name: their process ids, of those that live."""
        master = self.children["caching server"]
        own = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        named = {**self.children, **{f"caching server {n}": int(pid) for n, pid in enumerate(own, start=1)}}
        return {name: process for name, process in named.items() if Path(f"/proc/{process}").exists()}

    def memory(self) -> dict[str, int]:
        """What is resident now, in MB, of the processes that read pictures."""
        read_pictures = ("caching server ", "inference server")
        return {
            name: resident(pid) for name, pid in self.processes().items() if name.startswith(read_pictures)
        }


def resident(process: int) -> int:
    """Resident memory of a process, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def _names_a_field(body: bytes) -> bool:
    try:
        said = json.loads(body)
    except ValueError:
        return False
    return said.get("status") == "error" and bool(said.get("field"))


def show(report: Report) -> None:
    """Print what a run found."""
    total = sum(report.answers.values())
    print(f"{total} requests in {report.seconds:.0f} s")
    print(
        "answers: "
        + ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(report.answers.items()))
    )
    for kind, (sent, accepted) in sorted(report.kinds.items()):
        print(f"  {kind:44} {sent:6} sent {accepted:6} accepted")
    print("jobs: " + ", ".join(f"{count} {status}" for status, count in report.jobs.items()))
    print(f"memory before: {report.before}\nmemory after:  {report.after}")
    for line in report.wrong:
        print(f"WRONG: {line}")
    print("nothing wrong" if not report.wrong else f"{len(report.wrong)} things wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="how many (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other examples (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=4, help="requests at once (default %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="send example N alone and print the answer")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and data there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mead-fuzz-") as temporary:
        folder = options.keep or Path(temporary)
        environment = {"TORCH_THREADS": "1"}
        with local_service(folder, logs=folder / "logs", environment=environment) as service:
            fuzzing = Fuzzing(service, options.seed, options.threads)
            if options.only is not None:
                one = example(options.only, options.seed)
                print(one.kind, one.route, one.headers, one.body[:500], *fuzzing.ask(one), sep="\n")
                return
            report = fuzzing.run(options.examples)
    show(report)
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
