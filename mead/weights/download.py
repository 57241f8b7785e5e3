"""Downloading a large file from one of several mirrors, resuming what was interrupted.

Neither pooch nor huggingface_hub does all of this: pooch starts interrupted downloads over and knows one URL
for a file, huggingface_hub resumes downloads from its own hub only. So requests is used directly; it respects
the environment's proxies (HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mead.terminal import format_size
from mead.weights.disk import naming_full_disk
from mead.weights.errors import DownloadError
from mead.weights.partial_file import PartialFile
from mead.weights.progress import Progress
from mead.weights.transfer import MirrorError, TransferError, transfer

LARGEST = 64 << 30  # bytes of a file of unknown size
SLACK = 64 << 20  # bytes a file may have beyond twice the size in its manifest


@dataclass(frozen=True)
class RetryPolicy:
    """How often a mirror is tried again.

    Attributes:
        attempts: in a row without a new byte, before the next mirror is tried.
        first_pause: seconds before the second attempt; the pause doubles with each attempt.
        longest_pause: seconds, also where a mirror asks for a longer one (Retry-After).
        timeout: seconds without a response, or without a byte of it.
    """

    attempts: int = 4
    first_pause: float = 1.0
    longest_pause: float = 30.0
    timeout: float = 30.0


def download(
    target: Path,
    mirrors: Sequence[str],
    sha256: Collection[str],
    progress: Progress,
    accept: Callable[[str, str], None],
    retry: RetryPolicy | None = None,
    size: int = 0,
) -> None:
    """Download a file from the first mirror that has it, resuming an earlier download.

    Args:
        target: where the file is put once it is complete and checked; until then it is NAME.part beside it.
        sha256: accepted checksums; any file is accepted if empty.
        accept: called with the URL and the sha256 once the file is at `target`; raises MirrorError for a
            wrong file, which is then deleted and looked for at the next mirror.
        size: the file's approximate size in bytes, 0 if unknown; a mirror that sends far more is given up.

    Raises:
        DownloadError: if no mirror has it.
        DiskFullError: if there is no space for it.
    """
    failures = []
    for url in mirrors:
        part = PartialFile(target)
        try:
            limit = 2 * size + SLACK if size else LARGEST
            with naming_full_disk(target.parent):
                _download_from(part, url, sha256, progress, retry or RetryPolicy(), limit)
                part.finish()
            _accept_or_delete(target, accept, url, part.sha256)
            return
        except MirrorError as error:
            failures.append(f"  {url}: {error}")
            progress.say(f"{target.name}: {url}: {error}")
        finally:
            part.close()
    raise DownloadError(_failure_message(target, failures))


def _accept_or_delete(target: Path, accept: Callable[[str, str], None], url: str, sha256: str) -> None:
    try:
        accept(url, sha256)
    except MirrorError:
        target.unlink()
        raise


def _failure_message(target: Path, failures: Sequence[str]) -> str:
    part = target.with_name(f"{target.name}.part")
    kept = f" ({format_size(part.stat().st_size)} of it are kept for the next try)" if part.exists() else ""
    return "\n".join(
        [
            f"{target.name} could not be downloaded{kept}:",
            *failures,
            "Check the network (behind a proxy, set HTTPS_PROXY) and try again: the download is resumed. Or",
            f"download the file in another way and save it as {target}",
        ]
    )


def _download_from(
    part: PartialFile, url: str, sha256: Collection[str], progress: Progress, retry: RetryPolicy, limit: int
) -> None:
    """Complete `part`, of at most `limit` bytes, from one mirror and check it.

    Raises:
        MirrorError: if the mirror does not have the file.
    """
    started_over = False
    while not _has_checksum(part, sha256):
        _transfer_with_retries(part, url, sha256, progress, retry, limit)
        if not sha256 or _has_checksum(part, sha256):
            return
        wrong, mixed = part.sha256, part.resumed
        part.restart()
        if started_over or not mixed:
            raise MirrorError(f"wrong checksum: sha256 {wrong} instead of {' or '.join(sha256)}")
        started_over = True
        progress.say(f"{part.target.name}: wrong checksum after resuming; starting over")


def _has_checksum(part: PartialFile, sha256: Collection[str]) -> bool:
    return part.size > 0 and part.sha256 in sha256


def _transfer_with_retries(
    part: PartialFile, url: str, sha256: Collection[str], progress: Progress, retry: RetryPolicy, limit: int
) -> None:
    """Make requests until the mirror has sent the whole file.

    Raises:
        MirrorError: if too many in a row brought nothing.
    """
    fruitless = 0
    while True:
        size_before = part.size
        try:
            return transfer(part, url, len(sha256) == 1, progress, retry.timeout, limit)
        except TransferError as error:
            if _has_checksum(part, sha256):  # only the length was wrong
                return None
            fruitless = 0 if part.size > size_before else fruitless + 1
            if fruitless == retry.attempts:
                raise MirrorError(str(error)) from error
            pause = max(retry.first_pause * 2**fruitless, error.retry_after)
            start = f" from {format_size(part.size)}" if part.size else ""
            progress.say(f"{part.target.name}: {error}; retrying{start}")
            time.sleep(min(pause, retry.longest_pause))
