"""The web page for artists, at `/`, and the one for operators, at `/queue`: templates, style sheets and
scripts that use the API.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, current_app, render_template, request, send_from_directory
from jinja2.utils import htmlsafe_json_dumps

from mead.http.description import Description, describe
from mead.http.models import models_of
from mead.http.schemas import Models
from mead.log import reason
from mead.model_spec import ModelSpec
from mead.registry import MODELS
from mead.settings import Settings
from mead.weights.errors import WeightsError

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[1] / "page"
ASSETS = frozenset({".css", ".js", ".webp"})
"""The suffixes of files in FOLDER that are served as they are."""


def blueprint(settings: Settings, *, files_required: bool = True) -> Blueprint:
    """`/`, `/queue` if there is one, and their assets. Browsers may cache them, but ask each time.

    Args:
        files_required: whether the models require the files that their specs say.
    """
    routes = Blueprint("page", __name__, template_folder=FOLDER)

    @routes.get("/")
    @describe(Description({200: ["text/html"]}))
    def page() -> Response:
        """The page for making and editing pictures in a browser."""
        return _page("index.html", service_of(settings, files_required))

    @routes.get("/queue")
    @describe(Description({200: ["text/html"]}, errors=(404,)))
    def queue() -> Response:
        """The page that shows operators what waits, what runs and what has failed."""
        service = service_of(settings, files_required)
        if "GET /queues" not in service["routes"]:
            abort(404)
        return _page("queue.html", service)

    @routes.get("/page/<name>")
    def asset(name: str) -> Response:
        if Path(name).suffix not in ASSETS:
            abort(404)
        return send_from_directory(FOLDER, name)

    return routes


def service_of(settings: Settings, files_required: bool) -> dict[str, Any]:
    """What the page's scripts are told of the service: its models as GET /models lists them, their forms, its
    routes, whether it needs a key, and for how long it keeps jobs and their latents. Without models if the
    weights cannot be used.
    """
    service: dict[str, Any] = {
        "models": [],
        "draws": "",
        "thumbnails": {},
        "forms": {spec.type: _form_of(spec) for spec in MODELS.values()},
        "routes": sorted(_routes()),
        "needs_key": bool(settings.api_keys),
        "job_ttl": settings.job_ttl,
        "latents_ttl": settings.latents_ttl,
    }
    try:
        models = models_of(settings, files_required=files_required)
        content = models.content()
        service |= {name: content[name] for name in ("models", "draws")}
        service["thumbnails"] = _thumbnails(models)
    except WeightsError as error:
        log.error("the weights set cannot be used", extra={"error": reason(error)})
    return service


def _form_of(spec: ModelSpec) -> dict[str, Any]:
    """A model's form without what is empty, its sections as a list: objects in JSON have no order."""
    form = asdict(spec.form)
    sections = [
        (legend, [{name: value for name, value in field.items() if value} for field in fields])
        for legend, fields in form["sections"].items()
    ]
    return form | {"sections": sections, "goes_on": spec.goes_on, "anew": list(spec.anew)}


def _thumbnails(models: Models) -> dict[str, str]:
    """Files that show what became of examples, by prompt; of sets that have such files."""
    found = {}
    for model in models.models:
        for prompt in model.examples:
            name = f"{models.weights}-{'-'.join(re.findall('[a-z0-9]+', prompt.lower()))}.webp"
            if (FOLDER / name).is_file():
                found[prompt] = name
    return found


def _routes() -> set[str]:
    """The routes of this app, as in "GET /jobs/{job_id}"."""
    routes = set()
    for rule in current_app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<>]*:)?([^<>]+)>", r"{\1}", rule.rule)
        routes |= {f"{method} {path}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return routes


def _page(template: str, service: dict[str, Any]) -> Response:
    scripts = sorted(path.name for path in FOLDER.glob("*.js"))
    told = htmlsafe_json_dumps(service, separators=(",", ":"))
    text = render_template(template, service=service, told=told, scripts=scripts)
    answer = Response(text, mimetype="text/html")
    answer.add_etag()
    answer.cache_control.no_cache = True
    answer.make_conditional(request)
    return answer
