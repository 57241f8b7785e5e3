"""The commands that run inference servers on a Ray cluster: `mead ray up`, `status` and `down`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from mead.cli.parser import NO_ANSWER, CommandError, LazyGroup, json_option, print_json
from mead.settings import Settings
from mead.terminal import say

if TYPE_CHECKING:
    from mead.fleet.autoscaler import FleetStatus
    from mead.fleet.fleet import Fleet


def ray_command(name: str) -> click.Command:
    """A group: `mead ray up`, `mead ray status`, `mead ray down`."""
    return LazyGroup(
        name,
        commands_at={command: f"{__name__}.{command}_command" for command in ("up", "status", "down")},
        help="Run inference servers on a Ray cluster, as many as the queues need.",
    )


def _ray_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --address, --timeout and --namespace."""
    address = click.option(
        "--address",
        envvar="RAY_ADDRESS",
        default="auto",
        show_default=True,
        show_envvar=True,
        help="HOST:PORT of Ray's head; auto: this machine's.",
    )
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=15.0,
        show_default=True,
        metavar="SECONDS",
        help="How long Ray's head may take to answer.",
    )
    namespace = click.option(
        "--namespace", default="mead", show_default=True, help="Ray's namespace of the fleet."
    )
    return address(timeout(namespace(command)))


@contextmanager
def _fleet(address: str, timeout: float, namespace: str) -> Iterator[Fleet]:
    """The fleet at an address, see `mead.fleet.cluster.connected`.

    Raises:
        CommandError: Ray is not installed, there is no cluster, or what is done in the block fails.
    """
    if find_spec("ray") is None:
        raise CommandError("Ray is not installed: pip install 'mead-backend[ray]'")
    from mead.fleet.cluster import FleetError, NoFleetError, connected

    try:
        with connected(address, namespace, timeout) as fleet:
            yield fleet
    except NoFleetError as error:
        raise CommandError(str(error), NO_ANSWER) from error
    except FleetError as error:
        raise CommandError(str(error)) from error


def up_command(name: str) -> click.Command:
    """`mead ray up`."""

    @click.command(name)
    @click.option("--min", "minimum", type=click.IntRange(1), default=1, show_default=True)
    @click.option("--max", "maximum", type=click.IntRange(1), default=8, show_default=True)
    @click.option(
        "--gpus-per-server",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        help="GPUs of each server; 0.5 for two servers per GPU, 0 for servers on CPUs.",
    )
    @click.option(
        "--cpus-per-server", type=click.FloatRange(0), default=1.0, show_default=True, help="Likewise, CPUs."
    )
    @click.option(
        "--drain-seconds",
        type=click.FloatRange(1),
        default=60.0,
        show_default=True,
        help="Start servers until the jobs that wait can run within this time.",
    )
    @click.option(
        "--quiet-seconds",
        type=click.FloatRange(0),
        default=300.0,
        show_default=True,
        help="Stop servers that were not needed for this time.",
    )
    @_ray_options
    def up(
        address: str,
        timeout: float,
        namespace: str,
        gpus_per_server: float,
        cpus_per_server: float,
        **limits: Any,
    ) -> None:
        """Keep inference servers running, between --min and --max.

        They get this command's settings (REDIS_URL, DATA_URL, WEIGHTS, ...) and the variables AWS_*. Run it
        again to change --min, --max, --drain-seconds or --quiet-seconds.
        """
        settings = Settings()
        if limits["minimum"] > limits["maximum"]:
            raise click.UsageError("--min is more than --max")
        with _fleet(address, timeout, namespace) as fleet:
            from mead.fleet import cluster
            from mead.fleet.scaling import ScalingPolicy
            from mead.fleet.server import ServerSpec

            environment = cluster.server_environment(settings, os.environ, gpus_per_server)
            spec = ServerSpec(environment, cpus_per_server, gpus_per_server)
            _show(cluster.up(fleet, spec, ScalingPolicy(**limits)))

    return up


def status_command(name: str) -> click.Command:
    """`mead ray status`."""

    @click.command(name)
    @json_option
    @_ray_options
    def status(address: str, timeout: float, namespace: str, as_json: bool) -> None:
        """Print the servers, what they do, and what the queues need."""
        with _fleet(address, timeout, namespace) as fleet:
            from mead.fleet import cluster

            found = cluster.status(fleet)
        if as_json:
            print_json(asdict(found))
        else:
            _show(found)

    return status


def down_command(name: str) -> click.Command:
    """`mead ray down`."""

    @click.command(name)
    @_ray_options
    def down(address: str, timeout: float, namespace: str) -> None:
        """Stop all servers. Jobs that run go back to their queues."""
        with _fleet(address, timeout, namespace) as fleet:
            from mead.fleet import cluster

            say(f"{cluster.down(fleet)} servers stopped")

    return down


def _show(found: FleetStatus) -> None:
    policy = found.policy
    say(f"{len(found.servers)} servers, {found.wanted} wanted, {policy.minimum} to {policy.maximum} allowed")
    if found.problem is not None:
        say(f"the number of servers stays as it is: {found.problem}")
    if found.no_room is not None:
        say(f"servers wait for room: {found.no_room}")
    for server in found.servers:
        where = f" on {server.node}" if server.node is not None else ""
        what = f", {server.running} jobs, {server.steps_per_second:.1f} steps a second"
        say(f"{server.name}: {server.state}{where}{what if server.worker else ''}")
    for queue, load in found.queues.items():
        say(f"{queue}: {load.waiting} waiting, {load.running} running, {60 * load.arrivals:.0f} new a minute")
