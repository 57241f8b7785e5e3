"""Which servers are stopped, and what servers are told; no cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

from caching_config import Settings
from mead.fleet.autoscaler import to_stop
from mead.fleet.cluster import server_environment
from mead.fleet.fleet import Server
from mead.fleet.load import FleetLoad
from mead.fleet.server import ServerSpec, ServerState


def server(name: str, worker: str | None, answers: bool = True) -> Server:
    return Server(f"inference-server-12345678-{name}", None, ServerState("", 1, worker) if answers else None)


WAITING, STARTING = server("waiting", None, answers=False), server("starting", None)
IDLE, BUSY = server("idle", "idle"), server("busy", "busy")
LOAD = FleetLoad({}, {}, {"idle": 0, "busy": 3})


@pytest.mark.parametrize(
    ("number", "stopped"),
    [
        (1, [WAITING]),
        (2, [WAITING, STARTING]),
        (3, [WAITING, STARTING, IDLE]),
        (4, [WAITING, STARTING, IDLE]),
    ],
)
def test_servers_that_hold_jobs_are_not_stopped(number: int, stopped: list[Server]) -> None:
    assert to_stop([BUSY, IDLE, WAITING, STARTING], LOAD, number) == stopped


def test_what_servers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"WEIGHTS": "full", "API_KEYS": "12345678", "DEVICE": "cuda:1", "AWS_REGION": "mars", "HOME": "/"}
    settings = Settings(redis_url="redis://:secret@10.0.0.5/0", data_dir=Path("var"))
    told = {
        "REDIS_URL": "redis://:secret@10.0.0.5/0",
        "DATA_DIR": str(tmp_path / "var"),
        "WEIGHTS": "full",
        "AWS_REGION": "mars",
    }
    assert server_environment(settings, given, gpus=0.5) == told
    assert server_environment(settings, given, gpus=0) == {**told, "DEVICE": "cpu"}


def test_other_settings_have_another_fingerprint() -> None:
    spec = ServerSpec({"WEIGHTS": "full"}, cpus=1, gpus=1)
    assert spec.fingerprint == ServerSpec({"WEIGHTS": "full"}, cpus=1, gpus=1).fingerprint
    others = [ServerSpec({"WEIGHTS": "demo"}, 1, 1), ServerSpec({"WEIGHTS": "full"}, 1, 0.5)]
    assert len({spec.fingerprint, *(other.fingerprint for other in others)}) == 3
