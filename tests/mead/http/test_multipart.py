"""Forms as clients of all kinds send them: understood, or refused by name, and never mangled."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from caching_config import Settings
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from tests.conftest import Service

MULTIPART = "multipart/form-data; boundary=XbX"
URLENCODED = "application/x-www-form-urlencoded"


def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    return file.getvalue()


def part(headers: str, value: str | bytes) -> bytes:
    """A part; `headers` begins with the parameters of its Content-Disposition."""
    content = value.encode() if isinstance(value, str) else value
    return b"Content-Disposition: form-data; " + headers.encode("latin-1") + b"\r\n\r\n" + content


def form(*parts: bytes, boundary: str = "XbX") -> bytes:
    line = b"--" + boundary.encode()
    return b"".join(line + b"\r\n" + one + b"\r\n" for one in parts) + line + b"--\r\n"


@pytest.fixture
def http(settings: Settings, jobs: Jobs) -> FlaskClient:
    """A client of the API whose worker is alive but never takes a job."""
    jobs.heartbeat("idle", [settings.queues[0], settings.queues[1]], 600)
    return create_app(settings).test_client()


Post = Callable[..., TestResponse]


@pytest.fixture
def post(http: FlaskClient) -> Post:
    """Posts a body to /latent_revision."""

    def send(body: bytes, content_type: str = MULTIPART, **headers: str) -> TestResponse:
        headers = {
            "Prefer": "respond-async",
            **{name.replace("_", "-"): one for name, one in headers.items()},
        }
        return http.post("/latent_revision", data=body, content_type=content_type, headers=headers)

    return send


@pytest.fixture
def prompt_of(post: Post, jobs: Jobs) -> Callable[..., str]:
    """The prompt that is stored of a body."""

    def stored(*body: Any) -> str:
        answer = post(*body)
        assert answer.status_code == 202, answer.text
        return str(jobs.get(answer.get_json()["id"]).parameters["prompt"])

    return stored


def refused(answer: TestResponse, field: str | None, status: int = 400) -> str:
    """The message of an error that names a field."""
    body = answer.get_json()
    assert (answer.status_code, body["field"]) == (status, field), answer.text
    return str(body["message"])


# Characters


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("utf-8", "grünes Häuschen 漢字 👩‍🎤"),
        ('"UTF-8"', "grünes Häuschen"),
        ("ISO-8859-1", "grünes Häuschen"),
        ("latin1", "grünes Häuschen"),
        ("windows-1252", "grünes “Häuschen”"),
        ("windows-1251", "красный дом"),
        ("koi8-u", "червоний дім"),
        ("Shift_JIS", "赤い家"),
        ("EUC-KR", "빨간 집"),
        ("gb18030", "红房子"),
        ("Big5", "紅房子"),
        ("utf-16", "grünes Häuschen"),
        ("us-ascii", "a house"),
    ],
)
def test_texts_in_any_encoding(prompt_of: Callable[..., str], charset: str, text: str) -> None:
    """Named by the part, by the form, by the field `_charset_`."""
    name = charset.strip('"')
    encoded = text.encode(name)
    typed = part(f'name="prompt"\r\nContent-Type: text/plain; charset={charset}', encoded)
    assert prompt_of(form(typed)) == text
    plain = part('name="prompt"', encoded)
    assert prompt_of(form(plain), f"{MULTIPART}; charset={charset}") == text
    for parts in ((part('name="_charset_"', name), plain), (plain, part('name="_charset_"', name))):
        assert prompt_of(form(*parts)) == text
    assert prompt_of(form(part('name="_charset_"', "koi8-r"), typed)) == text  # the part's own counts first


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1251", "shift_jis"])
def test_urlencoded_texts_in_any_encoding(prompt_of: Callable[..., str], charset: str) -> None:
    text = {"windows-1251": "красный дом", "shift_jis": "赤い 家"}.get(charset, "grünes Häuschen & + %")
    encoded = b"".join(b"+" if one == 32 else b"%%%02x" % one for one in text.encode(charset))
    assert prompt_of(b"prompt=" + encoded, f"{URLENCODED}; charset={charset}") == text
    assert prompt_of(b"prompt=%s&_charset_=%s" % (encoded, charset.encode()), URLENCODED) == text
    assert prompt_of(b"&&prompt=a+house&seed=", URLENCODED) == "a house"
    assert prompt_of("prompt=grünes Häuschen".encode(), URLENCODED) == "grünes Häuschen"


@pytest.mark.parametrize(
    ("charset", "value", "told"),
    [
        ("", "grün".encode("latin-1"), "prompt: is not valid utf-8"),
        ("", b"half \xf0\x9f\x98", "prompt: is not valid utf-8"),
        ("", b"a lone surrogate \xed\xb3\xbf", "prompt: is not valid utf-8"),
        ("us-ascii", "grün".encode(), "prompt: is not valid us-ascii"),
        ("shift_jis", b"\xff\xff", "prompt: is not valid shift_jis"),
        ("x-unheard-of", b"a house", "prompt: the charset 'x-unheard-of' is not supported"),
        *((name, b"a house", "prompt: the charset") for name in ("zip", "rot13", "utf-7", "unicode_escape")),
        *((name, b"a house", "prompt: the charset") for name in ("punycode", "idna", "undefined", "a/../b")),
    ],
)
def test_a_text_that_cannot_be_decoded_is_named(post: Post, charset: str, value: bytes, told: str) -> None:
    typed = f"\r\nContent-Type: text/plain; charset={charset}" if charset else ""
    assert refused(post(form(part(f'name="prompt"{typed}', value))), "prompt").startswith(told)
    urlencoded = b"prompt=" + b"".join(b"%%%02x" % one for one in value)
    sent_as = f"{URLENCODED}; charset={charset}" if charset else URLENCODED
    assert refused(post(urlencoded, sent_as), "prompt").startswith(told)


# Files


@pytest.mark.parametrize(
    "disposition",
    [
        'name="img"; filename="photo.png"',
        "name=img; filename=photo.png",
        "name=\"img\"; filename*=utf-8''%E6%BC%A2.png",
        "name=\"img\"; filename*=ISO-8859-1'de'H%E4uschen.png",
        "name=\"img\"; filename*=x-unheard-of''%E6.png",
        'name="img"; filename="h.png"; filename*=utf-8\'\'h%C3%A4uschen.png',  # .NET
        "filename*=utf-8''a.png; name=img",
        'name="img"; filename*0="a long"; filename*1=" name.png"',
        'name="img"; filename="H\xe4uschen.png"',  # Latin-1 as it is: curl on Windows
        'name="img"; filename="H\xc3\xa4uschen.png"',
        'name="img"; filename="=?utf-8?B?5ryi?="',
        'name="img"; filename="C:\\\\photos\\\\a.png"',
        'name="img"; filename="a\\"b%22.png"',
        'NAME="img" ;FileName="photo.png"',
        'name="img"; filename="photo.png"; size=3',
        'name="img"\r\nContent-Type: image/png',
    ],
)
def test_files_as_clients_name_them(post: Post, storage: FolderStorage, disposition: str) -> None:
    answer = post(form(part('name="prompt"', "teal"), part(disposition, photo())))
    assert answer.status_code == 202, answer.text
    assert storage.upload_path(answer.get_json()["id"], "img").exists()


def test_a_file_that_was_not_chosen_is_none(post: Post, storage: FolderStorage) -> None:
    nothing = part('name="img"; filename=""\r\nContent-Type: application/octet-stream', "")
    answer = post(form(part('name="prompt"', "teal"), nothing))
    assert answer.status_code == 202 and not list(storage.uploads.glob("*"))


# Other clients


CLIENTS = {
    "PHP Guzzle": form(
        part('name="prompt"\r\nContent-Length: 4', "teal"),
        part(
            f'name="img"; filename="a.png"\r\nContent-Length: {len(photo())}\r\nContent-Type: image/png',
            photo(),
        ),
    ),
    "Java, Apache HttpClient": form(
        part(
            'name="prompt"\r\nContent-Type: text/plain; charset=US-ASCII\r\nContent-Transfer-Encoding: 8bit',
            "teal",
        ),
        part(
            'name="img"; filename="a.png"\r\nContent-Type: application/octet-stream\r\n'
            "Content-Transfer-Encoding: binary",
            photo(),
        ),
    ),
    ".NET": form(
        b"Content-Type: text/plain; charset=utf-8\r\n" + part("name=prompt", "teal"),
        b"Content-Type: image/png\r\n" + part("name=img; filename=a.png; filename*=utf-8''a.png", photo()),
    ),
    "Dart, undici": form(
        b'content-disposition: form-data; name="prompt"\r\n\r\nteal',
        b'content-type: image/png\r\ncontent-disposition: form-data; name="img"; filename="a.png"\r\n\r\n'
        + photo(),
    ),
    "with a preamble and an epilogue": b"a preamble\r\n"
    + form(part('name="prompt"', "teal"))
    + b"an epilogue",
}


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "content_type",
    [MULTIPART, 'Multipart/Form-Data; Boundary="XbX"', 'multipart/form-data;boundary="XbX"; a=b'],
)
def test_forms_of_other_clients(prompt_of: Callable[..., str], kind: str, content_type: str) -> None:
    assert prompt_of(CLIENTS[kind], content_type) == "teal"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("options", [["-F", "id=none"], ["-d", "id=none"], ["--data-urlencode", "id=none"]])
def test_curl(waiting_room: Service, options: list[str]) -> None:
    for more in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]):
        command = ["curl", "-sS", *options, *more, f"{waiting_room.url}/check"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(answer.stdout)["message"] == "id: there is no job none"


# What is no form


@pytest.mark.parametrize("route", ["/latent_revision", "/styleclip", "/check"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"prompt": "teal"}'),
        ("application/json; charset=utf-8", b""),
        ("text/plain", b"prompt=teal"),
        ("multipart/mixed; boundary=XbX", form(part('name="prompt"', "teal"))),
        ("application/octet-stream", photo()),
        (None, b"prompt=teal"),
    ],
)
def test_what_is_no_form(http: FlaskClient, route: str, content_type: str | None, body: bytes) -> None:
    answer = http.post(route, data=body, content_type=content_type)
    message = refused(answer, None, 415)
    assert "multipart/form-data" in message and "curl -F" in message


def test_what_is_packed(post: Post) -> None:
    body = form(part('name="prompt"', "teal"))
    assert "gzip" in refused(post(body, Content_Encoding="gzip"), "Content-Encoding", 415)
    assert post(body, Content_Encoding="identity").status_code == 202
    for encoding in ("base64", "quoted-printable"):
        packed = form(part(f'name="prompt"\r\nContent-Transfer-Encoding: {encoding}', "dGVhbA=="))
        assert "Content-Transfer-Encoding" in refused(post(packed), "prompt")


@pytest.mark.parametrize("content_type", ["multipart/form-data", 'multipart/form-data; boundary=""'])
def test_a_form_without_its_boundary(post: Post, content_type: str) -> None:
    assert "boundary" in refused(post(form(part('name="prompt"', "teal")), content_type), None)


def test_a_part_without_a_name(post: Post) -> None:
    assert "no name" in refused(post(form(part('filename="a.png"', photo()))), None)


def test_too_many_fields(post: Post) -> None:
    fields = b"&".join(b"f%d=" % n for n in range(1100))
    assert refused(post(fields, URLENCODED), None, 413)
    assert refused(post(b"prompt=" + b"a" * 600_000, URLENCODED), None, 413)


# Over the wire


def raw(url: str, head: str, body: bytes = b"") -> tuple[int, str]:
    """The status and the body of what is answered to a request as it is."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    top, _, content = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ")[1]), content.decode()


