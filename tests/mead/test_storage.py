"""Uploads and results on the disk."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mead.imaging.encoding import Bitmap, write_picture
from mead.queue.job import Job, JobOutcome
from mead.storage import UPLOAD_GROWTH, Storage

PICTURE = Image.new("RGB", (40, 30), "teal")
ID = "8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"
OTHER = "0" * 32


def job_of(job_id: str = ID, **fields: Any) -> Job:
    """A job's record."""
    usual = {
        "type": "lr",
        "queue": "q",
        "status": "succeeded",
        "ticket": 1,
        "created_at": "2026-11-23T04:45:10Z",
    }
    return Job.model_validate({"id": job_id, **usual, **fields})


def files(storage: Storage) -> set[str]:
    return {str(path.relative_to(storage.root)) for path in storage.root.rglob("*") if path.is_file()}


def age(path: Path, seconds: float = 3600) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def result(storage: Storage, job_id: str = ID) -> Path:
    path = storage.new_result_path(job_id)
    storage.write_picture(PICTURE, path)
    return path


def upload(storage: Storage, job_id: str = ID, field: str = "img") -> Path:
    path = storage.upload_path(job_id, field)
    storage.write_upload(Bitmap.of(PICTURE), path, 10_000)
    return path


def preview(storage: Storage, job_id: str = ID) -> Path:
    path = storage.preview_path(job_id)
    storage.write_picture(PICTURE, path)
    return path


def sweep(
    storage: Storage, outcomes: dict[str, JobOutcome], unclaimed: float = 600, kept: float = 6000
) -> int:
    def look(job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        return {job_id: outcomes[job_id] for job_id in job_ids if job_id in outcomes}

    return storage.sweep(look, unclaimed, kept)


# Writing


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    Storage(tmp_path / "var")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_whole_under_its_name_alone(storage: Storage) -> None:
    path = result(storage)
    assert list(storage.results.iterdir()) == [path]
    with Image.open(path) as read:
        assert read.size == (40, 30) and read.getpixel((0, 0)) == (0, 128, 128)
    first = path.read_bytes()
    storage.write_picture(PICTURE, path)
    assert path.read_bytes() == first


def test_readers_never_see_half_a_picture(storage: Storage) -> None:
    path = storage.new_result_path(ID)
    pictures = [Image.effect_noise((64, 64), sigma) for sigma in (10, 90)]
    storage.write_picture(pictures[0], path)

    def write_often() -> None:
        for n in range(60):
            storage.write_picture(pictures[n % 2], path)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_often)
        while not writing.done():
            with Image.open(path) as read:
                read.load()
        writing.result()


def test_a_failed_write_leaves_nothing(storage: Storage) -> None:
    path = storage.new_result_path(ID)
    path.mkdir(parents=True)  # in the way of the rename
    with pytest.raises(OSError):
        storage.write_picture(PICTURE, path)
    assert list(storage.results.iterdir()) == [path]


def test_no_two_results_have_one_place(storage: Storage) -> None:
    assert storage.new_result_path(ID) != storage.new_result_path(ID)


def photo_of(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "sent", "form"),
    [
        (photo_of(64), 386, "BMP"),  # as long as it may be
        (np.full((64, 64, 3), 9, np.uint8), 385, "WEBP"),
        (np.full((1024, 1024, 3), 9, np.uint8), 3_000, "WEBP"),
        (np.tile(photo_of(32), (32, 32, 1)), 90_000, "WEBP"),
        (np.zeros((1, 16_384, 3), np.uint8), 100, "BMP"),  # longer than a WebP can be
    ],
)
def test_an_upload_keeps_its_pixels_and_takes_little_more_than_was_sent(
    storage: Storage, pixels: np.ndarray, sent: int, form: str
) -> None:
    path = storage.upload_path(ID, "img")
    storage.write_upload(Bitmap.of(Image.fromarray(pixels)), path, sent)
    with Image.open(path) as read:
        assert read.format == form and (np.asarray(read.convert("RGB")) == pixels).all()
    assert storage.upload_bytes([path, storage.upload_path(ID, "img_enc")]) == path.stat().st_size
    assert path.stat().st_size <= UPLOAD_GROWTH * sent or max(pixels.shape) > 16_383


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(storage: Storage) -> tuple[set[int], set[int]]:
    """The permissions of all files, and of all folders, below the root."""
    found = [path.lstat().st_mode for path in storage.root.rglob("*")]
    of_files = {stat.S_IMODE(mode) for mode in found if stat.S_ISREG(mode)}
    return of_files, {stat.S_IMODE(mode) for mode in found if stat.S_ISDIR(mode)}


