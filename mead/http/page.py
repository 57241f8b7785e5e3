"""The web page for artists, at `/`: a template that lists the models, a style sheet, and a script that uses
the API.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, render_template, request, send_from_directory

from mead.http.description import Description, describe
from mead.http.form_schema import weight_set
from mead.registry import MODELS
from mead.settings import Settings

FOLDER = Path(__file__).parents[1] / "page"
ASSETS = ("page.css", "page.js")


def blueprint(settings: Settings) -> Blueprint:
    """`/` and its assets. Browsers may cache them, but revalidate them each time."""
    routes = Blueprint("page", __name__, template_folder=FOLDER)

    @routes.get("/")
    @describe(Description({200: ["text/html"]}))
    def page() -> Response:
        """The page for making and editing pictures in a browser."""
        text = render_template("index.html", models=MODELS.values(), weights=weight_set(settings.weights))
        answer = Response(text, mimetype="text/html")
        answer.add_etag()
        answer.cache_control.no_cache = True
        answer.make_conditional(request)
        return answer

    @routes.get(f"/page/<any({', '.join(map(repr, ASSETS))}):name>")
    def asset(name: str) -> Response:
        return send_from_directory(FOLDER, name)

    return routes
