"""The files with which the service is deployed, as far as they can be checked without Docker or a cloud."""

from __future__ import annotations

import pytest
import yaml

from deploy.check_dockerfile import ROOT, context_files, instructions, patterns_of


def test_the_image_is_made_of_what_the_package_needs() -> None:
    context = {str(path) for path in context_files(ROOT, patterns_of(ROOT / ".dockerignore"))}
    assert {
        "pyproject.toml",
        "requirements.lock",
        "mead/queue/lua/claim.lua",
        "mead/page/index.html",
    } <= context
    assert {"tests/data/face.jpeg", "weights/manifest.toml", "LICENSE", "inference_server.py"} <= context
    assert any(path.startswith("weights/demo/") for path in context)
    assert not [path for path in context if path.startswith((".venv", ".git", "training", "docs", "var"))]
    assert not [path for path in context if path.endswith((".pyc", "conftest.py"))]


def test_the_image_runs_as_another_user_than_root() -> None:
    given = instructions((ROOT / "Dockerfile").read_text())
    keywords = [keyword for keyword, _ in given]
    assert keywords[0] == "FROM" and "HEALTHCHECK" in keywords
    assert [rest for keyword, rest in given if keyword == "USER"] == ["mead"]
    assert keywords.index("USER") > max(at for at, keyword in enumerate(keywords) if keyword == "RUN")
    assert not [rest for keyword, rest in given if "\\" in rest and keyword == "RUN"]


def test_every_container_has_a_check_and_restarts() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services.keys() == {"redis", "caching", "inference"}
    assert all(service["restart"] == "unless-stopped" for service in services.values())
    assert "healthcheck" in services["redis"] and "healthcheck" in services["inference"]
    compile(services["inference"]["healthcheck"]["test"][3], "healthcheck", "exec")
    assert "noeviction" in services["redis"]["command"] and "always" in services["redis"]["command"]


def test_the_cluster_is_one_to_rays_own_validator() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text()))
    util.validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0 and types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["max_workers"] == config["max_workers"]
