"""Who may come in, what they may see, and what browsers are told."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from playwright.sync_api import Browser
from pydantic import SecretStr
from werkzeug.test import TestResponse

import app as app_without_queue
from caching_config import Settings
from mead.cli.local_redis import free_port
from mead.http import anonymous
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from tests.conftest import Process, answers

ROOT = Path(anonymous.__file__).parents[2]
ANNA, BEN = "the-key-of-anna", "the-key-of-ben"
PAGE = "https://pictures.example"
ASYNC = {"Prefer": "respond-async"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


@pytest.fixture
def client_with(settings: Settings) -> Callable[..., FlaskClient]:
    """Makes a client of an API with more settings."""

    def make(**more: Any) -> FlaskClient:
        return create_app(settings.model_copy(update=more)).test_client()

    return make


@pytest.fixture
def locked(client_with: Callable[..., FlaskClient]) -> FlaskClient:
    """A client of an API that knows two keys."""
    return client_with(api_keys=(SecretStr(ANNA), SecretStr(BEN)))


@pytest.fixture
def worker(jobs: Jobs, settings: Settings) -> Iterator[str]:
    """A worker that lives, and takes no job on its own."""
    queues = [settings.queues[0], settings.queues[1]]
    jobs.heartbeat("worker", queues, 600)
    yield "worker"
    jobs.deregister("worker", queues)


# Keys


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": ANNA}, {"Authorization": f"Bearer {BEN}"}, {"Authorization": f"bearer  {ANNA} "}],
)
def test_a_key_opens(locked: FlaskClient, headers: dict[str, str]) -> None:
    assert locked.get("/jobs/none", headers=headers).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "another-key"},
        {"X-API-Key": ""},
        {"X-API-Key": ANNA[:-1]},
        {"X-API-Key": ANNA + "a"},
        {"X-API-Key": f"{ANNA},{BEN}"},
        {"Authorization": ANNA},
        {"Authorization": f"Basic {ANNA}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "ключ от двери"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/none"),
        ("POST", "/latent_revision"),
        ("POST", "/check"),
        ("GET", "/metrics"),
        ("GET", "/none"),
    ],
)
def test_no_key_no_entry(locked: FlaskClient, headers: dict[str, str], method: str, path: str) -> None:
    answer = locked.open(path, method=method, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    body = answer.get_json()
    assert body["status"] == "error" and "X-API-Key" in body["message"]
    assert ANNA[:-1] not in answer.text and BEN not in answer.text


@pytest.mark.parametrize("path", ["/index", "/healthz", "/readyz", "/openapi.json", "/docs"])
def test_these_answer_without_a_key(locked: FlaskClient, path: str) -> None:
    assert locked.get(path).status_code not in (401, 403)


def test_without_keys_nothing_is_asked_for(client_with: Callable[..., FlaskClient]) -> None:
    assert client_with().get("/jobs/none").status_code == 404


def test_a_job_is_its_makers_alone(locked: FlaskClient, jobs: Jobs, worker: str) -> None:
    anna, ben = {"X-API-Key": ANNA}, {"X-API-Key": BEN}
    made = locked.post("/latent_revision", data={"prompt": "a house"}, headers={**anna, **ASYNC})
    assert made.status_code == 202
    job_id = made.get_json()["id"]
    record = jobs.get(job_id)
    assert record.owner and ANNA not in str(record.model_dump())
    for method, path in (
        ("GET", "/jobs/{}"),
        ("GET", "/jobs/{}/image"),
        ("GET", "/jobs/{}/preview"),
        ("GET", "/jobs/{}/events"),
        ("DELETE", "/jobs/{}"),
    ):
        others = locked.open(path.format(job_id), method=method, headers=ben)
        unknown = locked.open(path.format("f" * 32), method=method, headers=ben)
        assert others.status_code == unknown.status_code == 404, path
        assert others.text.replace(job_id, "?") == unknown.text.replace("f" * 32, "?")
    for headers, status in ((anna, 200), (ben, 404)):
        assert locked.post("/check", data={"id": job_id}, headers=headers).status_code == status
    assert jobs.get(job_id).status == "queued"  # Ben cancelled nothing
    shown = locked.get(f"/jobs/{job_id}", headers=anna).get_json()
    assert not {"owner", "client", "fingerprint"} & shown.keys()
    assert locked.delete(f"/jobs/{job_id}", headers=anna).status_code == 200


def test_each_key_has_its_own_limit(client_with: Callable[..., FlaskClient], jobs: Jobs, worker: str) -> None:
    client = client_with(api_keys=(SecretStr(ANNA), SecretStr(BEN)), max_jobs_per_client=1)

    def ask(key: str) -> int:
        headers = {"X-API-Key": key, **ASYNC}
        return client.post("/latent_revision", data={"prompt": "a house"}, headers=headers).status_code

    assert [ask(ANNA), ask(ANNA), ask(BEN)] == [202, 429, 202]
    job = jobs.claim("latentrevisions_queue", worker)
    assert job is not None and jobs.fail(job, worker, "enough", "internal")
    assert ask(ANNA) == 202


def test_keys_take_turns_by_their_priorities(
    client_with: Callable[..., FlaskClient], jobs: Jobs, worker: str
) -> None:
    client = client_with(api_keys=(SecretStr(ANNA), SecretStr(f"{BEN} priority=2")))

    def ask(key: str) -> str:
        headers = {"X-API-Key": key, **ASYNC}
        return client.post("/latent_revision", data={"prompt": "a house"}, headers=headers).get_json()["id"]

    anna, ben = [ask(ANNA) for _ in range(3)], [ask(BEN) for _ in range(4)]
    order = jobs.redis.lrange("latentrevisions_queue", 0, -1)
    assert order == [anna[0], *ben[:2], anna[1], *ben[2:], anna[2]]
    shown = client.get(f"/jobs/{ben[0]}", headers={"X-API-Key": BEN}).get_json()
    assert shown["rank"] == 1 and "priority" not in shown
    assert client.delete(f"/jobs/{ben[3]}", headers={"X-API-Key": BEN}).status_code == 200
    assert jobs.redis.zscore("latentrevisions_queue:turns", jobs.get(ben[0]).owner) == 1.5


def test_keys_have_so_many_jobs_a_minute(
    client_with: Callable[..., FlaskClient], jobs: Jobs, worker: str
) -> None:
    keys = (SecretStr(ANNA), SecretStr(f"{BEN} jobs_per_minute=4"))
    client = client_with(api_keys=keys, max_jobs_per_minute=2)

    def ask(key: str, n: int = 1) -> TestResponse:
        headers = {"X-API-Key": key, **ASYNC}
        return client.post("/latent_revision", data={"prompt": "a house", "n": n}, headers=headers)

    assert [ask(ANNA).status_code for _ in range(3)] == [202, 202, 429]
    assert ask(BEN, 3).status_code == 202
    refused = ask(BEN, 2)
    assert refused.status_code == 429 and 1 < int(refused.headers["Retry-After"]) <= 60
    assert "at most 4 jobs a minute" in refused.get_json()["message"]
    assert ask(BEN).status_code == 202
    impossible = ask(ANNA, 3)
    assert impossible.status_code == 422 and impossible.get_json()["field"] == "n"


def test_without_keys_each_address_has_its_own_limit(
    client_with: Callable[..., FlaskClient], worker: str
) -> None:
    client = client_with(max_jobs_per_client=1, trusted_proxies=1)

    def ask(address: str) -> int:
        headers = {"X-Forwarded-For": address, **ASYNC}
        return client.post("/latent_revision", data={"prompt": "a house"}, headers=headers).status_code

    assert [ask("10.0.0.1"), ask("10.0.0.1"), ask("10.0.0.2")] == [202, 429, 202]
    nearest = client_with(
        max_jobs_per_client=1
    )  # with no proxy to trust, the header is the client's own word
    data, headers = {"prompt": "a house"}, {"X-Forwarded-For": "10.0.0.3", **ASYNC}
    first, second = (nearest.post("/latent_revision", data=data, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 429)


# Other pages


def test_a_named_origin_may_ask(client_with: Callable[..., FlaskClient]) -> None:
    client = client_with(cors_origins=(PAGE,), api_keys=(SecretStr(ANNA),))
    allowed = client.options("/latent_revision", headers={"Origin": PAGE, **PREFLIGHT})
    assert allowed.status_code == 204
    assert allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    for header in ("Authorization", "X-API-Key", "Prefer", "Idempotency-Key", "Last-Event-ID"):
        assert header in allowed.headers["Access-Control-Allow-Headers"]
    answer = client.get("/jobs/none", headers={"Origin": PAGE, "X-API-Key": ANNA})
    assert answer.status_code == 404 and answer.headers["Access-Control-Allow-Origin"] == PAGE
    for header in ("Location", "Retry-After", "X-Request-ID"):
        assert header in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]
    refused = client.get("/jobs/none", headers={"Origin": PAGE})  # the page can read why
    assert refused.status_code == 401 and refused.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", PAGE + ".evil.example", PAGE + ":8443", "http://pictures.example", "null"],
)
def test_another_origin_may_not(client_with: Callable[..., FlaskClient], origin: str) -> None:
    client = client_with(cors_origins=(PAGE,))
    refused = client.options("/latent_revision", headers={"Origin": origin, **PREFLIGHT})
    assert refused.status_code == 403
    posted = client.post(
        "/check", data={"id": "none"}, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    )
    assert posted.status_code == 403
    read = client.get("/jobs/none", headers={"Origin": origin})
    for answer in (refused, posted, read):
        assert not any(name.startswith("Access-Control-Allow") for name, _ in answer.headers)


def test_our_own_page_may_ask(client_with: Callable[..., FlaskClient]) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client_with().post("/check", data={"id": "none"}, headers=headers).status_code == 404


# As Chromium sends them: `Sec-Fetch-Site` only over https and to the machine itself.
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost:5790", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:5790"},
    {"Origin": "https://localhost"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "nonsense"},
    {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("more", [{}, {"api_keys": (SecretStr(ANNA),)}], ids=["open", "locked"])
def test_another_sites_page_posts_nothing(
    client_with: Callable[..., FlaskClient], more: dict[str, Any], headers: dict[str, str]
) -> None:
    client = client_with(cors_origins=(PAGE,), **more)
    for method, path in (("POST", "/latent_revision"), ("POST", "/check"), ("DELETE", "/jobs/none")):
        refused = client.open(path, method=method, headers={"X-API-Key": ANNA, **headers})
        assert refused.status_code == 403 and "CORS_ORIGINS" in refused.get_json()["message"]
    assert client.get("/jobs/none", headers={"X-API-Key": ANNA, **headers}).status_code == 404


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("LocalHost:5000", "http://localhost:5000"),
        ("192.168.1.2:5000", "http://192.168.1.2:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("my_service:5000", "http://my_service:5000"),
    ],
)
def test_the_services_own_page_is_known_by_its_host(
    client_with: Callable[..., FlaskClient], host: str, origin: str
) -> None:
    headers = {"Host": host, "Origin": origin}
    assert client_with().post("/check", data={"id": "none"}, headers=headers).status_code == 404


@pytest.mark.parametrize(
    "written", ["https://Pictures.example/", "https://pictures.example:443", "HTTPS://pictures.EXAMPLE"]
)
def test_an_origin_may_be_written_as_people_write_it(
    client_with: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", written)
    client = client_with(cors_origins=Settings().cors_origins)
    answer = client.post("/check", data={"id": "none"}, headers={"Origin": PAGE})
    assert answer.status_code == 404 and answer.headers["Access-Control-Allow-Origin"] == PAGE


# Names


@pytest.mark.parametrize("app", ["caching_server", "app"])
def test_a_rebound_name_reads_nothing(settings: Settings, app: str) -> None:
    """A hostile page whose name leads to this machine is of the service's origin for its browser."""
    create = create_app if app == "caching_server" else app_without_queue.create_app
    client = create(settings).test_client()
    rebound = {"Host": "evil.example:5000", "Sec-Fetch-Site": "same-origin"}
    for path in ("/", "/index", "/docs", "/openapi.json"):
        refused = client.get(path, headers=rebound)
        assert refused.status_code == 403 and "ALLOWED_HOSTS" in refused.get_json()["message"]
        assert client.get(path, headers={"Host": "127.0.0.1:5000"}).status_code == 200
    for more in ({"X-Forwarded-Host": "localhost"}, {"Origin": "http://evil.example:5000"}):
        assert client.post("/latent_revision", headers={**rebound, **more}).status_code == 403


