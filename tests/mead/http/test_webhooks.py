"""Asking for webhooks by HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families as parse

from caching_config import Settings
from mead.http.app import create_app
from mead.http.direct import create_app as create_direct_app
from mead.queue.jobs import Jobs
from mead.queue.outbox import Outbox

pytestmark = pytest.mark.usefixtures("idle_worker")

URL = "https://me:secret@hooks.example.com:8443/token?key=secret"


def submit(http: FlaskClient, **fields: str) -> tuple[int, Any]:
    """The status and the object that answer a POST that does not wait."""
    form = {"prompt": "red", "seed": "7", **fields}
    answer = http.post("/latent_revision", data=form, headers={"Prefer": "respond-async"})
    return answer.status_code, answer.json


def test_the_record_has_the_url_and_shows_where_it_leads(http: FlaskClient, jobs: Jobs) -> None:
    status, accepted = submit(http, webhook=URL, n="2")
    assert status == 202
    for job_id in accepted["ids"]:
        job = jobs.get(job_id)
        assert job.webhook == URL and job.webhook_events_filter == ("completed",)
        assert "webhook" not in job.parameters
        jobs.cancel(job_id)
        shown = http.get(f"/jobs/{job_id}")
        assert "secret" not in shown.text
        assert shown.json["webhook"] == "https://hooks.example.com:8443"
        assert (
            shown.json["webhook_events_filter"] == ["completed"] and shown.json["webhook_status"] == "waiting"
        )
    assert "secret" not in http.get("/jobs").text
    waiting, *_ = Outbox(jobs.redis).counts()
    metrics = {family.name: family.samples for family in parse(http.get("/metrics").text)}
    assert waiting == 2 == metrics["mead_webhooks_waiting"][0].value
    assert {sample.labels["outcome"]: sample.value for sample in metrics["mead_webhooks"]} == {
        "delivered": 0,
        "failed": 0,
    }


def test_the_events_are_chosen(http: FlaskClient, jobs: Jobs) -> None:
    _, accepted = submit(http, webhook=URL, webhook_events_filter="start, completed,start")
    assert jobs.get(accepted["id"]).webhook_events_filter == ("start", "completed")
    assert http.get(f"/jobs/{accepted['id']}").json["webhook_events_filter"] == ["start", "completed"]


def test_empty_fields_are_left_out(http: FlaskClient, jobs: Jobs) -> None:
    _, accepted = submit(http, webhook="", webhook_events_filter="")
    assert jobs.get(accepted["id"]).webhook is None
    assert not [name for name in http.get(f"/jobs/{accepted['id']}").json if name.startswith("webhook")]


@pytest.mark.parametrize(
    ("fields", "status", "field", "message"),
    [
        ({"webhook": "hooks.example.com/secret"}, 400, "webhook", "must be the URL of a receiver"),
        ({"webhook": "http://127.0.0.1:9/secret"}, 422, "webhook", "not a public one"),
        ({"webhook": "http://localhost/secret"}, 422, "webhook", "not a public one"),
        ({"webhook": "http://[fe80::1]/secret"}, 422, "webhook", "not a public one"),
        ({"webhook": URL, "webhook_events_filter": "logs"}, 400, "webhook_events_filter", "'start'"),
        ({"webhook": URL, "webhook_events_filter": ","}, 400, "webhook_events_filter", "must not be empty"),
        ({"webhook_events_filter": "start"}, 422, "webhook_events_filter", "there is no webhook"),
    ],
)
def test_what_is_wrong_is_named(
    http: FlaskClient, fields: dict[str, str], status: int, field: str, message: str
) -> None:
    answered, error = submit(http, **fields)
    assert (answered, error["field"]) == (status, field) and message in error["message"]
    assert "secret" not in error["message"]


def test_another_webhook_is_another_request(http: FlaskClient) -> None:
    def post(url: str) -> int:
        headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
        form = {"prompt": "red", "seed": "7", "webhook": url}
        return http.post("/latent_revision", data=form, headers=headers).status_code

    assert [post(URL), post(URL), post("https://example.com/")] == [202, 202, 422]


def test_allowed_receivers(settings: Settings) -> None:
    changed = settings.model_copy(update={"webhook_allow": ("127.0.0.0/8", "localhost")})
    http = create_app(changed).test_client()
    assert submit(http, webhook="http://127.0.0.1:9/")[0] == 202
    assert submit(http, webhook="http://localhost/")[0] == 202
    assert submit(http, webhook="http://10.0.0.1/")[0] == 422


def test_app_py_has_none(settings: Settings) -> None:
    http = create_direct_app(settings).test_client()
    assert submit(http, webhook=URL)[1]["message"].startswith("webhook: unknown field")
    form = http.get("/openapi.json").json["paths"]["/latent_revision"]["post"]["requestBody"]["content"]
    assert "webhook" not in form["multipart/form-data"]["schema"]["properties"]
