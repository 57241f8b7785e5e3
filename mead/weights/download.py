"""Downloading one large file from its mirrors, resuming what was cut off.

Neither pooch nor huggingface_hub does all of this: pooch begins a cut-off download anew and knows one address
for a file, huggingface_hub resumes from its own hub alone; so requests carries it, which keeps to the
environment's proxies (HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests
from requests.exceptions import ProxyError, SSLError

CHUNK = 1 << 16
RESERVE = 200_000_000  # bytes of the disk left to others
CHECK_EVERY = 64 << 20  # bytes between two looks at the free disk
BUSY = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another one in a moment
LARGEST = 64 << 30  # bytes of a file of which nobody knows the size
SLACK = 64 << 20  # bytes that a file may have beyond twice the size that its manifest says
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DownloadError(RuntimeError):
    """A file that no mirror gave; the message says why of each."""


class DiskFullError(OSError):
    """There is, or will be, no room for a file; nothing that has arrived is lost."""


class MirrorError(Exception):
    """This mirror does not have the file."""


class _CutOffError(Exception):
    """The mirror may give more of the file at another try, `wait` seconds from now if it asks for that."""

    def __init__(self, message: str, wait: float = 0) -> None:
        super().__init__(message)
        self.wait = wait


class Progress(Protocol):
    """Shows how far a download is."""

    def show(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of the file `name` are here; None when nobody knows how many it has."""

    def say(self, line: str) -> None:
        """Something happened that is worth a line."""


@dataclass(frozen=True)
class Patience:
    """How long a mirror is tried.

    Attributes:
        tries: so many in a row without a single new byte, and the next mirror is asked.
        pause: seconds before the second try; each later one waits twice as long.
        longest: seconds a pause has at most, also where a mirror asks for a longer one (Retry-After).
        timeout: seconds without an answer, or without a byte of it.
    """

    tries: int = 4
    pause: float = 1.0
    longest: float = 30.0
    timeout: float = 30.0


@contextmanager
def disk_full_named(folder: Path) -> Iterator[None]:
    """Turn what the system says of a full disk into a DiskFullError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"the disk of {folder} is full ({error.strerror}); make room and call this again, it goes on"
        ) from error


def need_room(folder: Path, wanted: int) -> None:
    """Raise DiskFullError unless the disk of `folder` has room for so many bytes, and RESERVE to spare."""
    free = shutil.disk_usage(folder).free
    if free < wanted + RESERVE:
        raise DiskFullError(
            f"{folder} needs {megabytes(wanted + RESERVE)} of free disk and has {megabytes(free)}; "
            "make room, or set WEIGHTS_DIR to a folder on another disk"
        )


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class Part:
    """What has arrived of a file, beside a note of where it came from: NAME.part and NAME.part.json.

    Attributes:
        size: how many bytes are here.
        url, validator: of which answer they are part: its address and its ETag or Last-Modified.
        carried: whether some of them are from before this call, or from another answer.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self.url, self.validator = "", ""
        self._file = self.path.open("ab+", buffering=0)  # what a killed process wrote, the next one finds
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(1 << 20):
            self._hash.update(chunk)
        self.size = self._file.tell()
        self.carried = self.size > 0
        try:
            note = json.loads(self._note.read_text("utf-8"))
            self.url, self.validator = str(note["url"]), str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # then it can only be resumed where its sha256 is known

    @property
    def sha256(self) -> str:
        """Of all that is here."""
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Add what comes next."""
        while chunk:
            written = self._file.write(chunk) or 0  # less than all of it when the disk is about to be full
            self._hash.update(chunk[:written])
            self.size += written
            chunk = chunk[written:]

    def restart(self, url: str = "", validator: str = "") -> None:
        """Throw away what is here; the next bytes are the first ones of the answer from `url`."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.carried = False
        self.follow(url, validator)

    def follow(self, url: str, validator: str) -> None:
        """Note of which answer the next bytes are."""
        self.url, self.validator = url, validator
        partial = self._note.with_suffix(".partial")
        partial.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")
        partial.replace(self._note)

    def finish(self) -> None:
        """Give the file its name."""
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave what is here to the next call; nothing at all when nothing is here."""
        self._file.close()
        if self.path.exists() and not self.size:
            self.path.unlink()
            self._note.unlink(missing_ok=True)


def download(
    target: Path,
    mirrors: Sequence[str],
    sha256: Collection[str],
    progress: Progress,
    accept: Callable[[str, str], None],
    patience: Patience | None = None,
    size: int = 0,
) -> None:
    """Fetch a file from the first mirror that has it, going on where an earlier call was cut off.

    Args:
        target: where it goes, whole and checked or not at all; NAME.part beside it holds what has arrived.
        sha256: those the file may have; any when empty.
        accept: called with its address and sha256 once the file is at `target`; raises MirrorError for a
            file that is not the one it should be, which is then removed and sought at the next mirror.
        size: how many bytes it has, roughly; 0 when nobody knows. A mirror that sends far more is left.

    Raises:
        DownloadError: when no mirror has it.
        DiskFullError: when there is no room for it.
    """
    failures = []
    for url in mirrors:
        part = Part(target)
        try:
            with disk_full_named(target.parent):
                most = 2 * size + SLACK if size else LARGEST
                _receive(part, url, sha256, progress, patience or Patience(), most)
                part.finish()
            try:
                accept(url, part.sha256)
            except MirrorError:
                target.unlink()
                raise
            return
        except MirrorError as error:
            failures.append(f"  {url}: {error}")
            progress.say(f"{target.name}: {url}: {error}")
        finally:
            part.close()
    kept = target.with_name(f"{target.name}.part")
    more = f"; {megabytes(kept.stat().st_size)} have arrived and are kept" if kept.exists() else ""
    raise DownloadError(
        "\n".join(
            [
                f"{target.name} could not be fetched{more}:",
                *failures,
                "Is the network there (behind a proxy, set HTTPS_PROXY)? Calling this again goes on from",
                f"here. Or bring the file here some other way, as {target}",
            ]
        )
    )


def _receive(
    part: Part, url: str, sha256: Collection[str], progress: Progress, patience: Patience, most: int
) -> None:
    """Bring `part` to its end, of at most so many bytes, and check it.

    Raises:
        MirrorError: when this mirror cannot.
    """
    fruitless = 0
    anew = False
    while not part.size or part.sha256 not in sha256:
        before = part.size
        try:
            _request(part, url, len(sha256) == 1, progress, patience.timeout, most)
        except _CutOffError as error:
            fruitless = 0 if part.size > before else fruitless + 1
            if fruitless == patience.tries:
                raise MirrorError(str(error)) from error
            pause = min(max(patience.pause * 2**fruitless, error.wait), patience.longest)
            there = f" at {megabytes(part.size)}" if part.size else ""
            progress.say(f"{part.target.name}: {error}; trying again{there}")
            time.sleep(pause)
            continue
        if not sha256:
            return
        if part.sha256 not in sha256:
            found, whole = part.sha256, not part.carried
            part.restart()
            if whole or anew:
                raise MirrorError(f"wrong checksum: sha256 {found} instead of {' or '.join(sha256)}")
            anew = True
            progress.say(f"{part.target.name}: wrong checksum after going on; beginning anew")


def _request(
    part: Part, url: str, same_everywhere: bool, progress: Progress, timeout: float, most: int
) -> None:
    """One request, and all that it brings.

    Args:
        same_everywhere: whether all mirrors must have the very same file, so that a part from one can be
            continued at another.

    Raises:
        MirrorError: when the file is not there.
        _CutOffError: when the answer ended before the file did, or there was none.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "mead-backend"}
    validated = part.url == url and bool(part.validator)
    if part.size and (validated or same_everywhere):
        headers["Range"] = f"bytes={part.size}-"
        if validated:
            headers["If-Range"] = part.validator
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            for step in (*answer.history, answer):
                if url.startswith("https:") and not step.url.startswith("https:"):
                    raise MirrorError(f"it leads to an address without encryption, {step.url}")
            total = _begin(part, url, answer)
            if total is not None:
                if total > most:
                    raise MirrorError(f"it has {total:,} bytes, and the file may have {most:,}")
                most = total
            need_room(part.target.parent, (total or part.size) - part.size)
            checked = part.size
            progress.show(part.target.name, part.size, total)
            for chunk in answer.iter_content(CHUNK):
                if part.size + len(chunk) > most:
                    part.restart()
                    raise MirrorError(f"it sends more than the {most:,} bytes that the file may have")
                part.append(chunk)
                progress.show(part.target.name, part.size, total)
                if part.size - checked > CHECK_EVERY:
                    checked = part.size
                    need_room(part.target.parent, 0)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if isinstance(error, SSLError):
            raise MirrorError(f"its certificate is refused: {_reason(error)}") from error
        raise _CutOffError(_reason(error)) from error
    except (requests.RequestException, ValueError) as error:  # an address or an answer of no sense
        raise MirrorError(str(error)) from error
    if total is not None and part.size < total:
        raise _CutOffError(f"the connection ended at {part.size:,} of {total:,} bytes")


