"""The operations of the Python client, as flows; see `mead.client.steps`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mead.client.address import service_key, service_url, shown_address
from mead.client.errors import JobCancelledError, JobFailedError, MeadError, RefusedError, UnreachableError
from mead.client.results import Picture, Progress, Record, together
from mead.client.steps import FIRST_PAUSE, Flow, Open, Pause, ReadLine, Reply, Request, send

if TYPE_CHECKING:
    from PIL import Image

GROUP_PAUSE = 0.5  # seconds between two looks at the jobs of a group

Value: TypeAlias = (
    "str | float | Path | bytes | tuple[int, int] | list[str] | Mapping[str, float] | Image.Image | None"
)
"""A parameter. A picture is a path, the bytes of its file or a PIL image; several texts may be a list, and
weighted ones a mapping, as in {"age": 3}; None is left out."""
BETWEEN = {"story": " ^ ", "prompts": " | ", "sliders": " | "}
"""What stands between the texts of a parameter; commas between those of others."""


class Operations:
    """The operations of both clients, and what they share.

    Args:
        url: the service's address; by default MEAD_URL of the environment, else http://127.0.0.1:5000.
        key: the API key; by default MEAD_API_KEY of the environment, else none.
        timeout: seconds to wait for an answer.
        patience: seconds for which a request that fails on its way, or finds the service busy, is repeated.

    Raises:
        ValueError: `url` is not an address, or no request can have `key`.
    """

    def __init__(self, url: str | None, key: str | None, timeout: float, patience: float) -> None:
        self.url = service_url(url)
        self.address = shown_address(url)
        key = service_key(key)
        self.timeout = timeout
        self.patience = patience
        self.options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"X-API-Key": key} if key else {},
            "timeout": timeout,
        }
        self._models: Record | None = None

    def _send(self, request: Request) -> Flow[Reply]:
        """Send a request to the service, or where it sends us. Raises as `send`."""
        return (yield from send(request, self.patience, self.address))

    def ask(self, method: str, path: str, **query: object) -> Flow[Record]:
        """The JSON object that answers a request; a query of None is left out."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        reply = yield from self._send(Request(method, path, query=given))
        found: Record = reply.json(self.address)
        return found

    def models(self) -> Flow[Record]:
        """GET /models, asked once."""
        if self._models is None:
            self._models = yield from self.ask("GET", "/models")
        return self._models

    def submit(self, model: str, prompt: str, n: int, fields: Mapping[str, Value]) -> Flow[Record]:
        """Make a job, or `n` of them; returns the answer."""
        found = model_of((yield from self.models()), model)
        reply = yield from self._send(submission(found, prompt, n, fields))
        answer: Record = reply.json(self.address)
        return answer

    def resume(self, job_id: str, fields: Mapping[str, Value]) -> Flow[Record]:
        """Make a job that goes on with another one; returns the answer."""
        record = yield from self.ask("GET", f"/jobs/{job_id}")
        models = yield from self.models()
        route = next((model["route"] for model in models["models"] if model["type"] == record["type"]), "")
        form = {"from": job_id, **fields}
        texts = {name: _text(name, value) for name, value in form.items() if value is not None}
        headers = {"Prefer": "respond-async", "Idempotency-Key": secrets.token_hex(16)}
        reply = yield from self._send(Request("POST", route, form=texts, headers=headers))
        answer: Record = reply.json(self.address)
        return answer

    def pictures(self, ids: Sequence[str]) -> Flow[list[Picture]]:
        """The pictures of jobs that have ended."""
        found = []
        for job_id in ids:
            found.append((yield from self.picture(job_id)))
        return found

    def picture(self, job_id: str) -> Flow[Picture]:
        """The picture of a job that has ended.

        Raises:
            JobFailedError, JobCancelledError
        """
        record = yield from self.ask("GET", f"/jobs/{job_id}")
        if record["status"] == "cancelled":
            raise JobCancelledError(f"job {job_id} was cancelled", job_id=job_id)
        if record["status"] == "failed":
            raise JobFailedError(record.get("error") or "it failed", record.get("error_field"), job_id=job_id)
        reply = yield from self._send(Request("GET", f"/jobs/{job_id}/image"))
        if reply.status == 302:  # a link to an object store
            reply = yield from self._send(Request("GET", reply.headers["location"]))
        return Picture(reply.content, job_id, record.get("seed"), tuple(record.get("notes", ())))

    def preview(self, job_id: str) -> Flow[bytes | None]:
        """A job's picture so far."""
        reply = yield from self._send(Request("GET", f"/jobs/{job_id}/preview"))
        return reply.content if reply.headers.get("content-type") == "image/png" else None

    def timelapse(self, job_id: str, kind: str) -> Flow[bytes]:
        """A finished job's time-lapse, "webp" or "mp4"."""
        if kind not in ("webp", "mp4"):
            raise ValueError(f'kind: must be "webp" or "mp4", not {kind!r}')
        reply = yield from self._send(Request("GET", f"/jobs/{job_id}/timelapse.{kind}"))
        return reply.content

    def cancel(self, ids: Sequence[str]) -> Flow[Record]:
        """Cancel a job or a group."""
        if len(ids) == 1:
            return (yield from self.ask("DELETE", f"/jobs/{ids[0]}"))
        return (yield from self.ask("DELETE", "/jobs", group=ids[0]))

    def keep(self, ids: Sequence[str], method: str) -> Flow[None]:
        """Keep jobs (PUT), or release them (DELETE)."""
        for job_id in ids:
            yield from self.ask(method, f"/jobs/{job_id}/keep")

    def follow(self, ids: Sequence[str], timeout: float | None) -> Flow[None]:
        """Yield the progress of a job or of a group after each change, until the end.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds.
            RefusedError: there is no such job any more.
            UnreachableError
        """
        until = None if timeout is None else time.monotonic() + timeout
        if len(ids) == 1:
            return (yield from self._follow_one(ids[0], until))
        while True:
            page = yield from self.ask("GET", "/jobs", group=ids[0])
            if len(page["jobs"]) < len(ids):
                raise RefusedError("group: jobs of this group have expired", "group", 404, ids[0])
            progress = together(page["jobs"])
            yield progress
            if progress.ended:
                return None
            _check_time(until, ids[0])
            yield Pause(GROUP_PAUSE)

    def _follow_one(self, job_id: str, until: float | None) -> Flow[None]:
        reader = EventReader()
        lost_at = None  # when the connection was lost
        while True:
            longest = self.timeout if until is None else min(self.timeout, max(until - time.monotonic(), 0.1))
            request = Request("GET", f"/jobs/{job_id}/events", headers=reader.headers)
            reply = yield Open(request, longest)
            if reply.status >= 400 and reply.status not in (429, 503):
                raise reply.error(self.address)
            if reply.status == 204:  # no more events
                yield progress_of((yield from self.ask("GET", f"/jobs/{job_id}")))
                return None
            line = (yield ReadLine()) if 200 <= reply.status < 300 else None
            while line is not None:
                if progress := reader.feed(line):
                    lost_at = None
                    yield progress
                    if progress.ended:
                        return None
                _check_time(until, job_id)
                line = yield ReadLine()
            _check_time(until, job_id)
            now = time.monotonic()
            lost_at = lost_at or now
            if now - lost_at > self.patience:
                raise (
                    reply.error(self.address)
                    if reply.failure
                    else UnreachableError("the service sends no events")
                )
            yield Pause(FIRST_PAUSE)


