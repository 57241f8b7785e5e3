"""A fleet on a Ray cluster of several nodes on this machine; jobs and servers are real, without networks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from benchmarks.ray_chaos import COLOURS, Stage, check, parents, processes_of, stage
from mead.fleet import cluster
from mead.fleet.scaling import ScalingPolicy
from tests.conftest import ROOT, eventually

pytestmark = [pytest.mark.slow, pytest.mark.service]


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two nodes with room for a server each; one server runs."""
    folder = tmp_path_factory.mktemp("ray")
    with stage(folder, 2, ScalingPolicy(1, 2, drain_seconds=2, quiet_seconds=2), COLOURS) as on:
        yield on
    eventually(lambda: not processes_of(folder))


def servers(on: Stage, number: int) -> list[int]:
    """Wait until so many servers are at work, and no other is there; the ids of their processes."""

    def at_work() -> list[int] | None:
        found = cluster.status(on.fleet).servers
        if len(found) != number or any(server.state != "running" for server in found):
            return None
        pids = [one.state.pid for one in on.fleet.servers() if one.state is not None and one.state.pid]
        return pids if len(pids) == number else None

    return eventually(at_work)


def one_of(pids: list[int]) -> list[int] | None:
    """They, once one is left: the processes of a lost node end a moment later."""
    return pids if len(pids) == 1 else None


def mead(on: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with the fleet's Redis."""
    command = [sys.executable, "-m", "mead", "ray", *arguments, "--address", on.nodes.address]
    environment = {**os.environ, "REDIS_URL": on.settings.redis_url, "DATA_DIR": str(on.settings.data_dir)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_fleet_grows_and_a_node_may_go(on: Stage) -> None:
    long = on.enqueue(8, iterations=2000)  # need two servers for as long as they run
    working = servers(on, 2)
    on.nodes.lose_power(on.nodes.nodes[0])
    (survivor,) = eventually(lambda: one_of([pid for pid in working if pid in parents()]))
    os.kill(parents()[survivor], signal.SIGKILL)  # the server hands its jobs back and ends
    eventually(lambda: survivor not in parents())
    on.cancel(long)
    on.enqueue(5, iterations=10)
    eventually(on.all_ended)
    assert check(on).clean, check(on)


def test_the_fleet_shrinks_when_it_is_quiet(on: Stage) -> None:
    eventually(on.all_ended)
    servers(on, 1)


def test_a_killed_process_is_restarted_in_its_place(on: Stage) -> None:
    (killed,) = servers(on, 1)
    actor = parents()[killed]
    os.kill(killed, signal.SIGKILL)
    (restarted,) = eventually(lambda: [pid for pid in servers(on, 1) if pid != killed])
    assert parents()[restarted] == actor


def test_what_a_server_without_room_waits_for(on: Stage) -> None:
    cluster.up(on.fleet, on.spec, ScalingPolicy(3, 3))
    eventually(lambda: (cluster.status(on.fleet).no_room or "").startswith("a server needs "))
    assert "\nservers wait for room: a server needs " in mead(on, "status").stdout
    cluster.up(on.fleet, on.spec, ScalingPolicy(1, 2, drain_seconds=2, quiet_seconds=2))
    eventually(lambda: cluster.status(on.fleet).no_room is None)


def test_the_policy_of_a_fleet_can_be_changed(on: Stage) -> None:
    (pid,) = servers(on, 1)
    assert cluster.up(on.fleet, on.spec, ScalingPolicy(1, 3)).policy.maximum == 3
    assert servers(on, 1) == [pid]


def test_the_command_line(on: Stage) -> None:
    (pid,) = servers(on, 1)
    text = mead(on, "status").stdout
    assert text.startswith("1 servers, 1 wanted, 1 to 3 allowed\n")
    assert "latentrevisions_queue: 0 waiting, 0 running, " in text
    assert mead(on, "up", "--gpus-per-server", "0").stderr == (
        "mead: servers run with other settings or resources: run `mead ray down` first\n"
    )
    assert mead(on, "down").stdout == "1 servers stopped\n"
    assert pid not in parents()
    with pytest.raises(cluster.NoFleetError, match="no fleet runs"):
        cluster.status(on.fleet)
