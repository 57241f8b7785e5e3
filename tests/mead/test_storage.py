"""Uploads, results and previews, in a folder and in an object store."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mead.bucket_storage import BucketStorage
from mead.folder_storage import FolderStorage
from mead.imaging.encoding import Bitmap, write_picture
from mead.queue.job import Job, JobOutcome
from mead.storage import UPLOAD_GROWTH, Storage
from tests.object_store import BUCKET, ObjectStore

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


@dataclass
class Inside:
    """Looks at and changes what a storage holds, without its help."""

    storage: Storage
    store: ObjectStore

    def files(self) -> set[str]:
        if isinstance(self.storage, BucketStorage):
            return self.store.keys(self.storage.prefix)
        root = self.storage.root
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def read(self, path: Path) -> bytes:
        if isinstance(self.storage, BucketStorage):
            return self.store.get(self.storage, path)
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        if isinstance(self.storage, BucketStorage):
            self.store.put(self.storage, path, content)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def age(self, path: Path, seconds: float = 3600) -> None:
        if isinstance(self.storage, BucketStorage):
            self.store.age(self.storage, path, seconds)
        else:
            then = time.time() - seconds
            os.utime(path, (then, then))


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Each kind of storage, empty."""
    kind: Storage = request.getfixturevalue(request.param)
    return kind


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    """A folder, for what only folders have."""
    return FolderStorage(tmp_path / "var")


@pytest.fixture
def inside(storage: Storage, object_store: ObjectStore) -> Inside:
    """What is in the storage."""
    return Inside(storage, object_store)


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
    FolderStorage(tmp_path / "var")
    BucketStorage(BUCKET, "", tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_whole_under_its_name_alone(storage: Storage, inside: Inside) -> None:
    path = result(storage)
    assert inside.files() == {f"results/{path.name}"}
    first = inside.read(path)
    with Image.open(BytesIO(first)) as read:
        assert read.size == (40, 30) and read.getpixel((0, 0)) == (0, 128, 128)
    assert storage.write_picture(PICTURE, path) == len(first)
    assert inside.read(path) == first == storage.read(path)


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
            with Image.open(BytesIO(storage.read(path))) as read:
                read.load()
        writing.result()


def test_a_failed_write_leaves_nothing(folder: FolderStorage) -> None:
    path = folder.new_result_path(ID)
    path.mkdir(parents=True)  # in the way of the rename
    with pytest.raises(OSError):
        folder.write_picture(PICTURE, path)
    assert list(folder.results.iterdir()) == [path]


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
    size = storage.write_upload(Bitmap.of(Image.fromarray(pixels)), path, sent)
    content = storage.read(path)
    with Image.open(BytesIO(content)) as read:
        assert read.format == form and (np.asarray(read.convert("RGB")) == pixels).all()
    assert len(content) == size
    assert size <= UPLOAD_GROWTH * sent or max(pixels.shape) > 16_383


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(storage: FolderStorage) -> tuple[set[int], set[int]]:
    """The permissions of all files, and of all folders, below the root."""
    found = [path.lstat().st_mode for path in storage.root.rglob("*")]
    of_files = {stat.S_IMODE(mode) for mode in found if stat.S_ISREG(mode)}
    return of_files, {stat.S_IMODE(mode) for mode in found if stat.S_ISDIR(mode)}


def fill(storage: FolderStorage) -> None:
    storage.free_bytes()
    storage.check()
    result(storage), upload(storage), preview(storage)
    storage.write_id("1" * 32)


def test_files_are_the_services_alone(tmp_path: Path, umask: int) -> None:
    storage = FolderStorage(tmp_path / "var")
    fill(storage)
    assert stat.S_IMODE(storage.root.stat().st_mode) == 0o700
    assert modes(storage) == ({0o600}, {0o700})


def test_folders_that_are_there_stay_as_they_are(tmp_path: Path, umask: int) -> None:
    storage = FolderStorage(tmp_path / "var")
    for folder, mode in ((storage.root, 0o755), (storage.results, 0o750)):
        folder.mkdir()
        folder.chmod(mode)
    fill(storage)
    assert stat.S_IMODE(storage.root.stat().st_mode) == 0o755
    assert modes(storage) == ({0o600}, {0o700, 0o750})


def test_a_folder_shared_with_a_group_stays_shared(tmp_path: Path, umask: int) -> None:
    storage = FolderStorage(tmp_path / "var")
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
    storage = FolderStorage(tmp_path / "var")
    path = result(storage)
    assert (tmp_path / "large" / path.name).is_file() and storage.free_bytes() > 0
    assert storage.read_result(job_of(out_path=path.name)) == path.read_bytes()
    assert sweep(storage, {}, kept=0) == 1


# What records name


@pytest.mark.parametrize("root", ["", "/data/results/", "../../elsewhere/", "C:/"])
def test_a_record_names_files_wherever_they_were(storage: Storage, inside: Inside, root: str) -> None:
    """Older records hold whole paths."""
    made, sent = result(storage), upload(storage)
    job = job_of(out_path=root + made.name, img_path=root + sent.name, prompt="teal")
    assert storage.read_result(job) == inside.read(made)
    given = storage.parameters(job)
    assert given.keys() == {"prompt", "img_path"} and given["prompt"] == "teal"
    assert Path(given["img_path"]).read_bytes() == inside.read(sent)


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
def test_only_a_jobs_own_files_are_opened(
    storage: Storage, inside: Inside, tmp_path: Path, named: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    for folder in (storage.results, storage.uploads):
        inside.write(folder / f"{OTHER}.other.png", b"another's")
        if isinstance(storage, FolderStorage):
            (folder / f"{ID}.folder.png").mkdir()
            (folder / f"{ID}.link.png").symlink_to(tmp_path / "secret")
            os.mkfifo(folder / f"{ID}.pipe.png")
    with pytest.raises(FileNotFoundError):
        storage.read_result(job_of(out_path=named))
    with pytest.raises(FileNotFoundError):
        storage.parameters(job_of(img_path=named))


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a.b", "a\n", "\0", "x" * 300]
)
def test_ids_that_are_no_part_of_a_path(storage: Storage, inside: Inside, job_id: str) -> None:
    inside.write(storage.root / "x.preview.png", b"not to be seen")
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
    assert inside.files() == {"x.preview.png"}


def test_a_preview_is_no_link(folder: FolderStorage, tmp_path: Path) -> None:
    assert folder.read_preview(ID) if preview(folder) else False
    folder.preview_path(ID).unlink()
    (tmp_path / "secret").write_text("secret")
    folder.preview_path(ID).symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFoundError):
        folder.read_preview(ID)


