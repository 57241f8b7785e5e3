"""The command `submit`: send a job to a service, or go on with one."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from mead.cli.asking import asking
from mead.cli.model_commands import given, parameters_of, spec_called
from mead.cli.parser import CommandError, LazyGroup, print_json, tell
from mead.client import AddressError, Client, Job, RefusedError
from mead.params import check
from mead.registry import MODELS
from mead.terminal import say
from mead.webhooks.form import WebhookForm


def submit_command(name: str) -> click.Command:
    """A group: `mead submit generate PROMPT`, `mead submit edit IMG PROMPT`; and `mead submit --from ID`, of
    either.
    """

    @click.command
    @click.option(
        "--from",
        "source",
        metavar="ID",
        help="Go on with this job with --iterations further steps, or show its edit at another --strength.",
    )
    @click.option("--iterations", metavar="ITERATIONS", help="With --from: how many further steps.")
    @click.option("--frames", metavar="FRAMES", help="With --from: frames of a time-lapse of these steps.")
    @click.option("--strength", metavar="STRENGTH", help="With --from: how much of the edit is shown.")
    @click.option(
        "--output",
        type=click.Choice(["face", "photo", "pair"]),
        help="With --from: what else is shown of the edit.",
    )
    @click.option("--upscale", type=click.Choice(["1", "2", "4"]), help="With --from: another size.")
    @asking
    def go_on(client: Client, source: str, as_json: bool, **fields: Any) -> None:
        try:
            job = client.job(source).resume(**fields)
        except RefusedError as error:
            if error.status != 404 or error.field is not None or isinstance(error, AddressError):
                raise
            raise CommandError(f"from: {error.message}") from error
        _tell_accepted(job, as_json)

    def submit(**options: Any) -> None:
        context = click.get_current_context()
        sources = map(context.get_parameter_source, options)
        given_here = ParameterSource.COMMANDLINE in sources
        if context.invoked_subcommand is None and options["source"]:
            context.invoke(go_on, **options)
        elif context.invoked_subcommand is None or given_here:
            raise click.UsageError("give a model, as in `mead submit generate PROMPT`, or --from ID alone")

    return LazyGroup(
        name,
        commands_at={spec.command_name: f"{__name__}.submit_to" for spec in MODELS.values()},
        aliases={spec.route: f"{__name__}.submit_to" for spec in MODELS.values()},
        params=go_on.params,
        callback=submit,
        invoke_without_command=True,
        help="Send a job to a service and print its id, without waiting. `mead wait ID` fetches the picture.",
    )


def submit_to(name: str) -> click.Command:
    """The command that sends a job of one model."""
    spec = spec_called(name)

    @asking
    def submit(client: Client, as_json: bool, **options: Any) -> None:
        parameters = given(spec, options)
        checked = check(spec.params, parameters)
        fields: dict[str, Any] = {field.removesuffix("_path"): value for field, value in parameters.items()}
        fields |= {"seed": checked.seed, "n": checked.n}
        fields |= {name: options[name] for name in WebhookForm.model_fields}
        job = client.submit(model=spec.route, **fields)
        tell(f"seed {checked.seed}")
        _tell_accepted(job, as_json, seed=checked.seed)

    command: click.Command = click.command(name, help=f"{spec.summary} Sends the job to a service.")(submit)
    webhooks = [
        click.Option([f"--{name}"], metavar=metavar, help=WebhookForm.model_fields[name].description)
        for name, metavar in (("webhook", "URL"), ("webhook_events_filter", "EVENTS"))
    ]
    command.params = [*parameters_of(spec, name), *webhooks, *command.params]
    return command


def _tell_accepted(job: Job, as_json: bool, **more: Any) -> None:
    """Print the ids of a job that was accepted, and the notes on it."""
    for note in job.notes:
        say(f"mead: {note}", file=sys.stderr)
    if as_json:
        print_json({"ids": list(job.ids), **more, "notes": list(job.notes)})
    else:
        print(*job.ids, sep="\n")
