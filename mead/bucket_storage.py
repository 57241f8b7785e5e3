"""Storage in an object store that speaks S3, with the package obstore.

Where the store is and how to sign in is read from the environment (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...) or from the machine's role, as obstore documents it.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mead.folder_storage import FolderStorage
from mead.queue.job import JobOutcome
from mead.storage import Entry, Storage, StorageUnavailableError

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import S3Store

log = logging.getLogger(__name__)

PAGE = 1000  # objects per listing; the most that S3 gives
CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 10.0
RETRY_SECONDS = 5.0  # since the first attempt, after which a failed request is not sent again
RETRIES = 3
KNOWN_UP_SECONDS = 2.0  # that a store which has answered is assumed to be up
MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp"}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class BucketStorage(Storage):
    """Uploads, results and previews as objects below a prefix of a bucket.

    A PUT is atomic, so an object is whole or not there. Requests that fail are repeated a few times within
    seconds; then they raise StorageUnavailableError. Uploads that are opened on this machine are copied to a
    folder first, and stay there as long as in the bucket.

    The client is created on first use; it starts threads, so a process that has used it must not fork.

    Args:
        bucket: the bucket's name; it must exist.
        prefix: the beginning of all keys, without slashes at the ends; "" for none.
        cache: the folder for copies; may be shared by all servers of the machine.
        timeout: seconds that one request may take.
    """

    setting = "DATA_URL"

    def __init__(self, bucket: str, prefix: str, cache: Path, timeout: float = REQUEST_SECONDS) -> None:
        super().__init__(Path())
        self.bucket = bucket
        self.prefix = prefix
        self.cache = FolderStorage(cache)
        self.timeout = timeout
        self._up_until = float("-inf")  # time.monotonic

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _store(self) -> S3Store:
        from obstore.store import S3Store  # an optional package

        insecure = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
        return S3Store(
            self.bucket,
            prefix=self.prefix or None,
            client_options={
                "allow_http": insecure,
                "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, self.timeout)),
                "timeout": timedelta(seconds=self.timeout),
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=min(RETRY_SECONDS, self.timeout)),
                "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1)},
            },
        )

    def write(self, content: bytes | bytearray, path: Path) -> int:
        """Write an object; returns its size."""
        kind = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
        with _translated(), _bucket_exists():
            self._store.put(path.as_posix(), content, attributes={"Content-Type": kind}, use_multipart=False)
        return len(content)

    def read(self, path: Path) -> bytes:
        """Read an object."""
        with _translated():
            return bytes(self._store.get(path.as_posix()).bytes())

    def local(self, path: Path) -> Path:
        """A copy of the object on this machine."""
        copy = self.cache.root / path
        try:
            return self.cache.local(copy)
        except FileNotFoundError:
            self.cache.write(self.read(path), copy)
            return copy

    def link(self, path: Path, valid: timedelta) -> str:
        """A presigned URL of the object. It is not checked whether there is one."""
        from obstore import sign

        with _translated():
            return sign(self._store, "GET", path.as_posix(), valid)

    def remove(self, paths: Sequence[Path]) -> int:
        """Remove objects and their copies (DeleteObjects); returns how many, 0 if the request has failed."""
        self.cache.remove([self.cache.root / path for path in paths if path.parent == self.uploads])
        if not paths:
            return 0
        try:
            with _translated():
                self._store.delete([path.as_posix() for path in paths])
        except FileNotFoundError:
            return 0
        except OSError as error:
            log.warning(
                "files cannot be removed", extra={"files": len(paths), "error": str(error.__cause__ or error)}
            )
            return 0
        return len(paths)

    def entries(self, folder: Path) -> Iterator[Entry]:
        """The objects whose keys begin with the folder and have no further slash (ListObjectsV2)."""
        with _translated():
            for page in self._store.list(folder.as_posix(), chunk_size=PAGE):
                for found in page:
                    path = Path(found["path"])
                    if path.parent == folder:
                        yield Entry(path, found["last_modified"].timestamp())

    def age(self, entry: Entry) -> float:
        """Seconds since the object was written, by the store's clock then and ours now."""
        return time.time() - (entry.modified or 0.0)

    def sweep(
        self,
        outcomes: Callable[[Sequence[str]], Mapping[str, JobOutcome]],
        unclaimed: float,
        kept: float,
        latents: float = 0.0,
    ) -> int:
        """Remove objects and copies that no job needs; see `Storage.sweep`."""
        seconds = (unclaimed, kept, latents)
        return super().sweep(outcomes, *seconds) + self.cache.sweep(outcomes, *seconds)

    def read_id(self) -> str | None:
        """The prefix's id; None if it has none yet."""
        try:
            return self.read(self.marker).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None

    def write_id(self, folder_id: str) -> None:
        """Give the prefix an id unless it has one (PUT with If-None-Match)."""
        from obstore.exceptions import AlreadyExistsError

        with _translated(), _bucket_exists(), suppress(AlreadyExistsError):  # another server was faster
            self._store.put(self.marker.as_posix(), f"{folder_id}\n".encode("ascii"), mode="create")

    def touch_id(self) -> None:
        """Mark the prefix as in use now: write its id again, unless it has changed (PUT with If-Match)."""
        from obstore.exceptions import PreconditionError

        with _translated():
            found = self._store.get(self.marker.as_posix())
            with suppress(PreconditionError):  # another server was faster
                unchanged: UpdateVersion = {"e_tag": found.meta["e_tag"]}
                self._store.put(self.marker.as_posix(), bytes(found.bytes()), mode=unchanged)

    def held_at(self) -> float:
        """When the prefix was last marked as in use, by the store's clock; seconds since 1970."""
        with _translated():
            modified: float = self._store.head(self.marker.as_posix())["last_modified"].timestamp()
            return modified

    def check(self) -> None:
        """Write and remove a small object in the folder of results."""
        probe = self.results / f".probe.{secrets.token_hex(4)}"
        self.write(b"\0", probe)
        self.remove([probe])

    def free_bytes(self) -> None:
        """None, once the store has answered: it has no limit.

        Raises:
            StorageUnavailableError: it does not answer.
        """
        if time.monotonic() < self._up_until:
            return
        with suppress(FileNotFoundError):
            self.held_at()
        self._up_until = time.monotonic() + KNOWN_UP_SECONDS


@contextmanager
def _translated() -> Iterator[None]:
    """Raise StorageUnavailableError for the errors of the store, whose details only the log should show."""
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        InvalidPathError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StorageUnavailableError("the object store refuses access") from error
    except InvalidPathError as error:  # of somebody else's object; see docs/operating.md
        raise StorageUnavailableError("the bucket holds an object whose key cannot be read") from error
    except BaseError as error:
        raise StorageUnavailableError("the object store does not answer") from error


@contextmanager
def _bucket_exists() -> Iterator[None]:
    """Nothing but the bucket can be missing when an object is written."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageUnavailableError("the bucket does not exist") from error
