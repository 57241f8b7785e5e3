"""The folder of a set: one process changes it at a time, and networks converted into it appear together."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mead import registry
from mead.weights.lock import Lock, VerifiedFile
from mead.weights.progress import Progress

CONVERTING = ".converting-"  # prefix of the folders that networks are converted in


@contextmanager
def exclusive(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a set's folder, so that no other process changes it; wait for one that does, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            say(f"{folder} is in use by another process (pid {holder}); waiting for it to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for leftover in folder.glob(f"{CONVERTING}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def convert_into(
    folder: Path, original: Path, targets: Mapping[str, Path], lock: Lock, progress: Progress
) -> None:
    """Convert networks of a file and record them in the lock: all of them, or none.

    The caller holds the folder.

    Args:
        targets: where each network goes.

    Raises:
        CheckpointError: naming the file that cannot be used.
        OSError: if the disk is full or the folder cannot be written.
    """
    from mead.weights import conversion  # imports PyTorch, which takes seconds

    with tempfile.TemporaryDirectory(prefix=CONVERTING, dir=folder, ignore_cleanup_errors=True) as temporary:
        verified = {}
        for network, target in targets.items():
            progress.say(f"converting {original.name} to {target}")
            converted = Path(temporary) / f"{network}.safetensors"
            conversion.convert(original, network, converted, progress.say)
            trained_with = registry.network(network).trained_with
            verified[network] = VerifiedFile.of(converted, storable(original.name), trained_with)
        for network, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".safetensors"):
                (Path(temporary) / f"{network}{suffix}").replace(target.with_suffix(suffix))
        lock.files.update(verified)
        lock.write(folder)


def storable(name: str) -> str:
    """A file name as manifests and locks can hold it: with "?" for control characters and invalid bytes."""
    return "".join(character if character.isprintable() else "?" for character in name)