# Removing


def test_a_copy_of_an_upload_is_a_file_of_its_own(storage: Storage, inside: Inside) -> None:
    mine, other = upload(storage), storage.upload_path(OTHER, "img")
    inside.age(mine)
    content = storage.read(mine)
    assert storage.copy_upload(job_of(), mine.name, other) == len(content)
    assert sweep(storage, {}) <= 1  # the copy is new
    storage.remove([mine])
    assert storage.read(other) == content
    with pytest.raises(FileNotFoundError):
        storage.copy_upload(job_of(), mine.name, storage.upload_path(OTHER, "mask"))
    with pytest.raises(FileNotFoundError):
        storage.copy_upload(job_of(), other.name, storage.upload_path(OTHER, "mask"))


def test_uploads_of_one_job_are_removed(storage: Storage, inside: Inside) -> None:
    for job in (ID, OTHER):
        for field in ("img", "img_enc"):
            upload(storage, job, field)
    storage.remove_uploads([storage.upload_path(ID, field) for field in ("img", "img_enc", "ne_img_enc")])
    assert inside.files() == {f"uploads/{OTHER}.img.upload", f"uploads/{OTHER}.img_enc.upload"}


def test_cleanup_removes_a_jobs_own_files_alone(storage: Storage, inside: Inside) -> None:
    own, kept = upload(storage), upload(storage, OTHER)
    old = own.with_suffix(".bmp")  # as older versions called it
    inside.write(old, b"old")
    preview(storage)
    job = job_of(img_path=own.name, img_enc_path=f"/var/uploads/{old.name}", ne_img_enc_path=str(kept))
    storage.cleanup(job, keep_uploads=True)
    assert inside.files() == {f"uploads/{path.name}" for path in (own, old, kept)}
    storage.cleanup(job)
    assert inside.files() == {f"uploads/{kept.name}"}