def fill(storage: Storage) -> None:
    storage.free_bytes()
    storage.check()
    result(storage), upload(storage), preview(storage)
    storage.write_id("1" * 32)


def test_files_are_the_services_alone(tmp_path: Path, umask: int) -> None:
    storage = Storage(tmp_path / "var")
    fill(storage)
    assert stat.S_IMODE(storage.root.stat().st_mode) == 0o700
    assert modes(storage) == ({0o600}, {0o700})


def test_folders_that_are_there_stay_as_they_are(tmp_path: Path, umask: int) -> None:
    storage = Storage(tmp_path / "var")
    for folder, mode in ((storage.root, 0o755), (storage.results, 0o750)):
        folder.mkdir()
        folder.chmod(mode)
    fill(storage)
    assert stat.S_IMODE(storage.root.stat().st_mode) == 0o755
    assert modes(storage) == ({0o600}, {0o700, 0o750})


def test_a_folder_shared_with_a_group_stays_shared(tmp_path: Path, umask: int) -> None:
    storage = Storage(tmp_path / "var")
    storage.root.mkdir()
    storage.root.chmod(0o2770)
    fill(storage)
    assert modes(storage) == ({0o660}, {0o2770})


def test_pictures_for_others_are_as_the_umask_has_them(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "out" / "picture.png"
    write_picture(PICTURE, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o777 & ~umask


def test_folders_behind_links_are_used(tmp_path: Path) -> None:
    """An operator may keep results on a larger disk."""
    for name in ("data", "large"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "results").symlink_to(tmp_path / "large")
    (tmp_path / "var").symlink_to(tmp_path / "data")
    storage = Storage(tmp_path / "var")
    path = result(storage)
    assert (tmp_path / "large" / path.name).is_file() and storage.free_bytes() > 0
    assert storage.read_result(job_of(out_path=path.name)) == path.read_bytes()
    assert sweep(storage, {}, kept=0) == 1


# What records name


@pytest.mark.parametrize("root", ["", "/data/results/", "../../elsewhere/", "C:/"])
def test_a_record_names_files_wherever_they_were(storage: Storage, root: str) -> None:
    """Older records hold whole paths."""
    made, sent = result(storage), upload(storage)
    job = job_of(out_path=root + made.name, img_path=root + sent.name, prompt="teal")
    assert storage.read_result(job) == made.read_bytes()
    assert storage.parameters(job) == {"prompt": "teal", "img_path": str(sent)}


STRANGE = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../../../../etc/passwd",
    f"/somewhere/{ID}.",
    f"{ID}",
    f"{ID}.\0.png",
    f"{ID}.{'a' * 300}.png",
    f"{ID}./../../etc/passwd",
    f"{ID}.gone.png",
    f"{ID}.folder.png",
    f"{ID}.link.png",
    f"{ID}.pipe.png",
    f"{OTHER}.other.png",
    "\n",
    "\udcff",
]


@pytest.mark.parametrize("named", STRANGE)
def test_only_a_jobs_own_files_are_opened(storage: Storage, tmp_path: Path, named: str) -> None:
    (tmp_path / "secret").write_text("secret")
    for folder in (storage.results, storage.uploads):
        folder.mkdir(parents=True)
        (folder / f"{ID}.folder.png").mkdir()
        (folder / f"{ID}.link.png").symlink_to(tmp_path / "secret")
        os.mkfifo(folder / f"{ID}.pipe.png")
        (folder / f"{OTHER}.other.png").write_text("another's")
    with pytest.raises(FileNotFoundError):
        storage.read_result(job_of(out_path=named))
    with pytest.raises(FileNotFoundError):
        storage.parameters(job_of(img_path=named))


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a.b", "a\n", "\0", "x" * 300]
)
def test_ids_that_are_no_part_of_a_path(storage: Storage, job_id: str) -> None:
    (storage.root / "x.preview.png").parent.mkdir()
    (storage.root / "x.preview.png").write_bytes(b"not to be seen")
    for path_of in (storage.new_result_path, storage.preview_path, storage.read_preview):
        with pytest.raises(FileNotFoundError):
            path_of(job_id)
    with pytest.raises(FileNotFoundError):
        storage.upload_path(job_id, "img")
    job = job_of(job_id, out_path=f"{job_id}.1.png", img_path=f"{job_id}.img.upload")
    with pytest.raises(FileNotFoundError):
        storage.parameters(job)
    with pytest.raises(FileNotFoundError):
        storage.read_result(job)
    storage.cleanup(job)
    assert files(storage) == {"x.preview.png"}


