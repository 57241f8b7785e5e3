"""The jobs of one owner, newest first, in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, cast

import redis

from mead.params import MAX_VARIANTS
from mead.queue.job import Job, ids_of_group
from mead.queue.keys import kept_jobs_key
from mead.queue.records import read_jobs

BATCH = 100
"""Records that are read per round trip."""
LONGEST_SEARCH = 1000
"""Records that are read for a page of some jobs, so that rare ones take several pages."""


class Place(NamedTuple):
    """A job's place in the list of its owner's jobs."""

    created_ms: int
    job_id: str


class Page(NamedTuple):
    """A part of the list.

    Attributes:
        end: where the next page begins; None if there is none.
    """

    jobs: list[Job]
    end: Place | None


def newest_jobs(
    client: redis.Redis,
    owner: str,
    limit: int,
    after: Place | None = None,
    wanted: Callable[[Job], bool] = lambda job: True,
) -> Page:
    """The owner's jobs, newest first (ZREVRANGEBYSCORE, HGETALL).

    Args:
        limit: the most jobs on the page; there may be fewer and a next page.
        after: where the page before ended.
        wanted: which jobs are listed.
    """
    places = islice(_places(client, owner, after), LONGEST_SEARCH)
    page: list[Job] = []
    while batch := list(islice(places, BATCH)):
        found = {job.id: job for job in read_jobs(client, [place.job_id for place in batch])}
        for place in batch:
            job = found.get(place.job_id)
            if job is None or not wanted(job):
                continue
            page.append(job)
            if len(page) == limit:
                return Page(page, place)
        after = batch[-1]
    more = next(_places(client, owner, after), None) is not None
    return Page(page, after if more else None)


def jobs_of_group(client: redis.Redis, group: str) -> list[Job]:
    """The jobs of a group whose records are kept, as their seeds go up; none if there is no such group."""
    found = read_jobs(client, ids_of_group(group, MAX_VARIANTS))
    return [job for job in found if job.group == group]


def _places(client: redis.Redis, owner: str, after: Place | None) -> Iterator[Place]:
    """The places after one, newest first; of one moment, the greatest id first."""
    highest = "+inf" if after is None else after.created_ms
    start = 0
    while True:
        entries = client.zrevrangebyscore(
            kept_jobs_key(owner), highest, "-inf", start=start, num=BATCH, withscores=True
        )
        if not entries:
            return
        start += len(entries)
        for job_id, score in cast("list[tuple[str, float]]", entries):
            place = Place(int(score), job_id)
            if after is None or place < after:  # new jobs shift the others
                yield place
                after = place