def test_names_of_the_service(client_with: Callable[..., FlaskClient]) -> None:
    def get(client: FlaskClient, host: str, path: str = "/jobs/none", **headers: str) -> int:
        return client.get(path, headers={"Host": host, **headers}).status_code

    named = client_with(allowed_hosts=("Studio.lan", ".example.com"))
    hosts = ("studio.lan:5000", "example.com", "a.example.com", "localhost", "10.0.0.1", "evil.example")
    assert [get(named, host) for host in hosts] == [404] * 5 + [403]
    assert get(client_with(allowed_hosts=("*",)), "evil.example") == 404
    for path in ("/healthz", "/readyz"):  # probes come under any name
        assert get(named, "evil.example", path) == get(named, "localhost", path)
    locked = client_with(api_keys=(SecretStr(ANNA),))
    assert client_with(allow_anonymous=True).get("/jobs/none", headers={"Host": "a.b"}).status_code == 403
    assert locked.get("/jobs/none", headers={"Host": "a.b", "X-API-Key": ANNA}).status_code == 404


# Proxies

NGINX = {
    "Host": "127.0.0.1:5000",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "pictures.example.com:8443",
}
"""What the lines in docs/operating.md have nginx send."""


def test_behind_a_proxy_the_origin_is_the_forwarded_one(
    client_with: Callable[..., FlaskClient], worker: str
) -> None:
    client = client_with(trusted_proxies=1)
    own, form = "https://pictures.example.com:8443", {"prompt": "a house"}

    def post(origin: str, **more: str) -> int:
        headers = {**NGINX, "Origin": origin, **ASYNC, **more}
        return client.post("/latent_revision", data=form, headers=headers).status_code

    assert client.post("/latent_revision", data=form, headers={**NGINX, **ASYNC}).status_code == 202
    assert post(own) == 202
    for foreign in (
        "https://pictures.example.com",
        "http://pictures.example.com:8443",
        "http://127.0.0.1:5000",
    ):
        assert post(foreign) == 403
    # X-Forwarded-Host: $host leaves out the port; a browser that says so itself is believed
    portless = {"X-Forwarded-Host": "pictures.example.com", "Sec-Fetch-Site": "same-origin"}
    assert post(own, **portless) == 202 and post("https://evil.example:8443", **portless) == 403
    assert post(own, **{**portless, "X-Forwarded-Port": "8443", "Sec-Fetch-Site": ""}) == 202


