"""The API for trying the models out: the forms of caching_server.py, without Redis and one job at a time.

`python app.py`, or `flask run`. /styleclip without a picture starts from the average face.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

from caching_config import Settings
from LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.api import new_app, success
from mead.forms import input_error, read_form
from mead.images import png_bytes
from mead.params import JobParams
from mead.precision import best_device
from mead.revision import Pipeline, run
from mead.storage import Storage
from StyleCLIP import StyleCLIP
from StyleCLIP.params import StyleCLIPParams


def create_app(settings: Settings | None = None) -> Flask:
    """The API; each model's weights are loaded when it is first asked for."""
    settings = settings or Settings()
    storage = Storage(settings.data_dir)
    one_at_a_time = threading.Lock()
    app = new_app(settings)

    @app.post("/latent_revision")
    def latent_revision() -> Response:
        return answer(LatentRevisionsParams, LatentRevisions.load_pipeline)

    @app.post("/styleclip")
    def styleclip() -> Response:
        return answer(StyleCLIPParams, StyleCLIP.load_pipeline)

    def answer(model: type[JobParams], load: Callable[[str, str], Pipeline[Any]]) -> Response:
        job_id = secrets.token_hex(16)
        params = read_form(request, model, job_id, storage, settings)
        try:
            with one_at_a_time:
                pipeline = load(settings.weights, settings.device or best_device())
                picture = run(pipeline, params)
        except ValueError as error:  # what the model says of the parameters
            raise input_error(error) from error
        finally:
            storage.remove_uploads(job_id)
        return success(job_id, png_bytes(picture))

    return app


if __name__ == "__main__":
    settings = Settings()
    logging.basicConfig(level=logging.DEBUG if settings.debug else logging.INFO)
    create_app(settings).run(
        settings.host, settings.port, debug=settings.debug, threaded=settings.threaded, use_reloader=False
    )
