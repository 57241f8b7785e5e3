"""What kind of file cannot be read as a picture, for an error that says what to do."""

from __future__ import annotations

import io
import re

from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read."""

_BRANDS = {  # of ISO base media files, in bytes 8 to 12
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
    "a Canon RAW file": (b"crx ",),
}
_BEGINNINGS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"\0\0\1\0": "an icon",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"FUJIFILMCCD-RAW": "a Fujifilm RAW file",
    b"IIU\0": "a Panasonic RAW file",
    b"IIRO": "an Olympus RAW file",
    b"IIRS": "an Olympus RAW file",
    b"MMOR": "an Olympus RAW file",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"gimp xcf": "GIMP",
    b"\x1aE\xdf\xa3": "a video",
}
_TEXTS = {  # of the first bytes, without blanks
    "SVG": re.compile(rb"(<\?xml.*)?(<!--.*)?<svg[\s:>]", re.DOTALL),
    "a web page": re.compile(rb"<(!doctype )?html", re.IGNORECASE),
    "the text of a data: URL": re.compile(rb"data:image/"),
    "base64 text": re.compile(rb"(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\s]*$"),
    "Netpbm": re.compile(rb"P[1-7]\s"),
}
SEND = f"send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def why_not_read(file: bytes) -> str:
    """Why a file cannot be read as a picture, in a few words, from its first bytes."""
    if not file:
        return "the file is empty"
    known = _name(file)
    if known == "TIFF":
        return _why_no_tiff(file)
    if known in FORMATS:
        return _why_no(known, file)
    return f"none of {', '.join(FORMATS)}" if known is None else f"it is {known}; {SEND}"


def _name(file: bytes) -> str | None:
    if file[4:8] == b"ftyp":
        return next((name for name, brands in _BRANDS.items() if file[8:12] in brands), "a video")
    if file[:4] == b"II*\0" and file[8:10] == b"CR":
        return "a Canon RAW file"
    for beginning, name in _BEGINNINGS.items():
        if file.startswith(beginning):
            return name
    text = file[:2000].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for name, pattern in _TEXTS.items() if pattern.match(text)), None)


def _why_no(form: str, file: bytes) -> str:
    """Pillow's own message, for the format the file has."""
    try:
        Image.OPEN[form][0](io.BytesIO(file), "")
    except Exception as error:  # on malformed files Pillow raises nearly anything
        if bits := re.fullmatch(r"cannot handle (\d+)-bit layers", str(error)):
            return f"a {form} of {bits[1]} bits a channel: save it with 8"
        return f"a {form} that cannot be read: {error}" if str(error) else f"a {form} that cannot be read"
    return f"none of {', '.join(FORMATS)}"


def _why_no_tiff(file: bytes) -> str:
    stream = io.BytesIO(file)
    try:
        tags = ImageFileDirectory_v2(stream.read(16 if file[2:4] in (b"+\0", b"\0+") else 8))
        stream.seek(tags.next)
        tags.load(stream)
        bits, kind = int(tags[BITSPERSAMPLE][0]), int(tags.get(SAMPLEFORMAT, (1,))[0])
        number = int(tags.get(SAMPLESPERPIXEL, 1))
        colours = {2: "RGB ", 5: "CMYK ", 8: "LAB ", 9: "LAB "}.get(int(tags[PHOTOMETRIC_INTERPRETATION]), "")
    except Exception:  # malformed
        return _why_no("TIFF", file)
    if kind == 3:
        return f"{colours or 'grey '}floating-point TIFF: save it with 8 or 16 bits a channel"
    return f"{colours}TIFF of {number} channels of {bits} bits: save it as RGB of 8 or 16 bits a channel"
