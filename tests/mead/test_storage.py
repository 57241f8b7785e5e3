"""Uploads and results on the disk."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from mead.storage import Storage, write_picture

PICTURE = Image.new("RGB", (40, 30), "teal")


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    Storage(tmp_path / "var")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_whole_under_its_name_alone(storage: Storage) -> None:
    path = storage.result_path("a")
    write_picture(PICTURE, path)
    assert list(storage.results.iterdir()) == [path]
    with Image.open(path) as read:
        assert read.size == (40, 30) and read.getpixel((0, 0)) == (0, 128, 128)
    first = path.read_bytes()
    write_picture(PICTURE, path)
    assert path.read_bytes() == first


def test_readers_never_see_half_a_picture(storage: Storage) -> None:
    path = storage.result_path("a")
    pictures = [Image.effect_noise((64, 64), sigma) for sigma in (10, 90)]
    write_picture(pictures[0], path)

    def write_often() -> None:
        for n in range(60):
            write_picture(pictures[n % 2], path)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_often)
        while not writing.done():
            with Image.open(path) as read:
                read.load()
        writing.result()


def test_a_failed_write_leaves_nothing(storage: Storage) -> None:
    path = storage.result_path("a")
    path.mkdir(parents=True)  # in the way of the rename
    with pytest.raises(OSError):
        write_picture(PICTURE, path)
    assert list(storage.results.iterdir()) == [path]


def test_uploads_of_one_job_are_removed(storage: Storage) -> None:
    for job in ("a", "b"):
        for field in ("img", "img_enc"):
            write_picture(PICTURE, storage.upload_path(job, field))
    storage.remove_uploads("a")
    storage.remove_uploads("never")
    assert sorted(path.name for path in storage.uploads.iterdir()) == ["b-img.png", "b-img_enc.png"]


def test_old_results_are_removed(storage: Storage) -> None:
    assert storage.remove_old_results(60) == 0  # no folder yet
    for job in ("old", "new"):
        write_picture(PICTURE, storage.result_path(job))
    an_hour_ago = time.time() - 3600
    os.utime(storage.result_path("old"), (an_hour_ago, an_hour_ago))
    assert storage.remove_old_results(60) == 1
    assert list(storage.results.iterdir()) == [storage.result_path("new")]


def test_check(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    assert list(storage.results.iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        Storage(tmp_path / "file").check()
