"""The API without a queue: each request runs its job itself, one at a time. Served by app.py."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flask import Flask, Response, request

from mead.folder_storage import FolderStorage
from mead.http import faces, models
from mead.http.app import base_app
from mead.http.description import Content, Description, describe
from mead.http.errors import ApiError, input_error
from mead.http.forms import FormReader, check_one
from mead.http.openapi_texts import EVENT_STREAM
from mead.http.responses import picture_response
from mead.http.schemas import Change, Picture
from mead.http.sse import HEARTBEAT, event_response, format_event, wants_events
from mead.http.uploads import PendingUploads
from mead.imaging.encoding import add_texts, png_bytes
from mead.limits import check_steps
from mead.model_spec import ModelSpec
from mead.nn.precision import best_device
from mead.params import JobParams
from mead.provenance import chunks_of
from mead.registry import MODELS
from mead.resuming import FIELD
from mead.revision import Pipeline, check_loss, finish, result_of, start
from mead.settings import Settings
from mead.weights.notes import notes_on


def create_app(settings: Settings | None = None) -> Flask:
    """The API; each model's weights are loaded on its first request."""
    settings = settings or Settings()
    runner = Runner(settings)
    app = base_app(settings, files_required=False)
    app.register_blueprint(models.blueprint(settings, files_required=False))
    app.register_blueprint(faces.blueprint(settings, runner.forms))
    for spec in MODELS.values():
        app.add_url_rule(f"/{spec.route}", spec.route, _view(spec, runner), methods=["POST"])
    return app


def _view(spec: ModelSpec, runner: Runner) -> Callable[[], Response]:
    """The view of a model's POST, described."""

    def view() -> Response:
        return runner.answer(spec)

    view.__doc__ = f"{spec.summary}\n\n{spec.about}"
    answers: Mapping[int, Sequence[Content]] = {200: (Picture, EVENT_STREAM)}
    errors = (400, 403, 413, 415, 422, 429, 500, 503)
    examples = {title: form for title, form in spec.examples.items() if FIELD not in form}  # it keeps no jobs
    return describe(Description(answers, errors, spec.params, examples=examples, tag="pictures"))(view)


class Runner:
    """Runs jobs in this process, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.storage = FolderStorage(settings.data_dir)
        self.forms = FormReader(settings)
        self._lock = threading.Lock()

    def answer(self, spec: ModelSpec) -> Response:
        """Run the job of this request, and answer with its picture or its events.

        Raises:
            ApiError: the form is invalid, or the job has failed.
        """
        with PendingUploads(self.storage) as uploads:
            params = self.forms.read(request, spec.params, uploads).params
            if params.frames:
                raise ApiError(
                    422, "frames: this server keeps no time-lapse; caching_server.py does", "frames"
                )
            notes = notes_on(params, self.settings.weights)
            if wants_events(request):
                check_one(params)
                events = self._events(uploads.job_ids[0], params, notes, spec)
                response = event_response(events, self.settings.client_sleep)
                response.call_on_close(uploads.remove)
                uploads.keep()
                return response
            try:
                with self._lock:
                    pipeline = self._pipeline(spec)
                    revisions = [start(pipeline, variant) for variant in params.variants()]
                    notes += revisions[0].notes
                    for revision in revisions:
                        check_steps(params, revision.steps, self.settings)
                    pictures = [finish(pipeline, [revision])[0] for revision in revisions]
            except ValueError as error:  # the model refuses the parameters
                raise input_error(error) from error
            except FloatingPointError as error:
                raise ApiError(500, str(error)) from error
        for picture, variant, revision in zip(pictures, params.variants(), revisions, strict=True):
            add_texts(picture, chunks_of(variant, revision.steps, spec.name, self.settings.weights))
        images = dict(zip(uploads.job_ids, map(png_bytes, pictures), strict=True))
        return picture_response(images, notes, revisions[0].faces)

    def _events(self, job_id: str, params: JobParams, notes: Sequence[str], spec: ModelSpec) -> Iterator[str]:
        """A job's events. The job ends if the client disconnects: nobody else could get its picture."""
        while not self._lock.acquire(timeout=self.settings.sse_heartbeat):
            yield HEARTBEAT
        try:
            yield from job_events(
                job_id,
                params,
                notes,
                self._pipeline(spec),
                partial(chunks_of, model=spec.name, weights=self.settings.weights),
                partial(check_steps, settings=self.settings),
            )
        finally:
            self._lock.release()

    def _pipeline(self, spec: ModelSpec) -> Pipeline[Any]:
        device = self.settings.device or best_device()
        pipeline: Pipeline[Any] = spec.load_pipeline(self.settings.weights, device)
        return pipeline


def job_events(
    job_id: str,
    params: JobParams,
    notes: Sequence[str],
    pipeline: Pipeline[Any],
    chunks_of: Callable[[JobParams, int], Mapping[str, str]],
    check_steps: Callable[[JobParams, int], None] = lambda params, steps: None,
) -> Iterator[str]:
    """Run a job: `progress` after each step, then `end` with the picture or the error.

    Args:
        chunks_of: the text chunks of the picture's PNG, of a job with these parameters and steps.
        check_steps: raises ParamsError if a job with these parameters takes too many steps.
    """
    change = Change(id=job_id, status="processing", steps=0, notes=list(notes) or None)
    try:
        revision = start(pipeline, params)
        check_steps(params, revision.steps)
        known = {"total_steps": revision.steps, "faces": list(revision.faces) or None}
        known["notes"] = [*notes, *revision.notes] or None
        change = change.model_copy(update=known)
        while not revision.finished:
            pipeline.step([revision])
            check_loss(revision)
            change = change.model_copy(update={"steps": revision.step, "loss": revision.loss})
            yield format_event("progress", change, revision.step)
        picture = result_of(pipeline, revision)
        add_texts(picture, chunks_of(params, revision.steps))
        image = base64.b64encode(png_bytes(picture)).decode("ascii")
        end: dict[str, Any] = {"status": "succeeded", "image": image}
    except ValueError as error:  # the model refuses the parameters
        api_error = input_error(error)
        end = {"status": "failed", "message": api_error.message, "field": api_error.field}
    except FloatingPointError as error:
        end = {"status": "failed", "message": str(error)}
    yield format_event("end", change.model_copy(update=end))