def _begin(part: Part, url: str, answer: requests.Response) -> int | None:
    """Make `part` ready for the answer's content; the size of the whole file, if the answer says it."""
    status, headers = answer.status_code, answer.headers
    if status in BUSY:
        wait = headers.get("Retry-After", "")
        raise _CutOffError(f"it answers {status} {answer.reason}", _number(wait) or 0)
    if status == 416 and part.size:  # asked for what follows the end
        if _range(headers.get("Content-Range", ""))[1] == part.size:
            return part.size
        part.restart()
        raise _CutOffError("the file there is another one now")
    if status not in (200, 206):
        raise MirrorError(f"it answers {status} {answer.reason}")
    if headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise MirrorError(f"it sends the file as {headers['Content-Encoding']}, which cannot be resumed")
    etag = headers.get("ETag", "")
    validator = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    length = headers.get("Content-Length", "")
    if status == 200:
        part.restart(url, validator)
        return _number(length)
    first, total = _range(headers.get("Content-Range", ""))
    if first != part.size:
        part.restart()
        raise _CutOffError("it answers with another part than was asked for")
    part.carried = True
    part.follow(url, validator)
    return total


def _range(content_range: str) -> tuple[int | None, int | None]:
    """The first byte and the size of the whole file that a Content-Range names."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", content_range.strip())
    if match is None:
        return None, None
    first, total = match.groups()
    return _number(first or ""), _number(total)


def _number(text: str) -> int | None:
    """A number as a header says it; None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error of requests, in a few words."""
    prefix = "the proxy: " if isinstance(error, ProxyError) else ""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    seen: BaseException = error
    while True:
        cause = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        cause = getattr(seen, "reason", None) or cause or seen.__cause__ or seen.__context__
        if not isinstance(cause, BaseException):
            break
        seen = cause
    if isinstance(seen, http.client.IncompleteRead):
        return "the connection ended early"
    said = seen.strerror if isinstance(seen, OSError) and seen.strerror else str(seen)
    return prefix + (said or type(seen).__name__)
