"""DATA_URL: where uploads, results and previews are stored."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mead.storage import Storage

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()=-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()=-]+)*")


def check_data_url(url: str) -> str:
    """The URL, if it names a folder or a place in a bucket.

    Raises:
        ValueError: if not, or if a package is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return url
    prefix = parts.path.strip("/")
    if (
        parts.scheme != "s3"
        or not _BUCKET.fullmatch(parts.netloc)
        or (prefix and not _PREFIX.fullmatch(prefix))
        or parts.query
        or parts.fragment
    ):
        raise ValueError(
            "must be s3://BUCKET/PREFIX (lower-case letters, digits, dots and dashes in BUCKET, no special "
            "characters in PREFIX) or file:///FOLDER"
        )
    if find_spec("obstore") is None:
        raise ValueError("s3:// needs the package obstore: pip install 'mead-backend[s3]'")
    return url


def open_storage(data_url: str | None, data_dir: Path) -> Storage:
    """The storage at a URL, or in the folder `data_dir` if it is None. Touches nothing yet.

    Args:
        data_dir: a bucket's uploads are copied to its folder `cache` when they are opened on this machine.
    """
    # Imported here, since the settings need only the check.
    from mead.bucket_storage import BucketStorage
    from mead.folder_storage import FolderStorage

    if data_url is None:
        return FolderStorage(data_dir)
    parts = urlsplit(data_url)
    if parts.scheme == "file":
        return FolderStorage(Path(unquote(parts.path)))
    return BucketStorage(parts.netloc, parts.path.strip("/"), data_dir / "cache")
