"""Time-lapses: pictures of a job's way, as an animated WebP, which can be made into an MP4.

Each picture is compressed when it is taken, so that a job keeps kilobytes of it. The animation holds these as
they are: putting them together takes no second compression.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageSequence

LONGEST_SIDE = 512  # of a frame, in pixels
SIDE_STEP = 8  # sides are multiples of it: yuv420p needs even ones
QUALITY = 90  # of WebP's lossy compression, up to 100
FRAME_MS = 80  # for which a frame is shown
LAST_MS = 1040  # for which the last frame is shown: 13 times as long

CRF = "18"  # x264's quality: nearly no visible loss
GOP = "12"  # frames from one that can be jumped to, to the next


class NoVideoError(RuntimeError):
    """The package that makes MP4 files is not installed."""

    def __init__(self) -> None:
        super().__init__('there is no video encoder here: install the package "av", the extra "video"')


class TimeLapse:
    """Takes pictures of a job's way, evenly spread: the first before it, the last after its last step.

    Args:
        frames: how many, at most one more than there are steps; of one, the last.
        first, last: the steps done when the job starts and when it has ended.

    Attributes:
        frames: those taken so far, WebP files.
    """

    def __init__(self, frames: int, first: int, last: int) -> None:
        gaps = max(1, frames - 1)
        self._due = {last - (last - first) * gap // gaps for gap in range(frames)}
        self.frames: list[bytes] = []

    def is_due(self, step: int) -> bool:
        """Whether a picture is to be taken after so many steps; true once."""
        due = step in self._due
        self._due.discard(step)
        return due

    def end(self, step: int) -> None:
        """The job ends early: of those to come, only the picture after this step is due."""
        self._due = {step}

    def take(self, picture: Image.Image) -> None:
        """Take the picture so far, RGB; all of a job have the same size."""
        self.frames.append(_frame(picture))

    def webp(self) -> bytes:
        """The animated WebP file of the pictures taken so far, at least one."""
        return _animation(self.frames)


def mp4_bytes(webp: bytes) -> bytes:
    """An MP4 file of an animated WebP: H.264 in yuv420p, with its index in front, so that browsers play it.

    Takes the memory of a few frames, and one CPU.

    Raises:
        NoVideoError: the package PyAV is not installed.
        OSError: the folder of temporary files has no room.
    """
    if find_spec("av") is None:
        raise NoVideoError
    import av

    # x264's macroblock tree lets the bytes of small pictures vary from one encoding to the next
    options = {"crf": CRF, "g": GOP, "threads": "1", "preset": "fast", "mbtree": "0"}
    # a real file: FFmpeg opens it a second time to move the index to the front
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        index_in_front = {"movflags": "faststart"}
        with (
            Image.open(BytesIO(webp)) as animation,
            av.open(file.name, "w", format="mp4", options=index_in_front) as container,
        ):
            stream = container.add_stream("libx264", rate=Fraction(1000, FRAME_MS), options=options)
            stream.width, stream.height = animation.size
            stream.pix_fmt = "yuv420p"
            for picture in _shown(animation):
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        return file.read()


def writer_of(path: Path, name: str) -> Callable[[bytes], bytes]:
    """What makes the file at a path of an animated WebP, by the path's suffix.

    Args:
        name: of the argument that gives the path.

    Raises:
        ValueError: it ends neither in .webp nor in .mp4.
        NoVideoError: it ends in .mp4, and the package PyAV is not installed.
    """
    makers: dict[str, Callable[[bytes], bytes]] = {".webp": bytes, ".mp4": mp4_bytes}
    suffix = path.suffix.lower()
    if suffix not in makers:
        raise ValueError(f"{name}: {str(path)!r} ends neither in .webp nor in .mp4")
    if suffix == ".mp4" and find_spec("av") is None:
        raise NoVideoError
    return makers[suffix]


def _shown(animation: Image.Image) -> Iterator[Image.Image]:
    """The frames of an animation, RGB; the last as often as it is shown longer than the others."""
    picture = animation
    for frame in ImageSequence.Iterator(animation):
        picture = frame.convert("RGB")
        yield picture
    for _ in range(LAST_MS // FRAME_MS - 1):
        yield picture


def _frame(picture: Image.Image) -> bytes:
    """A picture as a lossy WebP file of at most LONGEST_SIDE, with sides that encoders take as they are."""
    shrink = min(1.0, LONGEST_SIDE / max(picture.size))
    width, height = (max(1, round(side * shrink / SIDE_STEP)) * SIDE_STEP for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


# The container, https://developers.google.com/speed/webp/docs/riff_container


def _animation(frames: list[bytes]) -> bytes:
    """An animated WebP of WebP files of the same size, which runs over and over."""
    with Image.open(BytesIO(frames[0])) as first:
        width, height = first.size
    canvas = _uint24(width - 1) + _uint24(height - 1)
    animated, background, forever = 0x02, bytes(4), bytes(2)
    chunks = _chunk(b"VP8X", bytes([animated, 0, 0, 0]) + canvas) + _chunk(b"ANIM", background + forever)
    for number, frame in enumerate(frames, 1):
        at, shown, overwrite = bytes(6), LAST_MS if number == len(frames) else FRAME_MS, b"\x02"
        bitstream = frame[12:]  # behind "RIFF", the size and "WEBP"
        chunks += _chunk(b"ANMF", at + canvas + _uint24(shown) + overwrite + bitstream)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _uint24(number: int) -> bytes:
    return number.to_bytes(3, "little")
