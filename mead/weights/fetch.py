"""Bringing weights in: a published set by its manifest, or a checkpoint of one's own.

Either way the files are converted to safetensors once, and their checksums kept in the set's `lock.json`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mead import registry
from mead.weights.download import MirrorError, Patience, Progress, disk_full_named, download, need_room
from mead.weights.sets import (
    NAME,
    Download,
    Lock,
    Pin,
    Record,
    WeightFile,
    WeightsError,
    WeightSet,
    is_shipped,
    now,
    sha256_of,
    weights_dir,
    whole,
)

OWN_MANIFEST = """\
# A set of weights of your own. Networks converted into this folder are found by their names; those that are
# not here are taken from the set `base`.
description = "Converted from {original}."
base = "{base}"

# Settings of the models, where they should not be the base's, such as:
# [models.NAME]
# iterations = 100
"""


CONVERTING = ".converting-"  # what the folders begin with in which networks are made


@contextmanager
def exclusive(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only one that changes what is in a set's folder; wait for whoever else is at it, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            say(f"another process (pid {holder}) is at work in {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for left in folder.glob(f"{CONVERTING}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def fetch(
    name: str, progress: Progress, keep_original: bool = False, patience: Patience | None = None
) -> WeightSet:
    """Download what is not here of a set and of its base, check it, convert it; the set as it then is.

    Another call for the same set waits until this one is done. What an earlier call left unfinished is gone
    on with; a published file that already lies in the set's folder `originals` is not downloaded again.

    Args:
        keep_original: leave the published files in `originals` when they are converted.

    Raises:
        WeightsError: for a file that is not the published one.
        DownloadError: when no mirror has a file.
        DiskFullError: when there is no room for all of it.
    """
    weights = WeightSet.find(name)
    if weights.base is not None:
        fetch(weights.base, progress, keep_original, patience)
    if not weights.downloads:
        return weights
    folder = weights.folder
    with exclusive(folder, progress.say):
        weights = WeightSet.find(name)  # as whoever we waited for has left it
        wanted = {
            file_name: published
            for file_name, published in weights.downloads.items()
            if not all(_is_whole(weights.files[network], progress) for network in published[1])
        }
        originals = folder / "originals"
        originals.mkdir(exist_ok=True)
        need_room(folder, _room([published for published, _ in wanted.values()], keep_original))
        for file_name, (published, networks) in wanted.items():
            progress.say(f"{file_name}: licence: {published.licence or 'not stated'}")
            with disk_full_named(folder):
                _fetch_one(weights, originals / file_name, published, networks, progress, patience)
            if not keep_original:
                (originals / file_name).unlink()
        with suppress(OSError):  # there may be something left in it
            originals.rmdir()
        return WeightSet.find(name)


def add(original: Path, name: str, network: str | None, base: str | None, progress: Progress) -> list[str]:
    """Convert a checkpoint of one's own into the set `name`, which is made if it is not there.

    Args:
        network: the one to take of the file; all it holds when None.
        base: the set that lends what the new one does not have; when None, "full" if it is here, else "demo".

    Returns:
        The networks converted.

    Raises:
        WeightsError: for a name that cannot be, a base that is not the one the set has, or a file without
            that network.
        CheckpointError: for a file that cannot be read; names it.
    """
    original.stat()  # before PyTorch is imported, here and below, which takes seconds
    if not NAME.fullmatch(name) or is_shipped(name):
        raise WeightsError(
            f"weights: {name!r} cannot be a set of your own; use letters, digits, '.', '_' and '-', and no "
            "name of a set that comes with the project"
        )
    from mead.weights import conversion  # imports PyTorch

    held = conversion.networks(original)
    if network is not None and network not in held:
        raise WeightsError(f"{original} holds no {network}, but {' and '.join(held)}")
    chosen = held if network is None else (network,)
    folder = weights_dir() / name
    manifest = folder / "manifest.toml"
    new_base = base or ("full" if _is_here("full") else "demo")
    WeightSet.find(new_base)
    with exclusive(folder, progress.say), disk_full_named(folder):
        if manifest.exists() and base not in (None, WeightSet.find(name).base):
            raise WeightsError(f"{manifest} says another base than {base!r}; change it there")
        need_room(folder, original.stat().st_size)
        targets = {one: folder / f"{one}.safetensors" for one in chosen}
        _convert(original, targets, folder, Lock.read(folder), progress)
        if not manifest.exists():
            escaped = _printable(original.name).replace("\\", "\\\\").replace('"', '\\"')
            with whole(manifest) as part:
                part.write_text(OWN_MANIFEST.format(original=escaped, base=new_base), "utf-8")
    return list(chosen)


def _printable(name: str) -> str:
    """A file's name as a manifest and a lock can hold it: it may be of bytes that are no text."""
    return "".join(each if each.isprintable() else "?" for each in name)


