"""The Flask app: queues jobs in Redis and answers when they have ended.

`mead.http.submission` creates jobs, `mead.http.job_views` shows and cancels them, `mead.http.job_lists`
lists them, `mead.http.models` says what can be made, `mead.http.faces` finds faces in photos,
`mead.http.health` and `mead.http.metrics` report on the service, `mead.http.api_docs` and `mead.http.page`
serve pages. app.py uses `base_app` to serve the same forms without a queue. Nothing here imports PyTorch, so
that the process stays small.
"""

from __future__ import annotations

from flask import Flask

from mead.http import api_docs, faces, health, job_lists, job_views, metrics, models, page, submission
from mead.http.access import init_access
from mead.http.error_handlers import init_error_handlers
from mead.http.multipart import FormRequest
from mead.http.request_log import init_request_log
from mead.http.services import Services
from mead.settings import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """The API with a queue. Connects to Redis on the first request that needs it.

    `services_of(app).events.close()` answers all waiting requests with 503.
    """
    settings = settings or Settings()
    app = base_app(settings)
    services = Services.create(settings)
    services.init_app(app)
    app.register_blueprint(models.blueprint(settings))
    app.register_blueprint(submission.blueprint())
    app.register_blueprint(faces.blueprint(settings, services.forms))
    app.register_blueprint(job_views.blueprint())
    app.register_blueprint(job_lists.blueprint())
    app.register_blueprint(health.readiness_blueprint())
    app.register_blueprint(metrics.blueprint(services))
    return app


def base_app(settings: Settings, *, files_required: bool = True) -> Flask:
    """What both APIs have: access control, the size limit, error answers, pages and liveness routes.

    Args:
        files_required: whether the models require the files that their specs say.
    """
    app = Flask(__name__, static_folder=None)
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes
    init_request_log(app)
    init_access(app, settings)
    init_error_handlers(app, settings)
    app.register_blueprint(health.liveness_blueprint())
    app.register_blueprint(api_docs.blueprint(settings))
    app.register_blueprint(page.blueprint(settings, files_required=files_required))
    return app
