"""Who may come in, what they may see, and what browsers are told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from pydantic import SecretStr

from caching_config import Settings
from mead import access
from mead.api import create_app
from mead.jobs import Jobs
from mead.local_redis import free_port
from tests.conftest import Process, answers

ROOT = Path(access.__file__).parents[1]
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
    queues = [settings.latentrevisions_queue, settings.styleclip_queue]
    jobs.beat("worker", queues, 600)
    yield "worker"
    jobs.leave("worker", queues)


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
    assert access.is_loopback(host) is alone


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