def test_behind_a_proxy_names_are_asked_for_too(client_with: Callable[..., FlaskClient]) -> None:
    def get(client: FlaskClient, **headers: str) -> int:
        return client.get("/jobs/none", headers={**NGINX, **headers}).status_code

    passed_on = {"Host": "pictures.example.com", "X-Forwarded-Host": "pictures.example.com"}
    unnamed = client_with(trusted_proxies=1)
    assert get(unnamed) == 404 and get(unnamed, **passed_on) == 403
    assert get(unnamed, Host="evil.example", **{"X-Forwarded-Host": "localhost"}) == 403
    named = client_with(trusted_proxies=1, allowed_hosts=("pictures.example.com",))
    assert get(named) == get(named, **passed_on) == 404
    assert get(named, **{"X-Forwarded-Host": "evil.example"}) == 403


@pytest.mark.parametrize(
    "headers", [NGINX, {"X-Forwarded-Host": "localhost"}, {"X-Forwarded-Host": "[::1]:1"}]
)
def test_headers_do_not_say_where_it_listens(
    client_with: Callable[..., FlaskClient], headers: dict[str, str]
) -> None:
    client = client_with(trusted_proxies=1)
    beyond = client.get("/healthz", headers=headers, environ_overrides={"SERVER_NAME": "0.0.0.0"})
    here = client.get("/healthz", headers=headers, environ_overrides={"SERVER_NAME": "127.0.0.1"})
    assert (beyond.status_code, here.status_code) == (403, 200)


