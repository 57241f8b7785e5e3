"""`mead ray` without a cluster; tests/mead/fleet runs it with one."""

from __future__ import annotations

import socket
import sys

import click
import pytest

from mead.cli.main import program
from mead.cli.parser import CommandError


def ray(*arguments: str) -> None:
    program()(["ray", *arguments], standalone_mode=False)


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CommandError, match=r"Ray is not installed: pip install 'mead-backend\[ray\]'"):
        ray("status")


def test_limits_that_contradict_each_other() -> None:
    with pytest.raises(click.UsageError, match="--min is more than --max"):
        ray("up", "--min", "3", "--max", "2")


def test_an_address_where_no_ray_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            CommandError, match=r"no Ray cluster at 127\.0\.0\.1:\d+: it does not answer"
        ) as failed:
            ray("status", "--timeout", "1")
    assert failed.value.code == 3


def test_where_no_cluster_is() -> None:
    pytest.importorskip("ray")
    with pytest.raises(CommandError, match=r"no Ray cluster at 127\.0\.0\.1:1: ") as failed:
        ray("down", "--address", "127.0.0.1:1")
    assert failed.value.code == 3