def _check_time(until: float | None, job_id: str) -> None:
    if until is not None and time.monotonic() > until:
        raise TimeoutError(f"job {job_id} has not ended yet")


def submission(model: Record, prompt: str, n: int, fields: Mapping[str, Value]) -> Request:
    """The request that makes a job with a model, or `n` of them.

    Raises:
        OSError: a picture cannot be read; the message begins with its field.
        ValueError: a text holds what stands between texts; likewise.
    """
    form: dict[str, str] = {"prompt": prompt} if prompt else {}
    if n != 1:
        form["n"] = str(n)
    files = {}
    for name, value in fields.items():
        if value is None:
            continue
        if _is_picture(value) or model["parameters"].get(name, {}).get("format") == "binary":
            files[name] = _file(name, value)
        else:
            form[name] = _text(name, value)
    headers = {"Prefer": "respond-async", "Idempotency-Key": secrets.token_hex(16)}
    return Request("POST", model["route"], form=form, files=files, headers=headers)


def _text(name: str, value: Value) -> str:
    """A parameter as a form has it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if not isinstance(value, (Mapping, list)):
        return str(value)
    for text in value if name in BETWEEN else ():
        if BETWEEN[name].strip() in text:
            raise ValueError(f"{name}: {text!r} holds {BETWEEN[name].strip()!r}, which would divide it")
    parts = value if isinstance(value, list) else [f"{text}:{weight}" for text, weight in value.items()]
    return BETWEEN.get(name, ",").join(parts)


def _is_picture(value: Value) -> bool:
    return isinstance(value, (bytes, Path)) or hasattr(value, "save")


def _file(name: str, value: Any) -> tuple[str, bytes]:
    """The name and content of a file that is sent."""
    if isinstance(value, bytes):
        return name, value
    if hasattr(value, "save"):
        content = BytesIO()
        value.save(content, "PNG")
        return f"{name}.png", content.getvalue()
    path = Path(value)
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise type(error)(error.errno, f"{name}: cannot read {path}: {error.strerror}") from None


def model_of(models: Mapping[str, Any], command: str) -> Record:
    """The model with this command ("generate", "edit"), route or name.

    Raises:
        MeadError: the service has none.
    """
    for model in models["models"]:
        if command in (model["command"], model["name"], model["route"].strip("/")):
            found: Record = model
            return found
    known = ", ".join(model["command"] for model in models["models"])
    raise MeadError(f"model: this service has no {command}; it has {known}", "model")


class EventReader:
    """Reads the server-sent events of a job, line by line.

    Attributes:
        last_id: the id of the last event, from which a later stream goes on.
        closing: whether the server ends the stream although the job has not ended.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.closing = False
        self._name = self._data = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request for the stream."""
        resume = {"Last-Event-ID": self.last_id} if self.last_id else {}
        return {"Accept": "text/event-stream", **resume}

    def feed(self, line: str) -> Progress | None:
        """Read a line; the progress, if it ends an event."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data = value
        elif name == "id":
            self.last_id = value
        elif not line and self._data:
            name, data, self._data = self._name, json.loads(self._data), ""
            if name != "closing":
                return progress_of(data)
            self.closing = True
        return None


def progress_of(data: Record) -> Progress:
    """The progress that an event or a record tells."""
    return Progress(
        data["status"], data["steps"], data.get("total_steps"), data.get("loss"), data.get("rank")
    )
