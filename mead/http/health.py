"""The routes for health checks."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from mead.http.description import Description, describe
from mead.http.errors import ApiError
from mead.http.responses import json_response
from mead.http.schemas import Alive, Ready
from mead.http.services import current_services


def liveness_blueprint() -> Blueprint:
    """/index and /healthz, which answer as long as the process runs."""
    routes = Blueprint("liveness", __name__)
    routes.add_url_rule("/index", view_func=index, methods=["GET", "POST"])
    routes.add_url_rule("/healthz", view_func=healthz)
    return routes


def readiness_blueprint() -> Blueprint:
    """/readyz."""
    routes = Blueprint("readiness", __name__)
    routes.add_url_rule("/readyz", view_func=readyz)
    return routes


@describe(Description({200: ["application/json"]}))
def index() -> Response:
    """A greeting, as a JSON string."""
    return jsonify("Hello, its up!")


@describe(Description({200: [Alive]}))
def healthz() -> Response:
    """Whether the process is running."""
    return json_response(Alive())


@describe(Description({200: [Ready]}, errors=(503,)))
def readyz() -> Response:
    """Whether the service is ready: Redis, a live inference server for each model, the disk.

    `warnings` lists configuration problems that may lose jobs, such as a Redis without persistence.
    """
    services = current_services()
    problems = services.readiness.problems()
    if problem := services.events.problem():
        problems.append(problem)
    if problems:
        raise ApiError(503, "; ".join(problems))
    return json_response(Ready(warnings=services.readiness.warnings() or None))
