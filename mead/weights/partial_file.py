"""A file that is being downloaded, which a later call can resume."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mead.files import write_whole


class PartialFile:
    """What has been downloaded of a file (NAME.part), and from where (NAME.part.json).

    Attributes:
        size: of what is here, in bytes.
        url, validator: the response it is part of: its URL and its ETag or Last-Modified.
        resumed: whether it is put together from several responses.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._source = target.with_name(f"{target.name}.part.json")
        self.url, self.validator = "", ""
        self._file = self.path.open("ab+", buffering=0)  # the next process finds what a killed one wrote
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(1 << 20):
            self._hash.update(chunk)
        self.size = self._file.tell()
        self.resumed = self.size > 0
        try:
            source = json.loads(self._source.read_text("utf-8"))
            self.url, self.validator = str(source["url"]), str(source["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # without it, a download is only resumed if its sha256 is known

    @property
    def sha256(self) -> str:
        """Of what is here."""
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Add the next bytes."""
        while chunk:
            written = self._file.write(chunk) or 0  # fewer than given if the disk is nearly full
            self._hash.update(chunk[:written])
            self.size += written
            chunk = chunk[written:]

    def restart(self, url: str = "", validator: str = "") -> None:
        """Discard what is here; the next bytes are the first of the response from `url`."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.resumed = False
        self.record_source(url, validator)

    def resume(self, url: str, validator: str) -> None:
        """Keep what is here; the next bytes are of the response from `url`."""
        self.resumed = True
        self.record_source(url, validator)

    def record_source(self, url: str, validator: str) -> None:
        """Write down which response the next bytes are of."""
        self.url, self.validator = url, validator
        write_whole(self._source, json.dumps({"url": url, "validator": validator}).encode())

    def finish(self) -> None:
        """Give the complete file its name."""
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(self.target)
        self._source.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what is here for the next call; if that is nothing, leave no file."""
        self._file.close()
        if self.path.exists() and not self.size:
            self.path.unlink()
            self._source.unlink(missing_ok=True)