def test_a_proxy_may_serve_it_below_a_path(client_with: Callable[..., FlaskClient], worker: str) -> None:
    headers = {**NGINX, "X-Forwarded-Prefix": "/studio", **ASYNC}
    client = client_with(trusted_proxies=1)
    made = client.post("/latent_revision", data={"prompt": "a house"}, headers=headers)
    job_id = made.get_json()["id"]
    assert made.headers["Location"] == f"/studio/jobs/{job_id}"
    assert client.get("/openapi.json", headers=headers).get_json()["servers"] == [{"url": "/studio/"}]
    assert client.get("/openapi.json", headers=NGINX).get_json()["servers"] == [{"url": "/"}]
    direct = client_with().post("/latent_revision", data={"prompt": "a house"}, headers=headers)
    assert direct.headers["Location"] == f"/jobs/{direct.get_json()['id']}"  # nobody's word but the client's
    for wrong in ("studio", "//evil.example", "https://evil.example", "/a b"):
        refused = client.get("/index", headers={**NGINX, "X-Forwarded-Prefix": wrong})
        assert refused.status_code == 400 and "X-Forwarded-Prefix" in refused.get_json()["message"]
    assert client.get("/index", headers={**NGINX, "X-Forwarded-Prefix": "/a/b_c/"}).status_code == 200


