"""The API for trying the models out: the forms of caching_server.py, without Redis and one job at a time.

`python app.py`, or `flask run`. /styleclip without a picture starts from the average face. With `Accept:
text/event-stream` each step is told, and the last event holds the picture.
"""

from __future__ import annotations

import base64
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from flask import Flask, Response, request

from caching_config import Settings
from LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead import log
from mead.http.access import check_listening, is_loopback
from mead.http.app import new_app
from mead.http.forms import ApiError, Forms, input_error
from mead.http.openapi import Content, Description, describe
from mead.http.responses import Change, Picture, success
from mead.http.sse import EVENT_STREAM, event, stream, wants_events
from mead.imaging.pictures import png_bytes
from mead.nn.precision import best_device
from mead.params import JobParams
from mead.registry import LATENT_REVISION, STYLECLIP
from mead.revision import Pipeline, check_loss, picture_of, run, start
from mead.storage import Storage
from StyleCLIP import StyleCLIP
from StyleCLIP.params import StyleCLIPParams

Load = Callable[[str, str], Pipeline[Any]]


def create_app(settings: Settings | None = None) -> Flask:
    """The API; each model's weights are loaded when it is first asked for."""
    settings = settings or Settings()
    storage = Storage(settings.data_dir)
    forms = Forms(storage, settings)
    one_at_a_time = threading.Lock()
    app = new_app(settings)
    answers: Mapping[int, Sequence[Content]] = {200: (Picture, EVENT_STREAM)}
    errors = (400, 403, 413, 415, 422, 429, 500, 503)

    @app.post("/latent_revision")
    @describe(
        Description(
            answers, errors, LatentRevisionsParams, examples=LATENT_REVISION.examples, about="pictures"
        )
    )
    def latent_revision() -> Response:
        """Make a picture from words."""
        return answer(LatentRevisionsParams, LatentRevisions.load_pipeline)

    @app.post("/styleclip")
    @describe(Description(answers, errors, StyleCLIPParams, examples=STYLECLIP.examples, about="pictures"))
    def styleclip() -> Response:
        """Edit the photo of a face, or the average face, by words."""
        return answer(StyleCLIPParams, StyleCLIP.load_pipeline)

    def answer(model: type[JobParams], load: Load) -> Response:
        job_id = secrets.token_hex(16)
        params = forms.read(request, model, job_id).params
        if wants_events(request):
            return stream(story(job_id, params, load), settings.client_sleep)
        try:
            with one_at_a_time:
                picture = run(pipeline(load), params)
        except ValueError as error:  # what the model says of the parameters
            raise input_error(error) from error
        except FloatingPointError as error:
            raise ApiError(500, str(error)) from error
        finally:
            storage.remove_uploads(params.pictures().values())
        return success(job_id, png_bytes(picture))

    def story(job_id: str, params: JobParams, load: Load) -> Iterator[str]:
        """A job as events. A client that hangs up ends it: nobody else could have its picture."""
        try:
            while not one_at_a_time.acquire(timeout=settings.sse_heartbeat):
                yield ": still waiting\n\n"
            try:
                yield from events_of(job_id, params, pipeline(load))
            finally:
                one_at_a_time.release()
        finally:
            storage.remove_uploads(params.pictures().values())

    def pipeline(load: Load) -> Pipeline[Any]:
        return load(settings.weights, settings.device or best_device())

    return app


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


if __name__ == "__main__":
    settings = Settings()
    log.set_up(settings)
    check_listening(settings)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    debug = settings.debug and is_loopback(settings.host)  # the debugger runs whatever it is sent
    logging.getLogger("app").info("listening", extra={"at": f"http://{settings.listening_at}"})
    create_app(settings).run(
        settings.host, settings.port, debug=debug, threaded=settings.threaded, use_reloader=False
    )