def _is_whole(file: WeightFile, progress: Progress) -> bool:
    try:
        file.check()
    except WeightsError as error:
        if file.path.exists():
            progress.say(str(error))
        return False
    return True


def _is_here(name: str) -> bool:
    return all(file.path.exists() for file in WeightSet.find(name).files.values())


def _room(wanted: Sequence[Download], keep_original: bool) -> int:
    """Bytes needed at most at any time, when what a file is converted to is no larger than the file."""
    converted = most = 0
    for published in wanted:
        most = max(most, converted + 2 * published.size)
        converted += 2 * published.size if keep_original else published.size
    return most


def _fetch_one(
    weights: WeightSet,
    original: Path,
    published: Download,
    networks: Sequence[str],
    progress: Progress,
    patience: Patience | None,
) -> None:
    """Bring one published file here and convert it.

    One without a known checksum is pinned to what it is, once it has proved to hold the networks.
    """
    lock = Lock.read(weights.folder)
    pin = lock.downloads.get(original.name)
    known = published.sha256 or ([pin.sha256] if pin else [])

    def convert(url: str, sha256: str) -> None:
        from mead.weights.checkpoints import CheckpointError

        try:
            targets = {network: weights.files[network].path for network in networks}
            _convert(original, targets, weights.folder, lock, progress)
        except CheckpointError as error:
            if known:
                raise WeightsError(f"{error} (though it is the published file)") from error
            raise MirrorError(f"it sends something else: {error}") from error
        lock.downloads[original.name] = Pin(
            sha256=sha256, size=original.stat().st_size, url=url, fetched=now()
        )
        lock.write(weights.folder)

    if not original.exists():
        if pin and not published.sha256:
            progress.say(f"{original.name} is held to its first download, see {weights.folder / 'lock.json'}")
        download(original, published.mirrors, known, progress, convert, patience, published.size)
        return
    progress.say(f"{original} is already here")
    sha256 = sha256_of(original)
    if known and sha256 not in known:
        raise WeightsError(
            f"{original} is not the published file: its sha256 is {sha256} instead of {' or '.join(known)}; "
            "delete it, and it is fetched"
        )
    try:
        convert("", sha256)
    except MirrorError as error:
        raise WeightsError(f"{original} cannot be used: {error}; delete it, and it is fetched") from error


def _convert(
    original: Path, targets: Mapping[str, Path], folder: Path, lock: Lock, progress: Progress
) -> None:
    """Convert networks of a file, each to its target, and note it in the lock: all of them, or none."""
    from mead.weights import conversion

    with tempfile.TemporaryDirectory(prefix=CONVERTING, dir=folder, ignore_cleanup_errors=True) as made:
        records = {}
        for network, target in targets.items():
            progress.say(f"converting {original.name} to {target}")
            new = Path(made) / f"{network}.safetensors"
            conversion.convert(original, network, new, progress.say)
            records[network] = Record.of(
                new, _printable(original.name), registry.networks()[network].trained_with
            )
        for network, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            for ending in (".json", ".safetensors"):
                (Path(made) / f"{network}{ending}").replace(target.with_suffix(ending))
        lock.files.update(records)
        lock.write(folder)