@pytest.mark.slow
def test_under_gunicorn_the_socket_counts(settings: Settings, tmp_path: Path) -> None:
    """As another gunicorn runs it: beyond loopback nothing opens it, on a Unix socket it is open."""
    port, path = free_port(), tmp_path / "mead.sock"
    command = [sys.executable, "-m", "gunicorn", "-b", f"0.0.0.0:{port}", "-b", f"unix:{path}"]
    command += ["-k", "caching_server.Worker", "--threads", "4", "caching_server:create_app()"]
    environment = {**os.environ, "REDIS_URL": settings.redis_url, "DATA_DIR": str(tmp_path / "var")}
    environment["TRUSTED_PROXIES"] = "1"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=60)
                break
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert answer.status_code == 403
        for host in ("localhost", "127.0.0.1"):
            headers = {"X-Forwarded-Host": host, "Host": host}
            opened = requests.get(f"http://127.0.0.1:{port}/index", headers=headers, timeout=60)
            assert opened.status_code == 403 and "API_KEYS" in opened.json()["message"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /index HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_browsers_foreign_page(settings: Settings, tmp_path: Path, browser: Browser) -> None:
    """Over plain http and by a name: a browser then says no more than the page's origin."""
    other = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    port = free_port()
    environment = {"REDIS_URL": settings.redis_url, "DATA_DIR": str(tmp_path / "var"), "PORT": str(port)}
    process = Process("caching_server.py", {**environment, "ALLOWED_HOSTS": "mead.test"}, tmp_path / "log")
    by_form = """service => {
        const form = document.createElement("form"), id = document.createElement("input");
        Object.assign(form, {method: "POST", action: service + "/check"});
        form.append(Object.assign(id, {name: "id", value: "none"}));
        document.body.append(form);
        form.submit();
    }"""
    by_script = (
        "service => void fetch(service + '/check', {method: 'POST', body: new URLSearchParams('id=none')})"
    )
    try:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
        for origin, service, post, status in (
            (f"http://evil.test:{other.server_port}", "mead.test", by_form, 403),
            (f"http://mead.test:{other.server_port}", "mead.test", by_form, 403),
            (f"http://127.0.0.1:{other.server_port}", "127.0.0.1", by_form, 403),
            (f"http://mead.test:{port}/index", "mead.test", by_script, 404),
            (f"http://127.0.0.1:{port}/index", "127.0.0.1", by_script, 404),
            (f"http://evil.test:{port}/index", "evil.test", by_script, 403),  # a name that leads here
        ):
            page = browser.new_page()
            page.goto(origin)
            with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
                page.evaluate(post, f"http://{service}:{port}")
            assert answer.value.status == status, origin
            page.close()
    finally:
        other.shutdown()
        other.server_close()
        process.stop()


@pytest.mark.parametrize("path", ["/index", "/healthz", "/jobs/none", "/none", "/openapi.json", "/docs"])
def test_security_headers_are_on_every_answer(client_with: Callable[..., FlaskClient], path: str) -> None:
    headers = client_with().get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0] and "unsafe-eval" not in policy
    assert "public" not in headers.get("Cache-Control", "")


