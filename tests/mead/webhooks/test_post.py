"""One POST to receivers of all kinds."""

from __future__ import annotations

import base64
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mead.cli.local_redis import free_port
from mead.receivers import AllowedReceivers
from mead.webhooks import post as module
from mead.webhooks.post import NotAllowedError, NotSentError, post
from tests.receiver import Receiver

ALL = AllowedReceivers("*")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.mark.parametrize("status", [200, 204, 404, 500])
def test_the_status_of_the_answer(receiver: Receiver, status: int) -> None:
    assert post(receiver.url(f"/{status}"), b"{}", {"X-A": "b"}, ALL, 10) == status
    last = receiver.received[-1]
    assert last.body == b"{}" and last.headers["x-a"] == "b" and last.headers["content-length"] == "2"


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    before = len(receiver.received)
    assert post(receiver.url("/redirect"), b"{}", {}, ALL, 10) == 307
    assert len(receiver.received) == before + 1


def test_user_and_query_of_the_url(receiver: Receiver) -> None:
    url = receiver.url("/hook?token=t").replace("//", "//me:p%40ss@", 1)
    assert post(url, b"{}", {}, ALL, 10) == 200
    last = receiver.received[-1]
    assert last.path == "/hook?token=t"
    assert last.headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert "me" not in last.headers["host"]


@pytest.mark.parametrize(
    ("path", "why"),
    [("/slow", "no answer within 0.5"), ("/drip", "no answer within 0.5"), ("/noise", "not HTTP")],
)
def test_receivers_that_do_not_answer(receiver: Receiver, path: str, why: str) -> None:
    began = time.monotonic()
    with pytest.raises(NotSentError, match=why):
        post(receiver.url(path), b"{}", {}, ALL, 0.5)
    assert time.monotonic() - began < 10


def test_no_more_than_the_head_of_an_answer_is_read(receiver: Receiver) -> None:
    assert post(receiver.url("/huge"), b"{}", {}, ALL, 10) == 200


def test_a_line_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"a" * 2 * module.LONGEST_HEAD)
                with suppress(ConnectionError):
                    connection.recv(1000)

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(NotSentError, match="not HTTP"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, ALL, 10)
        thread.join()


def test_an_interim_answer_is_not_the_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hint() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                for part in (
                    b"HTTP/1.1 103 Early Hints\r\nLink",
                    b": </a>\r\n\r\nHTTP/1.1 20",
                    b"2 Accepted\r\n\r\n",
                ):
                    connection.sendall(part)
                connection.recv(1000)

        thread = threading.Thread(target=hint)
        thread.start()
        assert post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, ALL, 10) == 202
        thread.join()


def test_nobody_there() -> None:
    with pytest.raises(NotSentError, match="cannot connect: Connection refused"):
        post(f"http://127.0.0.1:{free_port()}/?token=secret", b"{}", {}, ALL, 10)
    with pytest.raises(NotSentError, match="its name cannot be looked up"):
        post("http://nobody.invalid/", b"{}", {}, ALL, 10)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_the_address_that_is_connected_to_is_checked(receiver: Receiver, host: str) -> None:
    before = len(receiver.received)
    with pytest.raises(NotAllowedError):
        post(receiver.url().replace("127.0.0.1", host), b"{}", {}, AllowedReceivers(), 10)
    assert len(receiver.received) == before


def test_tls_with_a_certificate_that_nobody_knows(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    command += ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    server: list[str | Path] = [
        "openssl",
        "s_server",
        "-accept",
        str(port),
        "-key",
        key,
        "-cert",
        certificate,
        "-www",
        "-quiet",
    ]
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                with pytest.raises(NotSentError) as wrong:
                    post(f"https://127.0.0.1:{port}/", b"{}", {}, ALL, 10)
                if "refused" not in str(wrong.value) or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            assert "TLS: self" in str(wrong.value)
        finally:
            process.kill()
