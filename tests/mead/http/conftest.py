"""What the tests of the routes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from caching_config import Settings
from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from mead.worker.worker import Worker
from StyleCLIP.params import StyleCLIPParams
from tests.conftest import make_engine, running


@pytest.fixture
def http(settings: Settings) -> FlaskClient:
    """A client of the API whose worker is alive but never takes a job."""
    return create_app(settings).test_client()


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