# Listening


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.2", False),
        ("localhost.example.org", False),
    ],
)
def test_what_is_loopback(host: str, alone: bool) -> None:
    assert anonymous.is_loopback(host) is alone


@pytest.mark.slow
@pytest.mark.parametrize("script", ["caching_server.py", "app.py"])
def test_it_does_not_listen_to_everybody_without_keys(tmp_path: Path, script: str) -> None:
    environment = {**os.environ, "HOST": "0.0.0.0", "PORT": str(free_port()), "DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, ROOT / script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert "API_KEYS" in ended.stderr and "ALLOW_ANONYMOUS" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("more", [{"API_KEYS": f"{ANNA},{BEN}"}, {"ALLOW_ANONYMOUS": "true"}])
def test_it_listens_to_everybody_when_told(settings: Settings, tmp_path: Path, more: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"REDIS_URL": settings.redis_url, "DATA_DIR": str(tmp_path / "var"), **more}
    environment |= {"HOST": "0.0.0.0", "PORT": str(port)}
    process = Process("caching_server.py", environment, tmp_path / "log")
    try:
        process.wait_until(lambda: answers(url + "/healthz"))
        headers = {"X-API-Key": ANNA}
        assert requests.get(url + "/jobs/none", headers=headers, timeout=60).status_code == 404
        without = requests.get(url + "/jobs/none", timeout=60).status_code
        assert without == (401 if "API_KEYS" in more else 404)
    finally:
        assert process.stop() == 0
    written = (tmp_path / "log").read_text()
    assert ANNA not in written and BEN not in written


@pytest.mark.slow
def test_the_debugger_is_not_for_others(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"HOST": "0.0.0.0", "PORT": str(port), "ALLOW_ANONYMOUS": "true", "DATA_DIR": str(tmp_path)}
    environment |= {"DEBUG": "true", "FLASK_DEBUG": "1"}
    process = Process("app.py", environment, tmp_path / "log")
    try:
        process.wait_until(lambda: answers(url + "/healthz"))
        assert requests.get(url + "/console", timeout=60).status_code == 404
    finally:
        process.stop()


def test_nor_under_another_server(client_with: Callable[..., FlaskClient]) -> None:
    """Some other server than ours listens on an address of this machine's network."""
    beyond = {"SERVER_NAME": "0.0.0.0"}
    answer = client_with().get("/healthz", environ_overrides=beyond)
    assert answer.status_code == 403 and "API_KEYS" in answer.get_json()["message"]
    assert client_with(allow_anonymous=True).get("/healthz", environ_overrides=beyond).status_code == 200
    keys = (SecretStr(ANNA),)
    assert client_with(api_keys=keys).get("/healthz", environ_overrides=beyond).status_code == 200
