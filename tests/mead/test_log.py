"""What the log says of a job from its request to its end, and what it never says."""

from __future__ import annotations

import io
import json
import logging
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
import requests
from flask import Flask, Response
from PIL import Image
from pydantic import SecretStr

from caching_config import Settings
from mead.http.request_log import REQUEST_ID, init_request_log
from mead.log import LogFormatter, reason, request_id

ROOT = Path(__file__).parents[2]
KEY, PASSWORD = "the-key-of-anna", "pa:ss/word"
LIMIT = 240  # seconds; no test depends on how long anything takes


@pytest.fixture
def secretive(tmp_path: Path) -> Settings:
    """Settings with secrets in them."""
    return Settings(
        redis_url="redis://:pa%3Ass%2Fword@127.0.0.1:6379/0",
        api_keys=(SecretStr(KEY),),
        data_dir=tmp_path,
    )


def line(settings: Settings, message: str, error: BaseException | None = None, **extra: Any) -> str:
    """What is written of an event."""
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.getLogger("mead.test").makeRecord(
        "mead.test", logging.WARNING, __file__, 1, message, (), info, "test", extra
    )
    return LogFormatter(settings).format(record)


def raised(error: Exception) -> Exception:
    """An error that has been raised."""
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_line_is_one_json_object() -> None:
    written = line(Settings(), "several\nlines ✓", job="8d3f", steps=3)
    assert "\n" not in written
    event = json.loads(written)
    assert (event["event"], event["job"], event["steps"]) == ("several\nlines ✓", "8d3f", 3)
    assert (event["level"], event["logger"]) == ("warning", "mead.test")
    assert event["time"].endswith("+00:00") and "T" in event["time"]
    assert "request" not in event


def test_a_line_names_the_request_it_belongs_to() -> None:
    token = request_id.set("abc")
    try:
        assert json.loads(line(Settings(), "accepted"))["request"] == "abc"
    finally:
        request_id.reset(token)


def test_an_error_is_told_without_its_trace() -> None:
    event = json.loads(line(Settings(), "ended", raised(ValueError("no such colour")), job="8d3f"))
    assert event["error"] == "ValueError: no such colour" and "raised" in event["at"]
    assert "Traceback" not in json.dumps(event)
    debugged = json.loads(line(Settings(debug=True), "ended", raised(ValueError("no such colour"))))
    assert "Traceback" in debugged["trace"]


def test_no_line_holds_a_secret(secretive: Settings) -> None:
    message = f"{secretive.redis_url} with {KEY}"
    for settings in (secretive, secretive.model_copy(update={"log_json": False, "debug": True})):
        written = line(settings, message, raised(RuntimeError(message)), key=KEY, url=secretive.redis_url)
        assert KEY not in written and "pa%3A" not in written and PASSWORD not in written
        assert "redis://:***@127.0.0.1:6379/0 with ***" in written


@pytest.mark.parametrize("log_json", [True, False])
@pytest.mark.parametrize(
    "key", ['quo"ted-key', "back\\slash\\key", "apo'stro\"phe'key", "per%cent+&key", "a<b>{c}/d?e#f"]
)
def test_a_key_is_hidden_however_it_is_quoted(key: str, log_json: bool) -> None:
    settings = Settings(api_keys=(SecretStr(key),), log_json=log_json)
    spelled = [key, repr(key), json.dumps(key), json.dumps({"k": key}), quote(key, safe=""), quote_plus(key)]
    spelled += [quote(key).lower() if key.islower() else key, repr(key.encode()), json.dumps(f"?key={key}&")]
    written = line(
        settings,
        " ".join(spelled),
        raised(ValueError(key)),
        url=f"/?k={quote(key)}",
        headers={"X-API-Key": key, key: [key, (key,)]},
        sent=key.encode(),
    )
    for secret in (key, *(one.strip("'\"b") for one in spelled)):
        assert secret not in written and json.dumps(secret)[1:-1] not in written


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr%22et%20w%C3%B6rd@host:6379/0",
        "rediss://ann:s3cr%22et%20w%C3%B6rd@host:6379/0?ssl_cert_reqs=none",
        "redis://host:6379/0?password=s3cr%22et+w%C3%B6rd&db=1",
        "unix:///run/redis.sock?db=1&password=s3cr%22et%20w%C3%B6rd",
        "unix://ann:s3cr%22et%20w%C3%B6rd@/run/redis.sock",
        "rediss://host:6379/0?ssl_password=s3cr%22et%20w%C3%B6rd",
    ],
)
def test_every_password_in_redis_url_is_hidden(url: str) -> None:
    """The URL itself, what redis-py reads in it, and what others may have made of either."""
    word = 's3cr"et wörd'
    for settings in (Settings(redis_url=url), Settings(redis_url=url, log_json=False)):
        written = line(settings, f"{url} {word} {word!r} {json.dumps(word)}", raised(ValueError(url)), at=url)
        assert "s3cr" not in written
        assert "host:6379" in written or "/run/redis.sock" in written


def test_a_short_password_is_hidden_in_addresses_alone() -> None:
    settings = Settings(redis_url="redis://:1@host:6379/1?password=1")
    written = line(settings, "step 1 of redis://:1@host:6379/1?password=1")
    assert "step 1 of redis://:***@host:6379/1?password=***" in written


