"""The routes for several jobs at once: this key's jobs, the jobs of a group, and the queues."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mead.http import access
from mead.http.description import Description, describe
from mead.http.errors import ApiError, JobNotFoundError
from mead.http.fields import refuse_fields
from mead.http.forms import read_query
from mead.http.responses import json_response
from mead.http.schemas import GroupCancelled, Queues, QueueState, Records, WorkerState
from mead.http.services import Services, current_services
from mead.job_record import record_of
from mead.params import refuse_underscores
from mead.queue.job import Job, Status
from mead.queue.listing import Page, Place, jobs_of_group, newest_jobs
from mead.registry import MODELS

log = logging.getLogger(__name__)

MOST_ON_A_PAGE = 100
Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class ListQuery(BaseModel):
    """Which jobs to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, BeforeValidator(refuse_underscores)] = Field(
        20, ge=1, le=MOST_ON_A_PAGE, description="The most jobs on a page."
    )
    cursor: str | None = Field(
        None, pattern="^[0-9]{1,15}-[0-9a-f]{32}$", description="The `cursor` of the page before."
    )
    status: Status | None = Field(None, description="Only jobs of this status.")
    kept: bool = Field(False, description="Only jobs that are kept beyond the retention time.")
    group: Id | None = Field(None, description="Only the jobs of the group whose first job has this id.")


class GroupQuery(BaseModel):
    """A group of jobs, made by one form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Id = Field(description="The id of the group's first job.")


def blueprint() -> Blueprint:
    """GET and DELETE /jobs, and GET /queues."""
    routes = Blueprint("job_lists", __name__)
    routes.add_url_rule("/jobs", view_func=jobs)
    routes.add_url_rule("/jobs", view_func=cancel_group, methods=["DELETE"])
    routes.add_url_rule("/queues", view_func=queues)
    return routes


@describe(Description({200: [Records]}, errors=(400, 422, 503), query=ListQuery, tag="jobs"))
def jobs() -> Response:
    """This key's jobs, the newest first, in pages.

    Without API keys, all jobs. A page may have fewer jobs than `limit`, or none, although there are more:
    `cursor` says whether another one follows. Of a group, all jobs are on one page, as their seeds go up.
    """
    query = read_query(request, ListQuery)
    services = current_services()
    page = _page(query, services)
    ranks = services.jobs.ranks(page.jobs)
    records = [record_of(job, rank, request.script_root) for job, rank in zip(page.jobs, ranks, strict=True)]
    end = page.end and f"{page.end.created_ms}-{page.end.job_id}"
    return json_response(Records(jobs=records, cursor=end))


@describe(Description({200: [GroupCancelled]}, (400, 403, 404, 409, 422, 503), query=GroupQuery, tag="jobs"))
def cancel_group() -> Response:
    """Cancel all jobs of a group that have not ended.

    Queued jobs end at once, running ones at their next step.
    """
    group = read_query(request, GroupQuery).group
    services = current_services()
    found = _group(group, services)
    if not found:
        raise JobNotFoundError(group, "group")
    cancelled = services.jobs.cancel_all([job.id for job in found], priority=access.priority())
    if not cancelled:
        raise ApiError(409, f"group: all jobs of {group} have already ended", "group", group)
    for job in found:
        if job.id in cancelled:
            services.storage.cleanup(job)
            log.info("job cancelled", extra={"job": job.id, "was": job.status})
    return json_response(GroupCancelled(ids=cancelled))


@describe(Description({200: [Queues]}, errors=(400, 503), tag="service"))
def queues() -> Response:
    """What waits and what runs: the queues, and the inference servers."""
    refuse_fields(request)
    services = current_services()
    workers = services.jobs.workers()
    states = []
    for spec in MODELS.values():
        name = services.settings.queue(spec)
        loads = [beat.queues[name] for beat in workers.values() if name in beat.queues]
        states.append(
            QueueState(
                name=name,
                type=spec.type,
                waiting=services.jobs.queue_length(name),
                running=sum(load.running for load in loads),
                capacity=sum(load.capacity for load in loads),
                steps_per_second=round(sum(load.steps_per_second for load in loads), 3),
            )
        )
    servers = [
        WorkerState(
            name=name,
            weights=beat.weights,
            queues=sorted(beat.queues),
            running=sum(load.running for load in beat.queues.values()),
            started_at=beat.started_at,
            seen_at=beat.seen_at,
            memory_bytes=beat.memory_bytes,
        )
        for name, beat in sorted(workers.items())
    ]
    return json_response(Queues(queues=states, workers=servers))


def _page(query: ListQuery, services: Services) -> Page:
    if query.group is not None:
        found = _group(query.group, services)
        return Page([job for job in found if _is_asked_for(job, query)], None)
    after = None
    if query.cursor is not None:
        created_ms, _, job_id = query.cursor.partition("-")
        after = Place(int(created_ms), job_id)
    return newest_jobs(
        services.jobs.redis, access.owner(), query.limit, after, partial(_is_asked_for, query=query)
    )


def _is_asked_for(job: Job, query: ListQuery) -> bool:
    return query.status in (None, job.status) and (job.kept is not None or not query.kept)


def _group(group: str, services: Services) -> list[Job]:
    """The jobs of a group that this request may see."""
    return [job for job in jobs_of_group(services.jobs.redis, group) if access.may_see(job)]
