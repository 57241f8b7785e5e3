"""The Python client: makes pictures with a service, over HTTP.

    from mead.client import Client

    with Client("http://127.0.0.1:5000", key="...") as client:
        for picture in client.generate("a red house at night", n=4):
            picture.save(f"house-{picture.seed}.png")

`AsyncClient` does the same with `await`. Requests that fail on their way are repeated; an Idempotency-Key
sees to it that a repeated request makes no second job. Needs httpx2, and of the service nothing else.
"""

from mead.client.asynchronous import AsyncClient, AsyncJob
from mead.client.blocking import Client, Job
from mead.client.errors import (
    AddressError,
    JobCancelledError,
    JobFailedError,
    MeadError,
    RefusedError,
    UnreachableError,
)
from mead.client.results import Picture, Progress

__all__ = [
    "AddressError",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "MeadError",
    "Picture",
    "Progress",
    "RefusedError",
    "UnreachableError",
]
