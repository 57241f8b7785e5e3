"""Downloads from mirrors that fail in every way: what arrives is what should, or the error is clear."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mead.weights import disk
from mead.weights import download as downloads
from mead.weights.disk import DiskFullError
from mead.weights.download import RetryPolicy, download
from mead.weights.errors import DownloadError
from mead.weights.transfer import MirrorError
from tests.mirror import (
    Fault,
    File,
    Handler,
    Mirror,
    cut_at,
    gzipped,
    length_of,
    mirror,
    other_range,
    redirect_to,
    status,
)

CONTENT = random.Random(1).randbytes(1_000_000)
OTHER = random.Random(2).randbytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HURRIED = RetryPolicy(attempts=3, first_pause=0.001, timeout=20)


class Said:
    """Keeps what progress was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: list[tuple[int, int | None]] = []

    def show(self, name: str, done: int, total: int | None) -> None:
        self.shown.append((done, total))

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def server() -> Iterator[Mirror]:
    with mirror() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def fetch(
    target: Path, *urls: str, sha256: tuple[str, ...] = (SHA256,), retry: RetryPolicy = HURRIED
) -> tuple[Said, str]:
    """Download; gives what was said and the address that had the file."""
    said = Said()
    accepted: list[str] = []
    download(target, urls, sha256, said, lambda url, digest: accepted.append(url), retry)
    return said, accepted[0]


def only_whole(target: Path) -> None:
    """The file is there as it should be, and nothing else is."""
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("options", [{}, {"length": False}, {"etag": None}, {"ranges": False}])
def test_a_file(server: Mirror, target: Path, options: dict[str, object]) -> None:
    said, _ = fetch(target, server.add("/file", CONTENT, **options))
    only_whole(target)
    assert said.shown[-1][0] == len(CONTENT)
    assert said.lines == []


@pytest.mark.parametrize(
    "options",
    [{}, {"etag": None}, {"etag": None, "modified": "Mon, 01 Mar 2021 10:00:00 GMT"}, {"etag": 'W/"weak"'}],
)
def test_cut_off_again_and_again_it_is_resumed(
    server: Mirror, target: Path, options: dict[str, object]
) -> None:
    url = server.add(
        "/file", CONTENT, *(cut_at(byte) for byte in range(100_000, 900_000, 100_000)), **options
    )
    said, _ = fetch(target, url)
    only_whole(target)
    assert len(said.lines) == 8
    asked = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in server.files["/file"].asked]
    assert asked[0] == 0
    assert asked == sorted(asked) and asked[-1] > 700_000  # at most what was under way is asked for again


def test_a_later_call_goes_on_where_an_earlier_one_ended(server: Mirror, target: Path) -> None:
    url = server.add("/file", CONTENT, cut_at(600_000), *[status(503)] * 3)
    with pytest.raises(DownloadError) as caught:
        fetch(target, url)
    assert not target.exists()
    assert "0.6 MB of it are kept" in str(caught.value)
    assert "HTTP 503" in str(caught.value) and url in str(caught.value)
    fetch(target, url)
    only_whole(target)
    last = server.files["/file"].asked[-1]
    assert int(last["Range"][6:-1]) > 500_000 and last["If-Range"] == '"one"'


def test_what_was_resumed_is_in_the_checksum(server: Mirror, target: Path) -> None:
    """A byte of the first part changes on the disk between two calls: all of it is fetched anew."""
    url = server.add("/file", CONTENT, cut_at(600_000), *[status(503)] * 3)
    with pytest.raises(DownloadError):
        fetch(target, url)
    part = target.with_name("file.bin.part")
    content = bytearray(part.read_bytes())
    content[5] ^= 1
    part.write_bytes(content)
    said, _ = fetch(target, url)
    only_whole(target)
    assert "wrong checksum after resuming; starting over" in said.lines[-1]


