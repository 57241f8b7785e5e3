"""One HTTP request that downloads a file, or the rest of one."""

from __future__ import annotations

import http.client
import re

import requests
from requests.exceptions import ChunkedEncodingError, ProxyError, SSLError

from mead.weights.confirmation import confirmed_url, is_page
from mead.weights.disk import require_space
from mead.weights.partial_file import PartialFile
from mead.weights.progress import Progress

CHUNK = 1 << 16
CHECK_EVERY = 64 << 20  # bytes between two checks of the free disk space
BUSY = {408, 425, 429, 500, 502, 503, 504}  # status codes that may pass


class MirrorError(Exception):
    """The mirror does not have the file."""


class TransferError(Exception):
    """The file did not arrive completely; the mirror may send more in another request.

    Attributes:
        retry_after: seconds to wait before it, if the mirror asks for that.
    """

    def __init__(self, message: str, retry_after: float = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def transfer(
    part: PartialFile, url: str, same_everywhere: bool, progress: Progress, timeout: float, limit: int
) -> None:
    """Make one request and append what it brings to `part`.

    Args:
        same_everywhere: whether all mirrors must have the very same file, so that what came from one can be
            continued from another.
        timeout: seconds to wait for the response, and for each part of it.
        limit: bytes the file may have.

    Raises:
        MirrorError: if the mirror does not have the file.
        TransferError: if there was no response, or it ended before the file did.
        DiskFullError: if there is no space for it.
    """
    headers = _request_headers(part, url, same_everywhere)
    try:
        with _opened(url, headers, timeout) as response:
            _refuse_plain_http(url, response)
            total = _prepare(part, url, response)
            _receive(part, response, total, limit, progress)
    except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
        if isinstance(error, SSLError):
            raise MirrorError(f"its certificate is not trusted: {_cause(error)}") from error
        raise TransferError(_cause(error)) from error
    except (requests.RequestException, ValueError) as error:  # an invalid URL or response
        raise MirrorError(str(error)) from error
    if total is not None and part.size < total:
        raise TransferError(f"the connection was closed after {part.size:,} of {total:,} bytes")


def _opened(url: str, headers: dict[str, str], timeout: float) -> requests.Response:
    """The response with the file, behind the page of a server that asks for confirmation first.

    Raises:
        MirrorError: if the server sends a page in place of the file.
    """
    response = requests.get(url, headers=headers, stream=True, timeout=timeout)
    if not is_page(response):
        return response
    with response:
        confirmed = confirmed_url(response)
    if confirmed is None:
        raise MirrorError("it sends a web page in place of the file")
    response = requests.get(confirmed, headers=headers, stream=True, timeout=timeout)
    if is_page(response):
        response.close()
        raise MirrorError("it asks for confirmation, and again when it was given")
    return response


def _request_headers(part: PartialFile, url: str, same_everywhere: bool) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "mead-backend"}
    validated = part.url == url and bool(part.validator)
    if part.size and (validated or same_everywhere):
        headers["Range"] = f"bytes={part.size}-"
        if validated:
            headers["If-Range"] = part.validator
    return headers


def _refuse_plain_http(url: str, response: requests.Response) -> None:
    for step in (*response.history, response):
        if url.startswith("https:") and not step.url.startswith("https:"):
            raise MirrorError(f"it redirects to an unencrypted address, {step.url}")


def _prepare(part: PartialFile, url: str, response: requests.Response) -> int | None:
    """Make `part` ready for the response's content; the size of the whole file, if the response says it."""
    status, headers = response.status_code, response.headers
    if status in BUSY:
        raise TransferError(f"HTTP {status} {response.reason}", _integer(headers.get("Retry-After", "")) or 0)
    if status == 416 and part.size:  # asked for bytes after the end
        if _content_range(response)[1] == part.size:
            return part.size
        part.restart()
        raise TransferError("the file on the server has changed")
    if status not in (200, 206):
        raise MirrorError(f"HTTP {status} {response.reason}")
    if headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise MirrorError(f"it sends the file compressed ({headers['Content-Encoding']})")
    if status == 200:
        part.restart(url, _validator(response))
        return _integer(headers.get("Content-Length", ""))
    first, total = _content_range(response)
    if first != part.size:
        part.restart()
        raise TransferError("it sent another range than requested")
    part.resume(url, _validator(response))
    return total


def _receive(
    part: PartialFile, response: requests.Response, total: int | None, limit: int, progress: Progress
) -> None:
    """Append the response's content to `part`."""
    if total is not None:
        if total > limit:
            raise MirrorError(f"its file has {total:,} bytes; at most {limit:,} are expected")
        limit = total
    require_space(part.target.parent, (total or part.size) - part.size)
    checked = part.size
    progress.show(part.target.name, part.size, total)
    for chunk in response.iter_content(CHUNK):
        if part.size + len(chunk) > limit:
            part.restart()
            raise MirrorError(f"it sends more than the expected {limit:,} bytes")
        part.append(chunk)
        progress.show(part.target.name, part.size, total)
        if part.size - checked > CHECK_EVERY:
            checked = part.size
            require_space(part.target.parent, 0)


def _validator(response: requests.Response) -> str:
    """What identifies the file's version in If-Range: a strong ETag or Last-Modified, else ""."""
    etag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """The first byte and the size of the whole file, as Content-Range says them."""
    content_range = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", content_range)
    if match is None:
        return None, None
    first, total = match.groups()
    return _integer(first or ""), _integer(total)


def _integer(text: str) -> int | None:
    """An integer in a header; None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _cause(error: BaseException) -> str:
    """The cause of an error of requests, in a few words."""
    prefix = "the proxy: " if isinstance(error, ProxyError) else ""
    if isinstance(error, requests.Timeout):
        return "the server did not respond in time"
    while (cause := _direct_cause(error)) is not None:
        error = cause
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed early"
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return prefix + (message or type(error).__name__)


def _direct_cause(error: BaseException) -> BaseException | None:
    """The error behind one of requests or urllib3, which keep it in different places."""
    in_arguments = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
    cause = getattr(error, "reason", None) or in_arguments or error.__cause__ or error.__context__
    return cause if isinstance(cause, BaseException) else None