def test_a_preview_is_no_link(storage: Storage, tmp_path: Path) -> None:
    assert storage.read_preview(ID) if preview(storage) else False
    storage.preview_path(ID).unlink()
    (tmp_path / "secret").write_text("secret")
    storage.preview_path(ID).symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFoundError):
        storage.read_preview(ID)


# Removing


def test_uploads_of_one_job_are_removed(storage: Storage) -> None:
    for job in (ID, OTHER):
        for field in ("img", "img_enc"):
            upload(storage, job, field)
    storage.remove_uploads([storage.upload_path(ID, field) for field in ("img", "img_enc", "ne_img_enc")])
    assert files(storage) == {f"uploads/{OTHER}.img.upload", f"uploads/{OTHER}.img_enc.upload"}


def test_cleanup_removes_a_jobs_own_files_alone(storage: Storage) -> None:
    own, kept = upload(storage), upload(storage, OTHER)
    old = own.with_suffix(".bmp")  # as older versions called it
    old.write_bytes(b"old")
    preview(storage)
    job = job_of(img_path=own.name, img_enc_path=f"/var/uploads/{old.name}", ne_img_enc_path=str(kept))
    storage.cleanup(job, keep_uploads=True)
    assert files(storage) == {f"uploads/{path.name}" for path in (own, old, kept)}
    storage.cleanup(job)
    assert files(storage) == {f"uploads/{kept.name}"}


def test_files_go_with_their_jobs(storage: Storage) -> None:
    """Whatever its job needs stays; the rest goes, also of several workers that made one job's picture."""
    names = ("done", "failed", "refused", "running", "cancelled", "gone")
    ids = {name: secrets.token_hex(16) for name in names}
    results = {name: result(storage, job_id) for name, job_id in ids.items()}
    for job_id in ids.values():
        upload(storage, job_id)
        age(preview(storage, job_id))
    age(upload(storage, ids["gone"]))
    age(results["gone"], 7000)
    result(storage, ids["done"])  # of a worker that came too late
    states = {
        "done": JobOutcome("succeeded", results["done"].name),
        "failed": JobOutcome("failed", None, "internal"),
        "refused": JobOutcome("failed", None, "input"),
        "running": JobOutcome("processing", None),
        "cancelled": JobOutcome("cancelled", None),
    }
    outcomes = {ids[name]: outcome for name, outcome in states.items()}
    sweep(storage, outcomes)
    assert files(storage) == {
        f"results/{results['done'].name}",
        f"uploads/{ids['failed']}.img.upload",
        f"results/{results['running'].name}",
        f"uploads/{ids['running']}.img.upload",
        f"previews/{ids['running']}.preview.png",
    }
    assert sweep(storage, outcomes) == 0
    sweep(storage, {}, unclaimed=0, kept=0)
    assert files(storage) == set()


def test_a_whole_path_in_an_older_record_keeps_its_result(storage: Storage) -> None:
    path = result(storage)
    assert sweep(storage, {ID: JobOutcome("succeeded", f"/elsewhere/results/{path.name}")}, 0, 0) == 0