@pytest.mark.parametrize("sha256", [(SHA256,), ()])
def test_a_file_that_changed_meanwhile_is_not_mixed(
    server: Mirror, target: Path, sha256: tuple[str, ...]
) -> None:
    url = server.add("/file", OTHER, cut_at(600_000), *[status(503)] * 3)
    with pytest.raises(DownloadError):
        fetch(target, url, sha256=sha256)
    server.add("/file", CONTENT, etag='"two"')
    fetch(target, url, sha256=sha256)
    only_whole(target)
    assert server.files["/file"].asked[0]["If-Range"] == '"one"'


def test_without_a_checksum_another_mirror_begins_anew(server: Mirror, target: Path) -> None:
    first = server.add("/first", OTHER, cut_at(600_000), *[status(404)] * 3)
    second = server.add("/second", CONTENT)
    _, url = fetch(target, first, second, sha256=())
    assert url == second
    only_whole(target)
    assert "Range" not in server.files["/second"].asked[0]


def test_with_a_checksum_another_mirror_goes_on(server: Mirror, target: Path) -> None:
    first = server.add("/first", CONTENT, cut_at(600_000), *[status(404)] * 3)
    second = server.add("/second", CONTENT, etag='"its own"')
    fetch(target, first, second)
    only_whole(target)
    assert int(server.files["/second"].asked[0]["Range"][6:-1]) > 500_000


def test_a_server_without_ranges_sends_all_of_it_again(server: Mirror, target: Path) -> None:
    fetch(target, server.add("/file", CONTENT, cut_at(600_000), ranges=False))
    only_whole(target)


@pytest.mark.parametrize("fault", [other_range, status(416), status(416, Content_Range="bytes */7")])
def test_an_answer_that_does_not_continue_the_part(server: Mirror, target: Path, fault: Fault) -> None:
    fetch(target, server.add("/file", CONTENT, cut_at(600_000), fault))
    only_whole(target)
    assert "Range" not in server.files["/file"].asked[-1]


def test_all_had_arrived_before(server: Mirror, target: Path) -> None:
    """The last call was ended between the last byte and the name."""
    url = server.add("/file", CONTENT)
    target.with_name("file.bin.part").write_bytes(CONTENT)
    fetch(target, url)
    only_whole(target)
    assert server.files["/file"].asked == []


def test_all_had_arrived_before_of_a_file_without_checksum(server: Mirror, target: Path) -> None:
    url = server.add("/file", CONTENT)
    target.with_name("file.bin.part").write_bytes(CONTENT)
    target.with_name("file.bin.part.json").write_text(f'{{"url": "{url}", "validator": "\\"one\\""}}')
    fetch(target, url, sha256=())
    only_whole(target)
    assert len(server.files["/file"].asked) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_the_next_mirror_is_asked_at_once(server: Mirror, target: Path, code: int) -> None:
    gone = server.add("/gone", CONTENT, status(code))
    said, url = fetch(target, gone, server.add("/file", CONTENT))
    assert url == server.url("/file")
    only_whole(target)
    assert len(server.files["/gone"].asked) == 1
    assert f"HTTP {code}" in said.lines[0]


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_mirror_is_asked_again(server: Mirror, target: Path, code: int) -> None:
    fetch(target, server.add("/file", CONTENT, status(code, Retry_After="0"), status(code)))
    only_whole(target)


def test_wrong_bytes_are_never_left(server: Mirror, target: Path) -> None:
    wrong = server.add("/wrong", OTHER)
    with pytest.raises(
        DownloadError, match=f"{re.escape(wrong)}: wrong checksum: sha256 .* instead of {SHA256}"
    ):
        fetch(target, wrong)
    assert list(target.parent.iterdir()) == []
    fetch(target, wrong, server.add("/file", CONTENT))
    only_whole(target)


def test_a_mirror_with_wrong_bytes_that_cuts_connections_is_left_too(server: Mirror, target: Path) -> None:
    faults = [cut_at(byte) for byte in range(100_000, 2_000_000, 300_000)]
    wrong = server.add("/wrong", OTHER, *faults, ranges=True)
    fetch(target, wrong, server.add("/file", CONTENT))
    only_whole(target)


