"""What the tests of the routes share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from flask import Response
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, ViewportSize, expect

from caching_config import Settings
from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from mead.worker.worker import Worker
from StyleCLIP.params import StyleCLIPParams
from tests.colours import make_engine
from tests.conftest import running
from tests.mead.http.browsing import LIMIT

Visit: TypeAlias = Callable[..., Page]


@pytest.fixture
def http(settings: Settings) -> FlaskClient:
    """A client of the API whose worker is alive but never takes a job."""
    app = create_app(settings)
    app.after_request(_begins_with_its_field)
    return app.test_client()


def _begins_with_its_field(answer: Response) -> Response:
    """Check what docs/api.md says of all errors."""
    error = answer.get_json() if answer.status_code >= 400 and answer.is_json else {}
    assert not error.get("field") or error["message"].startswith(f"{error['field']}: "), error
    return answer


@pytest.fixture
def idle_worker(jobs: Jobs, settings: Settings) -> None:
    jobs.heartbeat("idle", [settings.queues[0], settings.queues[1]], 600)


@pytest.fixture
def worker(settings: Settings, jobs: Jobs, storage: FolderStorage, colours: Any) -> Iterator[Worker]:
    """A worker that makes every prompt, a colour, into a picture of 8 x 8."""
    engines = [
        make_engine(colours, jobs, storage, params=params, queue=queue)
        for params, queue in (
            (LatentRevisionsParams, settings.queues[0]),
            (StyleCLIPParams, settings.queues[1]),
        )
    ]
    working = Worker("me", engines, jobs, storage, ttl=settings.worker_ttl)
    jobs.heartbeat("me", working.queues, settings.worker_ttl)
    with running(working.run):
        yield working


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page in a window, all in one browser profile; at the end nothing has been asked of any other
    site, and nothing went wrong in a page or against its policy.
    """
    expect.set_options(timeout=LIMIT)
    context = browser.new_context(viewport=ViewportSize(width=1280, height=900), accept_downloads=True)
    context.set_default_timeout(LIMIT)
    asked, wrong, urls = set(), [], {"data", "blob"}
    context.on(
        "request", lambda request: asked.add(re.sub(r"^(\w+://[^/]*|data|blob).*", r"\1", request.url))
    )
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)

    def open_page(url: str, path: str = "/") -> Page:
        urls.add(url)
        page = context.new_page()
        page.goto(url + path)
        expect(page.locator("form[data-route] .go")).to_have_count(2)
        return page

    yield open_page
    context.close()
    assert asked <= urls and not wrong
