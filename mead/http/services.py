"""What the views of the API share."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, current_app

from mead.data_url import open_storage
from mead.http import access
from mead.http.concurrency import ConcurrencyLimit, open_request_limit
from mead.http.errors import JobNotFoundError
from mead.http.events import Events
from mead.http.forms import FormReader
from mead.http.readiness import Readiness
from mead.http.videos import Videos
from mead.queue.client import connect
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.keeps import Keeps
from mead.settings import Settings
from mead.storage import Storage

REDIS_TIMEOUT = 4.0  # seconds that a request waits for Redis


@dataclass(frozen=True)
class Services:
    """The queue, the storage and what else the views use; one object for each app."""

    settings: Settings
    jobs: Jobs
    keeps: Keeps
    storage: Storage
    events: Events
    forms: FormReader
    readiness: Readiness
    open_requests: ConcurrencyLimit
    videos: Videos

    @classmethod
    def create(cls, settings: Settings) -> Services:
        """The services that the settings describe. Connects to Redis on first use."""
        client = connect(settings.redis_url, REDIS_TIMEOUT, settings.redis_prefix)
        jobs = Jobs(client, settings.job_ttl, settings.redis_wait_replicas)
        storage = open_storage(settings.data_url, settings.data_dir)
        return cls(
            settings=settings,
            jobs=jobs,
            keeps=Keeps(jobs, settings.max_keeps, settings.redis_wait_replicas),
            storage=storage,
            events=Events(jobs),
            forms=FormReader(settings),
            readiness=Readiness(settings, jobs, storage),
            open_requests=open_request_limit(settings),
            videos=Videos(),
        )

    def find_job(self, job_id: str, field: str | None = None) -> Job:
        """A job, if this request may see it.

        Args:
            field: the form field that names it, if one does.

        Raises:
            JobNotFoundError: there is no such job, or this request may not see it.
        """
        try:
            job = self.jobs.get(job_id)
        except UnknownJobError:
            raise JobNotFoundError(job_id, field) from None
        if not access.may_see(job):
            raise JobNotFoundError(job_id, field)
        return job

    def init_app(self, app: Flask) -> None:
        """Make these the services of `app`."""
        app.extensions["services"] = self


def services_of(app: Flask) -> Services:
    """The services of an app."""
    services: Services = app.extensions["services"]
    return services


def current_services() -> Services:
    """The services of the app that handles this request."""
    return services_of(current_app)