def test_files_go_with_their_jobs(storage: Storage, inside: Inside) -> None:
    """Whatever its job needs stays; the rest goes, also of several workers that made one job's picture."""
    names = ("done", "failed", "refused", "running", "cancelled", "gone")
    ids = {name: secrets.token_hex(16) for name in names}
    results = {name: result(storage, job_id) for name, job_id in ids.items()}
    for job_id in ids.values():
        upload(storage, job_id)
        inside.age(preview(storage, job_id))
    inside.age(upload(storage, ids["gone"]))
    inside.age(results["gone"], 7000)
    inside.age(results["cancelled"], 7000)  # until then its job's record may name it
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
    assert inside.files() == {
        f"results/{results['done'].name}",
        f"uploads/{ids['failed']}.img.upload",
        f"results/{results['running'].name}",
        f"uploads/{ids['running']}.img.upload",
        f"previews/{ids['running']}.preview.png",
    }
    assert sweep(storage, outcomes) == 0
    sweep(storage, {}, unclaimed=0, kept=0)
    assert inside.files() == set()


def test_time_lapses_go_with_their_results(storage: Storage, inside: Inside) -> None:
    names = ("done", "running", "failed", "gone")
    ids = {name: secrets.token_hex(16) for name in names}
    results = {name: result(storage, job_id) for name, job_id in ids.items()}
    results["late"] = result(storage, ids["done"])
    lapses = {name: storage.timelapse_path(path) for name, path in results.items()}
    for path in lapses.values():
        storage.write(b"webp", path)
    inside.age(results["gone"], 7000)
    inside.age(lapses["gone"], 7000)
    states = {
        "done": JobOutcome("succeeded", results["done"].name),
        "failed": JobOutcome("failed", None, "internal"),
        "running": JobOutcome("processing", None),
    }
    sweep(storage, {ids[name]: outcome for name, outcome in states.items()})
    kept = ("done", "running")
    assert inside.files() == {
        *(f"results/{results[name].name}" for name in kept),
        *(f"timelapses/{lapses[name].name}" for name in kept),
    }
    job = job_of(ids["done"], out_path=f"/elsewhere/{results['done'].name}")
    assert storage.read_timelapse(job) == b"webp"
    for named in (results["running"].name, "", f"{ids['done']}.0.png"):
        with pytest.raises(FileNotFoundError):
            storage.read_timelapse(job_of(ids["done"], out_path=named))


def test_a_whole_path_in_an_older_record_keeps_its_result(storage: Storage) -> None:
    path = result(storage)
    assert sweep(storage, {ID: JobOutcome("succeeded", f"/elsewhere/results/{path.name}")}, 0, 0) == 0


def test_pictures_outlive_a_redis_that_has_lost_their_records(storage: Storage, inside: Inside) -> None:
    old, young = result(storage), result(storage)
    inside.age(old, 7000)
    inside.age(young, 5000)
    assert sweep(storage, {}, unclaimed=600, kept=6000) == 1
    assert inside.files() == {f"results/{young.name}"}


def test_files_that_are_being_written_are_left_alone(storage: Storage, inside: Inside) -> None:
    waiting = upload(storage)  # its job is not queued yet
    unfinished, abandoned = (
        storage.uploads / f".{waiting.name}.{secrets.token_hex(4)}",
        storage.uploads / f".{ID}.img_enc.upload.{secrets.token_hex(4)}",
    )
    probe = storage.uploads / f".probe.{secrets.token_hex(4)}"
    for path in (unfinished, abandoned, probe):
        inside.write(path, b"half")
    inside.age(abandoned)
    inside.age(probe)
    assert sweep(storage, {}) == 2
    assert inside.files() == {f"uploads/{waiting.name}", f"uploads/{unfinished.name}"}


NOT_OURS = [
    "holiday photo.jpg",
    f"{ID}.jpg",
    f"{ID}.png",
    f"{ID}.thumb.png",
    f"{ID}.12345678.png.bak",
    f"{ID.upper()}.12345678.png",
    f"{ID[1:]}.12345678.png",
    f"{ID}.img.jpg",
    "logo.5f3e2a1b.png",
    "logo.5f3e2a1b.webp",
    ".hidden",
    ".probe",
    f".{ID}.png.1",
]


