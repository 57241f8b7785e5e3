"""`/openapi.json`, and `/docs`, a page that shows it and loads nothing from other sites."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, request, send_from_directory

from mead.http.description import Description, describe
from mead.http.openapi import openapi_of
from mead.settings import Settings

PAGE = Path(__file__).parent / "docs"


def blueprint(settings: Settings) -> Blueprint:
    """The routes of the API's documentation."""
    routes = Blueprint("openapi", __name__)
    swagger = Path(str(resources.files("flask_openapi3_swagger"))) / "templates" / "swagger"

    @routes.get("/openapi.json")
    @describe(Description({200: ["application/json"]}))
    def openapi() -> Response:
        """This document."""
        servers = {"servers": [{"url": f"{request.script_root}/"}]}  # below the path prefix of a proxy
        return jsonify(openapi_of(current_app, settings) | servers)

    @routes.get("/docs")
    @describe(Description({200: ["text/html"]}))
    def docs() -> Response:
        """This document as a page."""
        return send_from_directory(PAGE, "index.html")

    @routes.get("/docs/<path:name>")
    def asset(name: str) -> Response:
        return send_from_directory(PAGE if (PAGE / name).is_file() else swagger, name, max_age=3600)

    return routes