def test_pictures_outlive_a_redis_that_has_lost_their_records(storage: Storage) -> None:
    old, young = result(storage), result(storage)
    age(old, 7000)
    age(young, 5000)
    assert sweep(storage, {}, unclaimed=600, kept=6000) == 1
    assert files(storage) == {f"results/{young.name}"}


def test_files_that_are_being_written_are_left_alone(storage: Storage) -> None:
    waiting = upload(storage)  # its job is not queued yet
    unfinished, abandoned = (
        storage.uploads / f".{waiting.name}.{secrets.token_hex(4)}",
        storage.uploads / f".{ID}.img_enc.upload.{secrets.token_hex(4)}",
    )
    probe = storage.uploads / f".probe.{secrets.token_hex(4)}"
    for path in (unfinished, abandoned, probe):
        path.write_bytes(b"half")
    age(abandoned)
    age(probe)
    assert sweep(storage, {}) == 2
    assert files(storage) == {f"uploads/{waiting.name}", f"uploads/{unfinished.name}"}


def test_files_of_others_are_left_alone(storage: Storage, tmp_path: Path) -> None:
    """Photos, other programs' files, folders (lost+found), links, names that only look like ours."""
    hashed = secrets.token_hex(16)
    names = [
        "holiday photo.jpg",
        f"{hashed}.jpg",
        f"{hashed}.png",
        f"{hashed}.thumb.png",
        f"{hashed}.12345678.png.bak",
        f"{hashed}.12345678.png\n",
        f"{hashed.upper()}.12345678.png",
        f"{hashed[1:]}.12345678.png",
        f"{hashed}.img.jpg",
        "logo.5f3e2a1b.png",
        ".hidden",
        ".probe",
        f".{hashed}.png.1",
        "caf\udce9",
        "a\nb",
    ]
    (tmp_path / "elsewhere.png").write_text("linked to")
    for folder in (storage.uploads, storage.results, storage.previews):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text("not ours")
            age(folder / name)
        for name in ("lost+found", f"{hashed}.87654321.png", f"{hashed}.img.upload", f"{hashed}.preview.png"):
            (folder / name).mkdir()
        (folder / f"{OTHER}.img.upload").symlink_to(tmp_path / "elsewhere.png")
        (folder / f"{OTHER}.12345678.png").symlink_to(tmp_path / "elsewhere.png")
    before = sorted(storage.root.rglob("*"))
    ours = [result(storage), upload(storage), preview(storage)]
    assert sweep(storage, {}, 0, 0) == len(ours)
    assert sorted(storage.root.rglob("*")) == before and (tmp_path / "elsewhere.png").exists()


def test_what_cannot_be_removed_stops_nothing(
    storage: Storage, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A folder that cannot be listed; and one that vanishes with all its files as it is swept."""
    storage.root.mkdir()
    storage.uploads.write_text("no folder")
    for _ in range(3):
        result(storage)
    assert sweep(storage, {}, 0, 0) == 3
    assert "cannot sweep" in caplog.text

    result(storage)

    def look(job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        for path in storage.results.iterdir():
            path.unlink()
        storage.results.rmdir()
        return {}

    assert storage.sweep(look, 0, 0) == 0


def test_a_clock_that_was_set_back_keeps_no_file_for_ever(storage: Storage) -> None:
    path = result(storage)
    age(path, -365 * 24 * 3600)
    assert sweep(storage, {}) == 0
    assert path.stat().st_mtime <= time.time()


def test_many_files(storage: Storage) -> None:
    """Redis is asked about some at a time."""
    first = result(storage)
    for _ in range(1200):
        os.link(first, storage.new_result_path(secrets.token_hex(16)))
    asked: list[int] = []

    def look(job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        asked.append(len(job_ids))
        return {}

    assert storage.sweep(look, 0, 0) == 1201
    assert sum(asked) == 1201 and max(asked) <= 500


def test_a_store_that_is_not_there_yet_needs_no_sweeping(storage: Storage) -> None:
    assert sweep(storage, {}, 0, 0) == 0


def test_check(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    assert list(storage.results.iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        Storage(tmp_path / "file").check()
