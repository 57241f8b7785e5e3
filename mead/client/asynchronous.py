"""The client for asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import anyio
import httpx2

from mead.client.flows import Operations, Value
from mead.client.results import Picture, Progress, Record
from mead.client.steps import Flow, Open, Pause, ReadLine, Reply, T
from mead.client.transport import arguments, failure_of, opening, reply_of


class AsyncClient:
    """Makes pictures with a service, and waits for them. Several tasks may use one.

    Args:
        url: the service's address; by default MEAD_URL of the environment, else http://127.0.0.1:5000.
        key: the API key; by default MEAD_API_KEY of the environment, else none.
        timeout: seconds to wait for an answer.
        patience: seconds for which a request that fails on its way, or finds the service busy, is repeated.

    Raises:
        ValueError: `url` is not an address, or no request can have `key`; the message names which.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, timeout: float = 60, patience: float = 30
    ) -> None:
        self._operations = Operations(url, key, timeout, patience)
        self._http = httpx2.AsyncClient(**self._operations.options)

    async def generate(self, prompt: str, *, n: int = 1, **fields: Value) -> list[Picture]:
        """Make pictures from words, and wait for them.

        Args:
            n: how many, with the seeds `seed`, `seed` + 1 and so on.
            fields: the parameters of POST /latent_revision; `models` lists them.

        Raises:
            RefusedError: a parameter is wrong (`field`), or the service cannot take the job now.
            JobFailedError, JobCancelledError: there is no picture.
            UnreachableError: the service does not answer.
            OSError: a picture cannot be read.
        """
        return await (await self._submit("generate", prompt, n, fields)).wait()

    async def edit(self, img: Value, prompt: str = "", *, n: int = 1, **fields: Value) -> list[Picture]:
        """Edit the photo of a face by words, and wait for the result. Raises as `generate`.

        Args:
            img: the photo.
            n: how many edits, with the seeds `seed`, `seed` + 1 and so on.
            fields: the parameters of POST /styleclip; `models` lists them.
        """
        return await (await self._submit("edit", prompt, n, {"img": img, **fields})).wait()

    async def submit(
        self, prompt: str = "", *, model: str = "generate", n: int = 1, **fields: Value
    ) -> AsyncJob:
        """Make a job and do not wait for it. Raises as `generate`.

        Args:
            model: "generate" or "edit".
            fields: as for these, and `webhook`, a URL that is told when the job has ended; with
                `webhook_events_filter=["start", "completed"]` of more.
        """
        return await self._submit(model, prompt, n, fields)

    def job(self, *ids: str) -> AsyncJob:
        """A job that was made earlier, by its id, or a group by the ids of its jobs. Asks nothing."""
        return AsyncJob(self, ids)

    async def jobs(
        self,
        *,
        status: str | None = None,
        group: str | None = None,
        kept: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Record]:
        """The records of this key's jobs, the newest first.

        Args:
            status: only jobs of this status.
            group: only the jobs of the group whose first job has this id, as their seeds go up.
            kept: only jobs that are kept beyond the service's retention time.
            limit: the most records; None for all.
        """
        cursor, left = None, limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            query = {"status": status, "group": group, "cursor": cursor, "limit": size}
            query |= {"kept": "true"} if kept else {}
            page = await self._run(self._operations.ask("GET", "/jobs", **query))
            for record in page["jobs"][:left]:
                yield record
            left = None if left is None else left - len(page["jobs"])
            if (cursor := page["cursor"]) is None:
                return

    async def models(self) -> Record:
        """What the service can make: its models with their parameters, and what its weights draw."""
        return await self._run(self._operations.models())

    async def queues(self) -> Record:
        """What waits and what runs."""
        return await self._run(self._operations.ask("GET", "/queues"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _submit(self, model: str, prompt: str, n: int, fields: Mapping[str, Value]) -> AsyncJob:
        answer = await self._run(self._operations.submit(model, prompt, n, fields))
        return AsyncJob(self, answer.get("ids", [answer["id"]]), answer.get("notes", ()))

    async def _run(self, flow: Flow[T]) -> T:
        """The result of a flow without a stream."""
        came: Any = None
        while True:
            try:
                step = flow.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            came = await self._take(step)

    async def _follow(self, flow: Flow[None]) -> AsyncIterator[Progress]:
        """The progress that a flow yields."""
        came: Any = None
        lines: AsyncIterator[str] | None = None
        async with AsyncExitStack() as stack:
            while True:
                try:
                    step = flow.send(came)
                except StopIteration:
                    return
                came = None
                if isinstance(step, Progress):
                    yield step
                elif isinstance(step, Open):
                    await stack.aclose()
                    try:
                        response = await stack.enter_async_context(
                            self._http.stream(**opening(step, self._operations))
                        )
                        if response.is_error:
                            await response.aread()
                        lines = response.aiter_lines()
                        came = reply_of(response, response.is_error)
                    except httpx2.TransportError as error:
                        came = failure_of(error)
                elif isinstance(step, ReadLine):
                    try:
                        came = None if lines is None else await anext(lines, None)
                    except httpx2.TransportError:
                        came = None
                else:
                    came = await self._take(step)

    async def _take(self, step: Any) -> Reply | None:
        """Take a step: send a request, or pause."""
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            return None
        try:
            return reply_of(await self._http.request(**arguments(step)))
        except httpx2.TransportError as error:
            return failure_of(error)


class AsyncJob:
    """A job, or a group of jobs that were made together.

    Attributes:
        id: its id, or that of the first one.
        ids: the ids of all.
        notes: what was taken but cannot have its effect, each in a sentence.
    """

    def __init__(self, client: AsyncClient, ids: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.ids = tuple(ids)
        self.notes = tuple(notes)
        self._client = client
        self._operations = client._operations

    @property
    def id(self) -> str:
        return self.ids[0]

    def __repr__(self) -> str:
        return f"AsyncJob({', '.join(map(repr, self.ids))})"

    async def record(self) -> Record:
        """The record of the (first) job.

        Raises:
            RefusedError: there is no such job.
        """
        return await self._client._run(self._operations.ask("GET", f"/jobs/{self.id}"))

    def progress(self, timeout: float | None = None) -> AsyncIterator[Progress]:
        """The progress after each change, until the end.

        Args:
            timeout: seconds until then.

        Raises:
            TimeoutError: it has not ended in time; the job goes on.
            RefusedError: there is no such job any more.
            UnreachableError: the service does not answer.
        """
        return self._client._follow(self._operations.follow(self.ids, timeout))

    async def wait(self, timeout: float | None = None) -> list[Picture]:
        """The finished pictures, as their seeds go up.

        Args:
            timeout: seconds to wait.

        Raises:
            TimeoutError: they are not finished in time; the job goes on.
            JobFailedError, JobCancelledError: there is no picture.
            RefusedError, UnreachableError
        """
        async for _ in self.progress(timeout):
            pass
        return await self._client._run(self._operations.pictures(self.ids))

    async def cancel(self) -> None:
        """Cancel it; of a group, all jobs that have not ended.

        Raises:
            RefusedError: it has already ended, or there is no such job.
        """
        await self._client._run(self._operations.cancel(self.ids))

    async def retry(self) -> None:
        """Run it again, if it has failed and its parameters were not at fault.

        Raises:
            RefusedError: it cannot run again.
        """
        await self._client._run(self._operations.ask("POST", f"/jobs/{self.id}/retry"))

    async def resume(self, iterations: int | None = None, **fields: Value) -> AsyncJob:
        """Make a job that goes on exactly where the (first) one has ended, and do not wait for it.

        Args:
            iterations: further steps; by default as many as the weights set has for a picture.
            fields: `upscale` and `frames`, if they are to change.

        Raises:
            RefusedError: the job has not succeeded, or cannot go on any more.
            UnreachableError
        """
        return await self._anew({"iterations": iterations, **fields})

    async def at_strength(self, strength: float, **fields: Value) -> AsyncJob:
        """Make a job that shows the (first) edit with another strength, and do not wait for it.

        Nothing is computed again.

        Args:
            strength: 0 (the face as it was) to 2; 1 is the edit.
            fields: `output` and `upscale`, if they are to change.

        Raises:
            RefusedError: a parameter is wrong (`field`), the job has not succeeded, or its edit is not kept
                any more.
            UnreachableError
        """
        return await self._anew({"strength": strength, **fields})

    async def _anew(self, fields: Mapping[str, Value]) -> AsyncJob:
        answer = await self._client._run(self._operations.resume(self.id, fields))
        return AsyncJob(self._client, [answer["id"]], answer.get("notes", ()))

    async def keep(self) -> None:
        """Keep its record and picture beyond the service's retention time, until `unkeep`; of a group, all.

        Raises:
            RefusedError: it has no picture, as many are kept as allowed, or the service keeps none.
        """
        await self._client._run(self._operations.keep(self.ids, "PUT"))

    async def unkeep(self) -> None:
        """Let it go after the retention time, counted from now; of a group, all. Raises as `record`."""
        await self._client._run(self._operations.keep(self.ids, "DELETE"))

    @property
    async def image(self) -> Picture:
        """The (first) picture, if it is finished; to be awaited. Raises as `wait`."""
        return await self._client._run(self._operations.picture(self.id))

    async def preview(self) -> bytes | None:
        """The (first) picture so far, a PNG file; None if there is none yet."""
        return await self._client._run(self._operations.preview(self.id))

    async def timelapse(self, kind: str = "webp") -> bytes:
        """The time-lapse of the (first) picture, once it is finished, if the job has asked for `frames`.

        Args:
            kind: "webp", an animated WebP file, or "mp4", a video.

        Raises:
            ValueError: for another kind.
            RefusedError: there is none, or the service makes no videos.
            UnreachableError
        """
        return await self._client._run(self._operations.timelapse(self.id, kind))