BAD_CHUNKS = [
    b"ZZ\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5;\x01\r\nhello\r\n0\r\n\r\n",
    b"7\r\nid=none\r\n0\r\nno trailer\r\n\r\n",
    b"fffffffffffffffff\r\nhello",
    b"7\r\nid=n",
]


@pytest.mark.parametrize("chunks", BAD_CHUNKS)
def test_malformed_chunks(waiting_room: Service, chunks: bytes) -> None:
    head = f"POST /check HTTP/1.1\r\nContent-Type: {URLENCODED}\r\nTransfer-Encoding: chunked"
    status, body = raw(waiting_room.url, head, chunks)
    assert status == 400 and re.search("chunk|incomplete", json.loads(body)["message"])


@pytest.mark.slow
def test_malformed_chunks_without_a_queue(door: Callable[[str, Path], str], tmp_path: Path) -> None:
    url = door("app.py", tmp_path)
    head = f"POST /styleclip HTTP/1.1\r\nContent-Type: {MULTIPART}\r\nTransfer-Encoding: chunked"
    for chunks in BAD_CHUNKS[:3]:
        status, body = raw(url, head, chunks)
        assert status == 400 and "malformed or incomplete" in json.loads(body)["message"]


@pytest.mark.parametrize(
    "header", ["SCRIPT_NAME: /x", "SCRIPT_NAME: /index", "Script-Name: /x", "script_name: x"]
)
def test_a_script_name_is_not_the_clients_to_give(waiting_room: Service, header: str) -> None:
    """gunicorn would take it for a proxy's."""
    status, body = raw(waiting_room.url, f"GET /index HTTP/1.1\r\n{header}")
    assert status == 400 and "SCRIPT_NAME" in body
