"""The files in deploy/: read by the programs that they are for, where these are installed, and true."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from caching_config import Settings
from mead.http.app import create_app
from mead.queue.heartbeats import EngineLoad
from mead.queue.jobs import Jobs
from tests.conftest import QUEUE, ROOT

DEPLOY = ROOT / "deploy"
FROM_PROMETHEUS = {"up"}


def run(program: str, *arguments: str | Path, cwd: Path = DEPLOY, **environment: str) -> tuple[int, str]:
    """The status of a program, and what it says; skips the test where it is not installed."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [found, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def expressions() -> dict[str, str]:
    """What is asked of Prometheus, by the alert's name or the panel's title."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    found = {rule["alert"]: rule["expr"] for group in rules for rule in group["rules"]}
    panels: list[dict[str, Any]] = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    for panel in panels:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def test_every_metric_of_alerts_and_dashboard_is_there(settings: Settings, jobs: Jobs) -> None:
    jobs.enqueue("a", "lr", QUEUE, {"prompt": "a house"})
    jobs.heartbeat("worker", {QUEUE: EngineLoad()}, 600)
    text = create_app(settings).test_client().get("/metrics").text
    samples = [sample for family in parse(text) for sample in family.samples]
    labels = {sample.name: set(sample.labels) for sample in samples}
    asked = expressions()
    assert len(asked) > 20
    for name, expression in asked.items():
        named = set(re.findall(r"\b((?:mead|process)_\w+|up)\b", expression))
        assert named and named - FROM_PROMETHEUS <= set(labels), name
        grouped = {
            label for part in re.findall(r"by \(([\w, ]+)\)", expression) for label in part.split(", ")
        }
        known = set().union(*(labels.get(metric, set()) for metric in named))
        assert grouped <= known, name
    told = {metric for name in asked for metric in re.findall(r"mead_\w+", asked[name])}
    families = {family.name for family in parse(text) if family.name.startswith("mead_")}
    shown = {re.sub("_(total|bucket)$", "", metric) for metric in told}
    assert families - shown == set()  # nothing is left out


def test_the_settings_of_the_units_are_settings() -> None:
    lines = (DEPLOY / "mead.env").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert names <= {name.upper() for name in Settings.model_fields}
    for unit in DEPLOY.glob("*.service"):
        script = re.search(r"^ExecStart=\S+ (\S+)$", unit.read_text(), re.M)
        assert script is not None and (ROOT / script[1]).exists()


def test_the_units(tmp_path: Path) -> None:
    names = []
    for unit in DEPLOY.glob("*.service"):
        name = unit.name.replace("@", "@0")
        (tmp_path / name).write_text(
            unit.read_text().replace("/srv/mead-backend/.venv/bin/python", "/bin/true")
        )
        names.append(tmp_path / name)
    assert len(names) == 2
    status, said = run("systemd-analyze", "verify", *names)
    wrong = [line for line in said.splitlines() if "mead-" in line]
    assert status == 0 and wrong == [], said


def test_nginx_reads_its_configuration(tmp_path: Path) -> None:
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} "
        f"http {{ access_log off; client_body_temp_path {tmp_path}/a; proxy_temp_path {tmp_path}/b; "
        f"fastcgi_temp_path {tmp_path}/c; uwsgi_temp_path {tmp_path}/d; scgi_temp_path {tmp_path}/e; "
        f"include {DEPLOY}/nginx.conf; }}"
    )
    status, said = run("nginx", "-t", "-c", main)
    assert status == 0 and "[warn]" not in said, said


def test_caddy_reads_its_configuration(tmp_path: Path) -> None:
    status, said = run(
        "caddy", "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile", HOME=str(tmp_path)
    )
    assert status == 0, said


def test_prometheus_reads_its_configuration() -> None:
    status, said = run("promtool", "check", "config", "prometheus.yml")
    assert status == 0, said


def test_the_limits_of_the_proxies_are_the_services() -> None:
    largest = int(Settings.model_fields["max_upload_bytes"].default)
    nginx, caddy = (DEPLOY / "nginx.conf").read_text(), (DEPLOY / "Caddyfile").read_text()
    assert f"client_max_body_size {largest // 2**20}m;" in nginx and "proxy_buffering off;" in nginx
    assert f"max_size {largest // 2**20}MiB" in caddy and "flush_interval -1" in caddy
