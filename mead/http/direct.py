"""The API without a queue: each request runs its job itself, one at a time. app.py serves it."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flask import Flask, Response, request

from mead.http.app import new_app
from mead.http.forms import ApiError, Forms, input_error
from mead.http.openapi import Content, Description, describe
from mead.http.responses import Change, Picture, success
from mead.http.sse import EVENT_STREAM, event, stream, wants_events
from mead.imaging.encoding import png_bytes
from mead.model_spec import ModelSpec
from mead.nn.precision import best_device
from mead.params import JobParams
from mead.registry import MODELS
from mead.revision import Pipeline, check_loss, picture_of, run, start
from mead.settings import Settings
from mead.storage import Storage


def create_app(settings: Settings | None = None) -> Flask:
    """The API; each model's weights are loaded when it is first asked for."""
    settings = settings or Settings()
    storage = Storage(settings.data_dir)
    forms = Forms(storage, settings)
    one_at_a_time = threading.Lock()
    app = new_app(settings)

    def answer(spec: ModelSpec) -> Response:
        job_id = secrets.token_hex(16)
        params = forms.read(request, spec.params, job_id).params
        if wants_events(request):
            return stream(story(job_id, params, spec), settings.client_sleep)
        try:
            with one_at_a_time:
                picture = run(pipeline(spec), params)
        except ValueError as error:  # what the model says of the parameters
            raise input_error(error) from error
        except FloatingPointError as error:
            raise ApiError(500, str(error)) from error
        finally:
            storage.remove_uploads(params.pictures().values())
        return success(job_id, png_bytes(picture))

    def story(job_id: str, params: JobParams, spec: ModelSpec) -> Iterator[str]:
        """A job as events. A client that hangs up ends it: nobody else could have its picture."""
        try:
            while not one_at_a_time.acquire(timeout=settings.sse_heartbeat):
                yield ": still waiting\n\n"
            try:
                yield from events_of(job_id, params, pipeline(spec))
            finally:
                one_at_a_time.release()
        finally:
            storage.remove_uploads(params.pictures().values())

    def pipeline(spec: ModelSpec) -> Pipeline[Any]:
        pipeline: Pipeline[Any] = spec.load_pipeline(settings.weights, settings.device or best_device())
        return pipeline

    for spec in MODELS.values():
        app.add_url_rule(f"/{spec.route}", spec.route, _view(spec, answer), methods=["POST"])
    return app


def _view(spec: ModelSpec, answer: Callable[[ModelSpec], Response]) -> Callable[[], Response]:
    """The view of a model's POST, described."""

    def view() -> Response:
        return answer(spec)

    view.__doc__ = f"{spec.summary}\n\n{spec.about}"
    answers: Mapping[int, Sequence[Content]] = {200: (Picture, EVENT_STREAM)}
    errors = (400, 403, 413, 415, 422, 429, 500, 503)
    return describe(Description(answers, errors, spec.params, examples=spec.examples, about="pictures"))(view)


def events_of(job_id: str, params: JobParams, pipeline: Pipeline[Any]) -> Iterator[str]:
    """Run a job: the event `progress` after each step, `end` with the picture or with what was wrong."""
    now = Change(id=job_id, status="processing", steps=0)
    try:
        revision = start(pipeline, params)
        now = now.model_copy(update={"total_steps": revision.steps})
        while not revision.finished:
            pipeline.step([revision])
            check_loss(revision)
            now = now.model_copy(update={"steps": revision.step, "loss": revision.loss})
            yield event("progress", now, revision.step)
        image = base64.b64encode(png_bytes(picture_of(pipeline, revision))).decode("ascii")
        end: dict[str, Any] = {"status": "succeeded", "image": image}
    except ValueError as error:  # what the model says of the parameters
        wrong = input_error(error)
        end = {"status": "failed", "message": wrong.message, "field": wrong.field}
    except FloatingPointError as error:
        end = {"status": "failed", "message": str(error)}
    yield event("end", now.model_copy(update=end))
