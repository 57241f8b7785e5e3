"""GET /metrics, for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mead.http.collectors import ServerCollector, ServiceCollector
from mead.http.description import Description, describe
from mead.http.services import Services


def blueprint(services: Services) -> Blueprint:
    """GET /metrics."""
    routes = Blueprint("metrics", __name__)
    registry = CollectorRegistry()
    registry.register(ServiceCollector(services.settings, services.jobs, services.storage))
    registry.register(ServerCollector())

    @routes.get("/metrics")
    @describe(Description({200: ["text/plain", "application/openmetrics-text"]}))
    def metrics() -> Response:
        """Metrics for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    return routes