def test_no_line_holds_a_folder_of_this_machine(secretive: Settings) -> None:
    upload = secretive.data_dir / "uploads" / "8d3f-img.png"
    written = line(secretive, f"cannot read {upload}", raised(FileNotFoundError(2, "gone", str(upload))))
    assert str(secretive.data_dir) not in written and "DATA_DIR/uploads/8d3f-img.png" in written
    assert sys.prefix not in line(secretive, sys.executable)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("w0: out of range"), "ValueError: w0: out of range"),
        (
            FileNotFoundError(2, "No such file or directory", "/srv/var/a.png"),
            "FileNotFoundError: No such file",
        ),
        (RuntimeError("cannot open '/srv/var/a.png' now"), "RuntimeError: cannot open 'a.png' now"),
        (RuntimeError("see https://example.org/a/b and 1/2"), "see https://example.org/a/b and 1/2"),
        (RuntimeError("out of memory\n  at /srv/a.py"), "RuntimeError: out of memory"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_reason_anybody_may_hear(error: Exception, told: str) -> None:
    assert told in reason(error) and "/srv" not in reason(error)


def test_what_ends_a_process_or_a_thread_is_one_line() -> None:
    code = (
        "import threading; from caching_config import Settings; from mead.log import set_up\n"
        "set_up(Settings())\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "raise RuntimeError('the end')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    first, second = map(json.loads, ended.stderr.splitlines())
    assert first["error"].startswith("ZeroDivisionError") and first["event"] == "crashed"
    assert (second["error"], second["level"]) == ("RuntimeError: the end", "critical")


def test_a_strangers_damaged_picture_is_no_line() -> None:
    """Pillow has much to say of one; a file could fill the log."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "TIFF")
    tiff = file.getvalue()
    samples = tiff.replace(struct.pack("<HHLH", 277, 3, 1, 3), struct.pack("<HHLH", 277, 3, 1, 259))
    swollen = tiff.replace(struct.pack("<HHL", 258, 3, 3), struct.pack("<HHL", 258, 3, 3_000_000))
    file = io.BytesIO()
    signalling = np.frombuffer(struct.pack("<4I", *[0x7FA00000] * 4), np.float32)
    Image.fromarray(signalling.reshape(2, 2)).save(file, "TIFF")
    assert samples != tiff != swollen
    code = (
        "import io, sys; from caching_config import Settings; from mead.log import set_up\n"
        "from mead.imaging.pictures import PictureError, read_picture\n"
        "set_up(Settings())\n"
        "try: print(read_picture(io.BytesIO(bytes.fromhex(sys.argv[1])), 'img').size)\n"
        "except PictureError: print('refused')\n"
    )
    for content, said in ((samples, "refused"), (swollen, "refused"), (file.getvalue(), "refused")):
        read = subprocess.run(
            [sys.executable, "-c", code, content.hex()], cwd=ROOT, capture_output=True, text=True
        )
        assert read.stdout.strip() == said and not read.stderr


def test_plain_lines_are_for_people() -> None:
    written = line(Settings(log_json=False), "started", job="8d3f", worker="w1")
    assert written.endswith("mead.test: started job=8d3f worker=w1") and " warning " in written


# Requests


def test_a_request_has_an_id(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    init_request_log(app)

    @app.get("/jobs/<job_id>")
    def job(job_id: str) -> Response:
        return Response(request_id.get())

    client = app.test_client()
    with caplog.at_level(logging.INFO, "mead.http.request_log"):
        first, second = client.get("/jobs/a"), client.get("/jobs/b")
        given = client.get("/jobs/c", headers={REQUEST_ID: "trace-1.2:3"})
        forged = client.get("/jobs/d", headers={REQUEST_ID: 'x" , "level'})
    assert len({answer.headers[REQUEST_ID] for answer in (first, second, given, forged)}) == 4
    assert given.text == given.headers[REQUEST_ID] == "trace-1.2:3"
    assert '"' not in forged.headers[REQUEST_ID]
    assert [vars(record)["job"] for record in caplog.records] == list("abcd")
    assert vars(caplog.records[0])["status"] == 200
    assert request_id.get() is None


# The whole service


def events_of(log: Path, job_id: str | None = None) -> list[dict[str, Any]]:
    """The lines of a process's log, each of which is one JSON object; of one job, if one is named."""
    whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
    events = [json.loads(written) for written in whole.splitlines()]
    return [event for event in events if job_id in (None, event.get("job"))]


@pytest.mark.slow
def test_a_jobs_story_is_found_by_its_id(service: Any) -> None:
    headers = {REQUEST_ID: "my-request"}
    form = {"prompt": "a red house", "iterations": "2"}
    answer = requests.post(service.url + "/latent_revision", data=form, headers=headers, timeout=LIMIT)
    assert answer.status_code == 200 and answer.headers[REQUEST_ID] == "my-request"
    job_id = answer.json()["id"]

    asked = events_of(service.folder / "caching.log", job_id)
    assert [event["event"] for event in asked] == ["job accepted", "answered"]
    assert {event["request"] for event in asked} == {"my-request"}
    deadline = time.monotonic() + LIMIT  # the client may have its answer before the worker writes of it
    while len(worked := events_of(service.folder / "inference.log", job_id)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [event["event"] for event in worked] == ["job started", "job succeeded"]
    assert all(event["worker"] for event in worked)

    requests.post(service.url + "/latent_revision", data={**form, "w0": "1e9"}, timeout=LIMIT)
    assert any(event.get("status") == 422 for event in events_of(service.folder / "caching.log"))


def test_every_line_of_every_process_is_json(service: Any) -> None:
    assert requests.get(service.url + "/index", timeout=LIMIT).status_code == 200
    for name in ("caching.log", "inference.log"):
        events = events_of(service.folder / name)
        assert events, name
        assert all(event["time"] and event["level"] and event["event"] for event in events)
    loggers = {event["logger"] for event in events_of(service.folder / "caching.log")}
    assert "gunicorn.error" in loggers