def test_files_of_others_are_left_alone(storage: Storage, inside: Inside) -> None:
    """Photos, other programs' files, names that only look like ours."""
    for folder in (storage.uploads, storage.results, storage.timelapses, storage.previews):
        for name in [*NOT_OURS, f"deeper/{ID}.img.upload", f"deeper/{ID}.12345678.png"]:
            inside.write(folder / name, b"not ours")
            inside.age(folder / name)
    inside.write(storage.root / f"{ID}.12345678.png", b"not ours")
    before = inside.files()
    ours = [result(storage), upload(storage), preview(storage)]
    assert sweep(storage, {}, 0, 0) == len(ours)
    assert inside.files() == before


def test_what_is_no_plain_file_is_left_alone(folder: FolderStorage, tmp_path: Path) -> None:
    """Folders (lost+found), links, names that are no text."""
    (tmp_path / "elsewhere.png").write_text("linked to")
    for place in (folder.uploads, folder.results, folder.previews):
        place.mkdir(parents=True)
        for name in ("caf\udce9", "a\nb", f"{ID}.12345678.png\n"):
            (place / name).write_text("not ours")
            os.utime(place / name, (0, 0))
        for name in ("lost+found", f"{ID}.87654321.png", f"{ID}.img.upload", f"{ID}.preview.png"):
            (place / name).mkdir()
        (place / f"{OTHER}.img.upload").symlink_to(tmp_path / "elsewhere.png")
        (place / f"{OTHER}.12345678.png").symlink_to(tmp_path / "elsewhere.png")
    before = sorted(folder.root.rglob("*"))
    assert sweep(folder, {}, 0, 0) == 0
    assert sorted(folder.root.rglob("*")) == before and (tmp_path / "elsewhere.png").exists()


def test_what_cannot_be_removed_stops_nothing(
    folder: FolderStorage, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A folder that cannot be listed; and one that vanishes with all its files as it is swept."""
    folder.root.mkdir()
    folder.uploads.write_text("no folder")
    for _ in range(3):
        result(folder)
    assert sweep(folder, {}, 0, 0) == 3
    assert "cannot sweep" in caplog.text

    result(folder)

    def look(job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        for path in folder.results.iterdir():
            path.unlink()
        folder.results.rmdir()
        return {}

    assert folder.sweep(look, 0, 0) == 0


def test_a_clock_that_was_set_back_keeps_no_file_for_ever(folder: FolderStorage) -> None:
    path = result(folder)
    os.utime(path, (time.time() + 365 * 24 * 3600,) * 2)
    assert sweep(folder, {}) == 0
    assert path.stat().st_mtime <= time.time()


def test_many_files(folder: FolderStorage) -> None:
    """Redis is asked about some at a time."""
    first = result(folder)
    for _ in range(1200):
        os.link(first, folder.new_result_path(secrets.token_hex(16)))
    asked: list[int] = []

    def look(job_ids: Sequence[str]) -> dict[str, JobOutcome]:
        asked.append(len(job_ids))
        return {}

    assert folder.sweep(look, 0, 0) == 1201
    assert sum(asked) == 1201 and max(asked) <= 500


def test_a_store_that_is_not_there_yet_needs_no_sweeping(storage: Storage) -> None:
    assert sweep(storage, {}, 0, 0) == 0


def test_check(storage: Storage, inside: Inside, tmp_path: Path) -> None:
    storage.check()
    assert inside.files() == set()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        FolderStorage(tmp_path / "file").check()


# The id of a storage


def test_a_storage_keeps_its_first_id(storage: Storage, inside: Inside) -> None:
    assert storage.read_id() is None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.write_id, [f"{n:032x}" for n in range(16)]))
    given = storage.read_id()
    assert given is not None and len(given) == 32 and inside.files() == {".mead-id"}
    storage.write_id("f" * 32)
    inside.age(storage.marker)
    assert time.time() - storage.held_at() > 3000


def test_an_id_can_be_marked_as_in_use(storage: Storage) -> None:
    storage.write_id("f" * 32)
    before = storage.held_at()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: storage.touch_id(), range(8)))
    assert storage.held_at() >= before and storage.read_id() == "f" * 32
