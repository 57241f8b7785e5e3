"""Fetching a published set: its files are downloaded, checked and converted to safetensors once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mead.weights.disk import naming_full_disk, require_space
from mead.weights.download import RetryPolicy, download
from mead.weights.errors import WeightsError
from mead.weights.lock import Lock, PinnedDownload, now, sha256_of
from mead.weights.manifest import Download
from mead.weights.progress import Progress
from mead.weights.set_folder import convert_into, exclusive
from mead.weights.sets import WeightFile, WeightSet
from mead.weights.transfer import MirrorError


def fetch(
    name: str,
    progress: Progress,
    keep_original: bool = False,
    retry: RetryPolicy | None = None,
    optional: Collection[str] = (),
) -> WeightSet:
    """Download what is missing of a set and of its base, check it, convert it; returns the complete set.

    If another process is fetching the set, wait for it. Interrupted downloads are resumed. A published file
    that is in the set's folder `originals` already is not downloaded.

    Args:
        keep_original: whether the published files stay in `originals` after they were converted.
        optional: which optional networks to fetch as well. Those that were fetched before are kept.

    Raises:
        WeightsError: for an optional network that the set does not have, or a file that is not the published
            one.
        DownloadError: if no mirror has a file.
        DiskFullError: if there is no space for all of it.
    """
    weights = WeightSet.find(name)
    for network in optional:
        if network not in weights.optional:
            offered = ", ".join(weights.optional) or "none"
            raise WeightsError(f"weights: the set {name!r} has no optional {network!r}; there are: {offered}")
    if weights.base is not None:
        of_base = set(optional) & set(WeightSet.find(weights.base).optional)
        fetch(weights.base, progress, keep_original, retry, of_base)
    if not weights.downloads:
        return weights
    with exclusive(weights.folder, progress.say):
        weights = WeightSet.find(name)  # another process may have changed it meanwhile
        _fetch_missing(weights, progress, keep_original, retry, optional)
        return WeightSet.find(name)


def _fetch_missing(
    weights: WeightSet,
    progress: Progress,
    keep_original: bool,
    retry: RetryPolicy | None,
    optional: Collection[str],
) -> None:
    """Fetch the published files of the networks that are missing or damaged."""
    wanted = dict(weights.files) | {name: file for name, file in weights.absent.items() if name in optional}
    missing = {}
    for file_name, (published, networks) in weights.downloads.items():
        targets = {network: wanted[network] for network in networks if network in wanted}
        if not all(_is_good(file, progress) for file in targets.values()):
            missing[file_name] = (
                published,
                {network: file.path for network, file in targets.items() if file_name not in file.beside},
            )
    originals = weights.folder / "originals"
    originals.mkdir(exist_ok=True)
    sizes = [published.size for published, _ in missing.values()]
    require_space(weights.folder, space_needed(sizes, keep_original))
    for file_name, (published, paths) in missing.items():
        progress.say(f"{file_name}: licence: {published.licence or 'not stated'}")
        with naming_full_disk(weights.folder):
            _PublishedFile(weights.folder, originals / file_name, published, paths, progress).fetch(retry)
        if not keep_original and paths:
            (originals / file_name).unlink()
    if not keep_original:
        for file_name, (_, paths) in missing.items():
            if not paths:  # it was needed beside others
                (originals / file_name).unlink()
    with suppress(OSError):  # not empty
        originals.rmdir()


def _is_good(file: WeightFile, progress: Progress) -> bool:
    try:
        file.check()
    except WeightsError as error:
        if file.path.exists():
            progress.say(str(error))
        return False
    return True


def space_needed(sizes: Iterable[int], keep_original: bool) -> int:
    """Disk space in bytes that fetching files of these sizes, one after another, takes at most at any time.

    A file is there twice while it is converted; what it is converted to is assumed to be no larger.
    """
    converted = most = 0
    for size in sizes:
        most = max(most, converted + 2 * size)
        converted += 2 * size if keep_original else size
    return most


class _PublishedFile:
    """A published file that is fetched for a set.

    A file without a known checksum is pinned to its first download that holds the networks.

    Args:
        folder: of the set.
        path: where it is downloaded to.
        targets: where each of its networks is converted to; none of those that it only holds a part of.
    """

    def __init__(
        self,
        folder: Path,
        path: Path,
        published: Download,
        targets: Mapping[str, Path],
        progress: Progress,
    ) -> None:
        self.folder = folder
        self.path = path
        self.published = published
        self.targets = targets
        self.progress = progress
        self.lock = Lock.read(self.folder)
        self.pin = self.lock.downloads.get(path.name)
        self.checksums = published.sha256 or ([self.pin.sha256] if self.pin else [])

    def fetch(self, retry: RetryPolicy | None) -> None:
        """Download the file unless it is here, and convert it."""
        if self.path.exists():
            self._use_existing()
            return
        if self.pin and not self.published.sha256:
            self.progress.say(
                f"{self.path.name} must be the same file as first downloaded, see {self.folder / 'lock.json'}"
            )
        mirrors, size = self.published.mirrors, self.published.size
        download(self.path, mirrors, self.checksums, self.progress, self._convert, retry, size)

    def _use_existing(self) -> None:
        self.progress.say(f"{self.path} is already here")
        sha256 = sha256_of(self.path)
        if self.checksums and sha256 not in self.checksums:
            raise WeightsError(
                f"{self.path} is not the published file: its sha256 is {sha256} instead of "
                f"{' or '.join(self.checksums)}; delete it and try again to download it"
            )
        try:
            self._convert("", sha256)
        except MirrorError as error:
            raise WeightsError(
                f"{self.path} cannot be used: {error}; delete it and try again to download it"
            ) from error

    def _convert(self, url: str, sha256: str) -> None:
        """Convert the file, which came from `url`, and record it.

        Raises:
            MirrorError: if it does not hold the networks, and its checksum is not known.
        """
        from mead.weights.checkpoints import CheckpointError, read_checkpoint

        try:
            if not self.targets:  # it is needed beside others
                read_checkpoint(self.path)
            convert_into(self.folder, self.path, self.targets, self.lock, self.progress)
        except CheckpointError as error:
            if self.checksums:
                raise WeightsError(f"{error} (although its checksum is right)") from error
            raise MirrorError(f"not the right file: {error}") from error
        self.lock.downloads[self.path.name] = PinnedDownload(
            sha256=sha256, size=self.path.stat().st_size, url=url, fetched=now()
        )
        self.lock.write(self.folder)
