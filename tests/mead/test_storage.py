"""Uploads and results on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from mead.job import End
from mead.storage import Storage, write_picture

PICTURE = Image.new("RGB", (40, 30), "teal")


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    Storage(tmp_path / "var")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_whole_under_its_name_alone(storage: Storage) -> None:
    path = storage.new_result_path("a")
    write_picture(PICTURE, path)
    assert list(storage.results.iterdir()) == [path]
    with Image.open(path) as read:
        assert read.size == (40, 30) and read.getpixel((0, 0)) == (0, 128, 128)
    first = path.read_bytes()
    write_picture(PICTURE, path)
    assert path.read_bytes() == first


def test_readers_never_see_half_a_picture(storage: Storage) -> None:
    path = storage.new_result_path("a")
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
    path = storage.new_result_path("a")
    path.mkdir(parents=True)  # in the way of the rename
    with pytest.raises(OSError):
        write_picture(PICTURE, path)
    assert list(storage.results.iterdir()) == [path]


def test_uploads_of_one_job_are_removed(storage: Storage) -> None:
    for job in ("a", "b"):
        for field in ("img", "img_enc"):
            write_picture(PICTURE, storage.upload_path(job, field))
    storage.remove_uploads([storage.upload_path("a", field) for field in ("img", "img_enc", "ne_img_enc")])
    assert files(storage) == {"uploads/b.img.bmp", "uploads/b.img_enc.bmp"}


def files(storage: Storage) -> set[str]:
    root = storage.results.parent
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def age(path: Path) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))


def test_no_two_results_have_one_place(storage: Storage) -> None:
    assert storage.new_result_path("a") != storage.new_result_path("a")


def test_files_go_with_their_jobs(storage: Storage) -> None:
    """Whatever its job needs stays; the rest goes, also of several workers that made one job's picture."""
    results = {job: storage.new_result_path(job) for job in ("done", "failed", "running", "gone")}
    for job, path in results.items():
        for made in (path, storage.preview_path(job), storage.upload_path(job, "img")):
            write_picture(PICTURE, made)
    age(storage.upload_path("gone", "img"))
    write_picture(PICTURE, storage.new_result_path("done"))  # of a worker that came too late
    ends = {
        "done": End("succeeded", str(results["done"])),
        "failed": End("failed", None),
        "running": End("processing", None),
    }

    def look(job_ids: Sequence[str]) -> dict[str, End]:
        return {job: ends[job] for job in job_ids if job in ends}

    storage.sweep(look, unclaimed=600)
    assert files(storage) == {
        f"results/{results['done'].name}",
        "uploads/failed.img.bmp",
        f"results/{results['running'].name}",
        "uploads/running.img.bmp",
        "previews/running.png",
    }
    assert storage.sweep(look, unclaimed=600) == 0
    ends.clear()
    storage.sweep(look, unclaimed=0)
    assert files(storage) == set()


def test_files_that_are_being_written_are_left_alone(storage: Storage) -> None:
    write_picture(PICTURE, storage.upload_path("soon", "img"))  # its job is not queued yet
    storage.results.mkdir()
    unfinished, abandoned = storage.results / ".a.1.png.2", storage.results / ".b.1.png.2"
    for path in (unfinished, abandoned):
        path.write_bytes(b"half")
    age(abandoned)
    assert storage.sweep(lambda job_ids: {}, unclaimed=600) == 1
    assert files(storage) == {"uploads/soon.img.bmp", "results/.a.1.png.2"}


def test_a_store_that_is_not_there_yet_needs_no_sweeping(storage: Storage) -> None:
    assert storage.sweep(lambda job_ids: {}, unclaimed=0) == 0


def test_check(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    assert list(storage.results.iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        Storage(tmp_path / "file").check()
