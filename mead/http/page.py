"""The web page for artists, at `/`: a template that lists the models, a style sheet, and a script that knows
nothing but the API.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, render_template, request, send_from_directory

from mead.http.openapi import Description, describe
from mead.registry import MODELS

HERE = Path(__file__).parents[1] / "page"
PARTS = ("page.css", "page.js")


def blueprint() -> Blueprint:
    """`/` and its parts, which a browser keeps but asks for each time whether they have changed."""
    routes = Blueprint("page", __name__, template_folder=HERE)

    @routes.get("/")
    @describe(Description({200: ["text/html"]}))
    def page() -> Response:
        """The page for making and editing pictures in a browser."""
        answer = Response(render_template("index.html", models=MODELS.values()), mimetype="text/html")
        answer.add_etag()
        answer.cache_control.no_cache = True
        answer.make_conditional(request)
        return answer

    @routes.get(f"/page/<any({', '.join(map(repr, PARTS))}):name>")
    def part(name: str) -> Response:
        return send_from_directory(HERE, name)

    return routes