def test_one_of_two_checksums_is_enough(server: Mirror, target: Path) -> None:
    fetch(target, server.add("/file", CONTENT), sha256=(hashlib.sha256(OTHER).hexdigest(), SHA256))
    only_whole(target)


def test_a_length_that_is_too_long_is_a_cut_off(server: Mirror, target: Path) -> None:
    fetch(target, server.add("/file", CONTENT, length_of(len(CONTENT) + 1000)))
    only_whole(target)


@pytest.mark.parametrize("size", [len(CONTENT) - 1000, 10, 0])
def test_a_length_that_is_too_short_is_a_wrong_file(server: Mirror, target: Path, size: int) -> None:
    liar = server.add("/liar", CONTENT, length_of(size))
    said, url = fetch(target, liar, server.add("/file", CONTENT))
    assert url == server.url("/file")
    only_whole(target)
    assert "wrong checksum" in said.lines[0]


def test_always_a_wrong_length_is_this_mirrors_end(server: Mirror, target: Path) -> None:
    liar = server.add("/liar", CONTENT, *[length_of(len(CONTENT) + 1000)] * 20, ranges=False)
    said, url = fetch(target, liar, server.add("/file", CONTENT), sha256=())
    assert url == server.url("/file")
    only_whole(target)
    assert any("the connection was closed early" in line for line in said.lines)


def test_redirects_are_followed_and_resumed(server: Mirror, target: Path) -> None:
    real = server.add("/real", CONTENT, cut_at(600_000))
    url = server.add("/file", b"", redirect_to(real), redirect_to("/real"))
    fetch(target, url)
    only_whole(target)
    assert int(server.files["/real"].asked[1]["Range"][6:-1]) > 500_000


def test_redirects_in_a_circle(server: Mirror, target: Path) -> None:
    url = server.add("/circle", b"", *[redirect_to("/circle")] * 40)
    with pytest.raises(DownloadError, match="30 redirects"):
        fetch(target, url)


def test_a_compressed_answer_is_refused(server: Mirror, target: Path) -> None:
    with pytest.raises(DownloadError, match="it sends the file compressed \\(gzip"):
        fetch(target, server.add("/file", CONTENT, gzipped))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://no-such-host.invalid/file", "Name or service not known|Temporary failure|nodename"),
        ("ftp://127.0.0.1/file", "No connection adapters"),
        ("http://", "Invalid URL"),
    ],
)
def test_an_address_that_leads_nowhere(target: Path, url: str, says: str) -> None:
    with pytest.raises(DownloadError, match=says) as caught:
        fetch(target, url)
    assert "HTTPS_PROXY" in str(caught.value) and str(target) in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_refused_connection(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="Connection refused"):
            fetch(target, f"http://127.0.0.1:{free.getsockname()[1]}/file")


def test_a_server_that_never_answers(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match="did not respond in time"):
            fetch(target, url, retry=RetryPolicy(attempts=2, first_pause=0.001, timeout=0.2))


