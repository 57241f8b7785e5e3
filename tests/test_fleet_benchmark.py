"""The benchmark of fleets, on a real Redis and few servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fleet


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["fleet", *arguments])
    fleet.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_small_fleet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--servers", "3", "--seconds", "2", "--steps", "5", "--processes", "1"]
    told = run(capsys, monkeypatch, *arguments, "--json", str(tmp_path / "fleet.json"))
    figures = json.loads((tmp_path / "fleet.json").read_text())
    (row,) = figures["rows"]
    assert row["servers"] == 3 and row["reports"] > 0 and row["claims"] > 0 and row["report_p99"] > 0
    assert figures["full"]["reports"] > 0 and figures["full"]["us_per_report"] > 0
    assert "| 3 | 30, " in told and "One Redis carries" in told


def test_prices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = run(capsys, monkeypatch, "--prices", "T4=0.36:100", "--steps", "250")
    assert "| T4 | 0.36 | 100 | 144 | 2,500 |" in told.splitlines()


def test_how_many_servers_a_redis_carries() -> None:
    assert fleet.servers_per_redis(100.0, 10.0) == 350
