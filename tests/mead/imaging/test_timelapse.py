"""Time-lapses, read back by other programs' readers."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from mead.imaging.timelapse import FRAME_MS, LAST_MS, NoVideoError, TimeLapse, mp4_bytes, writer_of
from tests.conftest import psnr

SHADES = [0, 60, 120, 180, 240]


def picture(shade: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A ramp to the right of one colour."""
    ramp = np.linspace(0, shade, size[0])[None, :, None].repeat(size[1], 0)
    return Image.fromarray((ramp * [1, 0.5, 0.25]).astype("uint8"))


def lapse(size: tuple[int, int] = (64, 48)) -> bytes:
    made = TimeLapse(len(SHADES), 0, 4)
    for step, shade in enumerate(SHADES):
        assert made.is_due(step) and not made.is_due(step)
        made.take(picture(shade, size))
    return made.webp()


@pytest.mark.parametrize(
    ("frames", "first", "last", "due"),
    [
        (1, 0, 40, [40]),
        (2, 0, 40, [0, 40]),
        (5, 0, 40, [0, 10, 20, 30, 40]),
        (4, 0, 40, [0, 14, 27, 40]),
        (3, 30, 40, [30, 35, 40]),
        (100, 0, 3, [0, 1, 2, 3]),  # not more than there are steps
    ],
)
def test_pictures_are_due_at_equal_distances(frames: int, first: int, last: int, due: list[int]) -> None:
    made = TimeLapse(frames, first, last)
    assert [step for step in range(last + 1) if made.is_due(step)] == due


def test_pillow_reads_the_animation() -> None:
    webp = lapse()
    with Image.open(io.BytesIO(webp)) as animation:
        assert animation.format == "WEBP" and animation.info["loop"] == 0
        shown = []
        for frame, shade in zip(ImageSequence.Iterator(animation), SHADES, strict=True):
            assert psnr(frame.convert("RGB"), picture(shade)) > 35
            shown.append(frame.info["duration"])
    assert shown == [FRAME_MS] * 4 + [LAST_MS]
    assert lapse() == webp  # to the last byte


def test_one_frame_is_enough() -> None:
    made = TimeLapse(1, 0, 3)
    made.take(picture(200))
    with Image.open(io.BytesIO(made.webp())) as animation:
        assert psnr(animation.convert("RGB"), picture(200)) > 35
    assert av.open(io.BytesIO(mp4_bytes(made.webp()))).streams.video[0].frames == LAST_MS // FRAME_MS


@pytest.mark.parametrize(
    ("size", "small"), [((64, 48), (64, 48)), ((1024, 1024), (512, 512)), ((1024, 48), (512, 24))]
)
def test_ffmpeg_reads_the_video(size: tuple[int, int], small: tuple[int, int]) -> None:
    video = mp4_bytes(lapse(size))
    assert video[4:8] == b"ftyp" and video.index(b"moov") < video.index(
        b"mdat"
    )  # plays before it is all there
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.width, stream.height) == ("h264", "yuv420p", *small)
        assert stream.average_rate == 1000 / FRAME_MS
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == 4 + LAST_MS // FRAME_MS
    for frame, shade in zip(frames, [*SHADES, SHADES[-1]], strict=False):
        assert psnr(frame, picture(shade, small)) > 28
    assert mp4_bytes(lapse(size)) == video
    assert b"mbtree=0" in video  # with it, one of a hundred small videos differed


def test_without_the_package_there_is_no_video(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "av")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for make in (lambda: mp4_bytes(lapse()), lambda: writer_of(Path("a.mp4"), "path")):
        with pytest.raises(NoVideoError, match='the extra "video"'):
            make()
    assert writer_of(Path("a.webp"), "path")(b"webp") == b"webp"


def test_the_suffix_says_what_is_written() -> None:
    with pytest.raises(ValueError, match=r"^path: 'a\.gif' ends neither in \.webp nor in \.mp4"):
        writer_of(Path("a.gif"), "path")