def test_a_proxy_of_the_environment_is_used(
    server: Mirror, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for the whole address; ours serves it under that name."""
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.add("http://weights.example/file", CONTENT, cut_at(600_000))
    fetch(target, "http://weights.example/file")
    only_whole(target)


def test_a_dead_proxy_is_named(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="the proxy: Connection refused"):
        fetch(target, "http://weights.example/file")


def test_a_file_that_proves_to_be_another_is_sought_elsewhere(server: Mirror, target: Path) -> None:
    def accept(url: str, digest: str) -> None:
        if digest != SHA256:
            raise MirrorError("not the right file")

    page, real = server.add("/page", b"<html>quota exceeded</html>"), server.add("/file", CONTENT)
    download(target, [page, real], (), Said(), accept, HURRIED)
    only_whole(target)
    with pytest.raises(DownloadError, match="not the right file"):
        download(target.with_name("b"), [page], (), Said(), accept, HURRIED)
    only_whole(target)


def test_a_mirror_that_never_stops_is_left(
    server: Mirror, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SLACK", 0)
    endless = server.add("/endless", CONTENT * 3, length=False)
    huge = server.add("/huge", CONTENT, length_of(10**15))
    good = server.add("/file", CONTENT)
    said, accepted = Said(), []
    download(
        target, [endless, huge, good], [SHA256], said, lambda *of: accepted.append(of), HURRIED, len(CONTENT)
    )
    only_whole(target)
    assert accepted == [(good, SHA256)]
    assert "it sends more than the expected 2,000,000 bytes" in said.lines[0]
    assert "its file has 1,000,000,000,000,000 bytes; at most 2,000,000 are expected" in said.lines[1]


@pytest.mark.parametrize("number", ["9" * 5000, "\xb2", "-1", "1e3", ""])
def test_numbers_in_headers_that_are_none(server: Mirror, target: Path, number: str) -> None:
    ranged = f"bytes {number}-{number}/{number}"
    url = server.add(
        "/file",
        CONTENT,
        status(503, Retry_After=number),
        cut_at(500_000),
        status(206, Content_Range=ranged),
        length_of(number),
    )
    with contextlib.suppress(DownloadError):
        fetch(target, url)
        only_whole(target)
    assert len(server.files["/file"].asked) > 1


def test_too_little_disk_space_is_reported_before_anything_is_written(
    server: Mirror, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "RESERVE", 10**18)
    with pytest.raises(DiskFullError, match=r"needs .* of free disk space and has .*; free some space"):
        fetch(target, server.add("/file", CONTENT))
    assert not target.exists()


def test_a_disk_that_fills_up_loses_nothing(server: Mirror, target: Path) -> None:
    """The process may write files of 300,000 bytes only, which to it is as a full disk."""
    url = server.add("/file", CONTENT)
    script = f"""
import resource
from pathlib import Path
from mead.weights.disk import DiskFullError
from mead.weights.download import download
from tests.mead.weights.test_download import HURRIED, Said
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    download(Path({str(target)!r}), [{url!r}], [{SHA256!r}], Said(), lambda *_: None, HURRIED)
except DiskFullError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"the disk of {target.parent} is full" in done.stdout and "is kept" in done.stdout, done.stderr
    assert target.with_name("file.bin.part").read_bytes() == CONTENT[:300_000]
    fetch(target, url)
    only_whole(target)
    assert server.files["/file"].asked[-1]["Range"] == "bytes=300000-"


def page(form: str) -> Fault:
    """Answer with a web page, as Google Drive does for a file that it has not scanned for viruses."""

    def answer(handler: Handler, file: File) -> None:
        content = f"<!DOCTYPE html><html><body>{form}</body></html>".encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


CONFIRM = """<form id="download-form" action="{}" method="get">
<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="1a&amp;b">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="9-8"></form>
<form action="/search"><input type="hidden" name="q" value="x"></form>"""


def test_a_page_that_asks_for_confirmation_is_answered(server: Mirror, target: Path) -> None:
    server.add("/download?id=1a%26b&confirm=t&uuid=9-8", CONTENT, cut_at(300_000))
    url = server.add("/uc?id=1", b"", *[page(CONFIRM.format("/download"))] * 2)
    _, used = fetch(target, url)
    only_whole(target)
    assert used == url
    assert server.files["/download?id=1a%26b&confirm=t&uuid=9-8"].asked[1]["Range"].startswith("bytes=2")


@pytest.mark.parametrize(
    "form", ["<h1>Quota exceeded</h1>", CONFIRM.format("https://elsewhere.invalid/download")]
)
def test_another_page_is_not_the_file(server: Mirror, target: Path, form: str) -> None:
    url = server.add("/uc?id=1", b"", page(form))
    with pytest.raises(DownloadError, match="it sends a web page in place of the file"):
        fetch(target, url)
    assert not target.exists()


def test_a_page_again_ends_it(server: Mirror, target: Path) -> None:
    url = server.add("/uc", b"", page(CONFIRM.format("/again")))
    server.add("/again?id=1a%26b&confirm=t&uuid=9-8", b"", page(CONFIRM.format("/again")))
    with pytest.raises(DownloadError, match="asks for confirmation, and again"):
        fetch(target, url)
