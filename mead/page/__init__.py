"""The web page for artists, at `/`: three files that know nothing but the API."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from mead.http.openapi import Description, describe

HERE = Path(__file__).parent
PARTS = ("page.css", "page.js")


def blueprint() -> Blueprint:
    """`/` and its parts, which a browser keeps but asks for each time whether they have changed."""
    routes = Blueprint("page", __name__)

    @routes.get("/")
    @describe(Description({200: ["text/html"]}))
    def page() -> Response:
        """The page for making and editing pictures in a browser."""
        return send_from_directory(HERE, "index.html")

    @routes.get(f"/page/<any({', '.join(map(repr, PARTS))}):name>")
    def part(name: str) -> Response:
        return send_from_directory(HERE, name)

    return routes
