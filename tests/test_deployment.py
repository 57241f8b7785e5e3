"""The files in deploy/, with the programs that they are for, where these are installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mead.cli.local_redis import free_port
from tests.conftest import ROOT, Service, eventually

NAME = "mead.example.com"


def installed(program: str) -> str:
    """The path of a program; without it, the test is skipped."""
    found = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return found or pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, waiting_room: Service) -> Iterator[int]:
    """nginx with deploy/nginx.conf in front of a service; its port."""
    program = installed("nginx")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    shipped = (ROOT / "deploy" / "nginx.conf").read_text()
    ours = shipped.replace("listen 80", f"listen 127.0.0.1:{port}").replace(
        "listen [::]:80", f"listen [::1]:{port}"
    )
    (folder / "mead.conf").write_text(
        ours.replace("127.0.0.1:5000", waiting_room.url.removeprefix("http://"))
    )
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {{}} "
        f"http {{ access_log off; {temporary} include mead.conf; }}"
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: reached(port))
        yield port
        process.terminate()


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Folders that nginx would otherwise have in the system's."""


def reached(port: int) -> bool:
    try:
        return ask(port, NAME).ok
    except requests.ConnectionError:
        return False


def ask(port: int, host: str, path: str = "/healthz", **more: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{port}{path}", headers={"Host": host, **more}, timeout=60)


def test_nginx_passes_on_what_is_for_its_name(nginx: int) -> None:
    answer = ask(nginx, NAME, "/jobs/none", **{"X-Request-ID": "mine"})
    assert answer.status_code == 404 and answer.headers["X-Request-ID"] == "mine"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", f"other.{NAME}"])
def test_nginx_answers_under_no_other_name(nginx: int, host: str) -> None:
    with pytest.raises(requests.ConnectionError):
        ask(nginx, host)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    promtool = installed("promtool")
    for what, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        checked = subprocess.run(
            [promtool, "check", what, name], cwd=ROOT / "deploy", capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = tmp_path / "tests.yml"
    tests.write_text(RULES.replace("[RULES]", f"[{ROOT}/deploy/alerts.yml]"))
    tested = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


RULES = """
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - name: what clients do sets off nothing
    interval: 1m
    input_series:
      - {series: 'mead_webhooks_total{outcome="failed"}', values: '0+10x60'}
      - {series: 'mead_webhooks_late_seconds', values: '0x60'}
      - {series: 'mead_jobs_ended_total{type="sc",status="failed"}', values: '0+10x60'}
      - {series: 'mead_jobs_failed_total{type="sc",fault="input"}', values: '0+10x60'}
      - {series: 'mead_jobs_failed_total{type="sc",fault="internal"}', values: '0x60'}
    alert_rule_test:
      - {eval_time: 59m, alertname: MeadWebhooksAreLate}
      - {eval_time: 59m, alertname: MeadJobsFail}
  - name: what the service does sets them off
    interval: 1m
    input_series:
      - {series: 'mead_webhooks_late_seconds', values: '0+60x60'}
      - {series: 'mead_jobs_ended_total{type="sc",status="failed"}', values: '0+10x60'}
      - {series: 'mead_jobs_failed_total{type="sc",fault="internal"}', values: '0+10x60'}
    promql_expr_test:
      - expr: 'count(ALERTS{alertname=~"MeadWebhooksAreLate|MeadJobsFail",alertstate="firing"})'
        eval_time: 59m
        exp_samples: [{labels: '{}', value: 2}]
"""


def test_caddy_takes_its_configuration() -> None:
    command = [
        installed("caddy"),
        "validate",
        "--config",
        ROOT / "deploy" / "Caddyfile",
        "--adapter",
        "caddyfile",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
