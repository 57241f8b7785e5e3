"""Requests as they come in: where they end, whatever the pieces."""

from __future__ import annotations

import pytest

from mead.http.errors import ApiError
from mead.http.incoming import IN_MEMORY, MAX_HEAD, BufferedUnreader, ByteBudget, IncomingRequest

LONGEST = 10**6
HEAD = b"POST /latent_revision?a=b HTTP/1.1\r\nHost: here\r\n"
REQUESTS = {
    "no body": b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n",
    "no headers": b"GET / HTTP/1.0\r\n\r\n",
    "an empty line before": b"\r\nGET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "length": HEAD + b"content-LENGTH:  5 \r\n\r\nhello",
    "length 0": HEAD + b"Content-Length: 0\r\n\r\n",
    "end of headers in the body": HEAD + b"Content-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n",
    "chunks": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA \r\n0\r\n\r\n12345\r\n0\r\nX: y\r\n\r\n",
    "no chunk": HEAD + b"Transfer-Encoding: gzip, Chunked\r\n\r\n000\r\n\r\n",
}


def taken(whole: bytes, size: int) -> tuple[IncomingRequest, int]:
    """The request once it is whole, and how many bytes of `whole` it took, in pieces of `size`."""
    request = IncomingRequest(LONGEST)
    for at in range(0, len(whole), size):
        request.feed(whole[at : at + size])
        if request.ready:
            return request, at + size
    raise AssertionError("it has no end")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize("name", REQUESTS)
def test_the_end_is_found_whatever_the_pieces(name: str, size: int) -> None:
    whole = REQUESTS[name]
    request, took = taken(whole, size)
    assert took >= len(whole) > took - size and not request.truncated
    assert request.source().read() == whole


def test_what_comes_behind_belongs_to_the_next_request() -> None:
    request, _ = taken(REQUESTS["length"] + REQUESTS["no body"], 10**6)
    reader = BufferedUnreader(request)
    assert reader.read(len(REQUESTS["length"])) == REQUESTS["length"]
    assert reader.rest() == REQUESTS["no body"] and not reader.exhausted


def test_the_parser_meets_the_end() -> None:
    request, _ = taken(REQUESTS["length"], 10)
    reader = BufferedUnreader(request)
    assert reader.read(10**6) == REQUESTS["length"] and reader.exhausted
    assert reader.read() == b"" and reader.rest() == b""


def test_path_and_expectation() -> None:
    request, _ = taken(REQUESTS["length"], 5)
    assert request.path == b"/latent_revision" and not request.expects_continue
    for version, expects in ((b"1.1", True), (b"1.0", False)):
        request = IncomingRequest(LONGEST)
        request.feed(
            b"POST /x HTTP/%s\r\nHost: b\r\nexpect: 100-Continue\r\nContent-Length: 5\r\n\r\n" % version
        )
        assert request.has_head and not request.ready and request.expects_continue is expects


def test_a_long_body_is_in_a_file() -> None:
    body = b"x" * (2 * IN_MEMORY)
    request, _ = taken(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, 60_000)
    source = request.source()
    assert source.fileno() and source.read().endswith(b"\r\n\r\n" + body)
    request.close()
    assert source.closed
    request.close()


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 1000001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nF4241\r\n" + b"x" * 1_000_001],
)
def test_too_long_a_body_is_not_waited_for(body: bytes) -> None:
    request, _ = taken(HEAD + body + b"more", 10_000)
    assert request.truncated


def test_a_bare_newline_is_for_the_parser_to_refuse() -> None:
    request, _ = taken(b"GET / HTTP/1.1\nHost: here\n\n", 1)
    assert request.truncated


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (b"GET /" + b"a" * MAX_HEAD, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEAD, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 9000, 400),
    ],
)
@pytest.mark.parametrize("size", [1, 10**6])
def test_what_is_refused(what: bytes, status: int, size: int) -> None:
    with pytest.raises(ApiError) as refused:
        taken(what, size)
    assert refused.value.status == status


def test_a_budget_is_shared() -> None:
    budget = ByteBudget(10)
    assert budget.take(6) and not budget.take(5) and budget.take(4)
    budget.give_back(6)
    assert budget.take(6) and not budget.take(1)


@pytest.mark.parametrize("headers", [b"", b"X: Host: here\r\n", b"Host: here\r\nhost: there\r\n"])
def test_a_request_of_http_1_1_has_one_host(headers: bytes) -> None:
    with pytest.raises(ApiError, match="must have one header Host") as refused:
        IncomingRequest(LONGEST).feed(b"GET /healthz HTTP/1.1\r\n" + headers + b"\r\n")
    assert refused.value.status == 400
