"""The commands that ask a service: submit, status, wait, cancel, retry, keep, jobs and queue."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mead.cli.model_commands import given, lapse_paths, out_paths, parameters_of, spec_called
from mead.cli.parser import (
    FAILED,
    NO_ANSWER,
    WRONG_USAGE,
    CommandError,
    LazyGroup,
    json_option,
    print_json,
    tell,
    watched,
)
from mead.cli.progress_bar import ProgressBar
from mead.client import Client, Job, MeadError, Picture, RefusedError, UnreachableError
from mead.files import write_whole
from mead.params import check
from mead.registry import MODELS
from mead.terminal import format_size, say
from mead.webhooks.form import WebhookForm

PATIENCE = 5  # seconds for which a service that does not answer is asked again

url_option = click.option(
    "--url",
    envvar="MEAD_URL",
    default="http://127.0.0.1:5000",
    show_default=True,
    help="The service's address.",
)
key_option = click.option("--key", envvar="MEAD_API_KEY", help="The API key.")
ids_argument = click.argument("ids", nargs=-1, required=True, metavar="ID...")


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --url, --key and --json, and a client in place of the first two."""

    @functools.wraps(command)
    def asks(url: str, key: str | None, **options: Any) -> None:
        try:
            with Client(url, key, patience=PATIENCE) as client:
                command(client, **options)
        except MeadError as error:
            raise CommandError(str(error), _code_of(error)) from error

    return url_option(key_option(json_option(asks)))


def _code_of(error: MeadError) -> int:
    """The exit code for an error of the service."""
    if isinstance(error, UnreachableError) or error.status in (429, 503):
        return NO_ANSWER
    return WRONG_USAGE if error.status in (400, 413, 415, 422) else FAILED


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
    @_asking
    def go_on(client: Client, source: str, as_json: bool, **fields: Any) -> None:
        job = client.job(source).resume(**fields)
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

    @_asking
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


def status_command(name: str) -> click.Command:
    """`mead status ID...`."""

    @click.command(name)
    @ids_argument
    @_asking
    def status(client: Client, ids: Sequence[str], as_json: bool) -> None:
        """Print how far jobs are; with --json, their records."""
        records = [client.job(job_id).record() for job_id in ids]
        if as_json:
            print_json(records)
            return
        for record in records:
            say(f"{record['id']}  {_state(record)}")

    return status


def wait_command(name: str) -> click.Command:
    """`mead wait ID...`."""

    @click.command(name)
    @ids_argument
    @click.option("-o", "--out", type=click.Path(path_type=Path), help="The PNG file; of several, the first.")
    @click.option(
        "--timelapse",
        type=click.Path(path_type=Path),
        help="File for the time-lapse, .webp or .mp4, of a job with frames; of several, the first.",
    )
    @click.option("--timeout", type=float, metavar="SECONDS", help="How long to wait for each job.")
    @_asking
    def wait(
        client: Client,
        ids: Sequence[str],
        out: Path | None,
        timelapse: Path | None,
        timeout: float | None,
        as_json: bool,
    ) -> None:
        """Wait until jobs have ended, save their pictures and print the paths.

        Without --out, the pictures are saved as ID.png.
        """
        paths = out_paths(out, len(ids)) if out is not None else [Path(f"{job_id}.png") for job_id in ids]
        lapses = lapse_paths(timelapse, len(ids)) if timelapse is not None else []
        saved = []
        for number, (job_id, path) in enumerate(zip(ids, paths, strict=True)):
            picture = _wait(client.job(job_id), timeout)
            saved.append({"path": str(picture.save(path)), "id": picture.id, "seed": picture.seed})
            if lapses:
                write_whole(lapses[number], client.job(job_id).timelapse(lapses[number].suffix[1:]))
            if not as_json:
                print(path, flush=True)
        if as_json:
            print_json({"pictures": saved})

    return wait


def _wait(job: Job, timeout: float | None) -> Picture:
    """Wait for a job, with a bar if somebody sees it.

    Raises:
        TimeoutError, mead.client.MeadError
    """
    bar = ProgressBar(job.id[:8], unit="step") if watched() else None
    try:
        for progress in job.progress(timeout):
            if bar is not None:
                bar.show(progress.steps, progress.total_steps)
    finally:
        if bar is not None:
            bar.end()
    return job.image


def cancel_command(name: str) -> click.Command:
    """`mead cancel ID...`."""

    @click.command(name)
    @click.option("--group", is_flag=True, help="Cancel also the jobs that were made together with these.")
    @ids_argument
    @_asking
    def cancel(client: Client, ids: Sequence[str], group: bool, as_json: bool) -> None:
        """Cancel jobs: queued ones at once, running ones at their next step."""
        _each(ids, as_json, "cancelled", lambda job_id: _group_of(client, job_id, group).cancel())

    return cancel


def _group_of(client: Client, job_id: str, group: bool) -> Job:
    """A job; or its group, if it has one and that is asked for."""
    if group and (first := client.job(job_id).record().get("group")):
        return client.job(*(record["id"] for record in client.jobs(group=first)))
    return client.job(job_id)


def retry_command(name: str) -> click.Command:
    """`mead retry ID...`."""

    @click.command(name)
    @ids_argument
    @_asking
    def retry(client: Client, ids: Sequence[str], as_json: bool) -> None:
        """Run failed jobs again, with the same ids. Jobs whose parameters were at fault cannot run again."""
        _each(ids, as_json, "queued", lambda job_id: client.job(job_id).retry())

    return retry


def keep_command(name: str) -> click.Command:
    """`mead keep ID...`."""

    @click.command(name)
    @click.option("--undo", is_flag=True, help="Let them go after the retention time, counted from now.")
    @ids_argument
    @_asking
    def keep(client: Client, ids: Sequence[str], undo: bool, as_json: bool) -> None:
        """Keep jobs' records and pictures beyond the service's retention time."""
        if undo:
            _each(ids, as_json, "released", lambda job_id: client.job(job_id).unkeep())
        else:
            _each(ids, as_json, "kept", lambda job_id: client.job(job_id).keep())

    return keep


def _each(ids: Iterable[str], as_json: bool, done: str, act: Callable[[str], None]) -> None:
    """Do something with each job, and say what came of it.

    Raises:
        CommandError: it was refused for some of them.
    """
    outcomes = {}
    refused = []
    for job_id in ids:
        try:
            act(job_id)
            outcomes[job_id] = done
        except RefusedError as error:
            outcomes[job_id] = error.message
            refused.append(error.message)
    if as_json:
        print_json(outcomes)
    else:
        for job_id, outcome in outcomes.items():
            if outcome == done:
                say(f"{job_id}  {done}")
    if refused:
        raise CommandError("; ".join(refused))


def jobs_command(name: str) -> click.Command:
    """`mead jobs`."""

    @click.command(name)
    @click.option("--status", type=click.Choice(["queued", "processing", "succeeded", "failed", "cancelled"]))
    @click.option("--group", metavar="ID", help="Only the jobs of this group.")
    @click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The most jobs.")
    @_asking
    def jobs(client: Client, status: str | None, group: str | None, limit: int, as_json: bool) -> None:
        """List this key's jobs, the newest first."""
        records = list(client.jobs(status=status, group=group, limit=limit))
        if as_json:
            print_json(records)
            return
        for record in records:
            created = record["created_at"][:19].replace("T", " ")
            say(f"{record['id']}  {created}  {_state(record)}  {record.get('prompt', '')}")

    return jobs


def queue_command(name: str) -> click.Command:
    """`mead queue`."""

    @click.command(name)
    @_asking
    def queue(client: Client, as_json: bool) -> None:
        """Print what waits and what runs: the queues, and the inference servers."""
        state = client.queues()
        if as_json:
            print_json({"queues": state["queues"], "workers": state["workers"]})
            return
        for one in state["queues"]:
            speed = f"{one['steps_per_second']:.1f} steps a second"
            running = f"{one['running']} of {one['capacity']} running"
            say(f"{one['name']}: {one['waiting']} waiting, {running}, {speed}")
        for worker in state["workers"]:
            memory, weights = format_size(worker["memory_bytes"]), worker["weights"] or "unknown"
            since = worker["started_at"][:19].replace("T", " ")
            say(f"{worker['name']}: weights {weights}, {worker['running']} running, {memory}, since {since}")
        if not state["workers"]:
            say("no inference server is running")

    return queue


def _state(record: dict[str, Any]) -> str:
    """A job's status in a few words."""
    status: str = record["status"]
    if status == "queued":
        return f"queued, {record['rank']} before it" if record["rank"] else "queued, next"
    if status == "processing":
        return f"step {record['steps']} of {record.get('total_steps', '?')}"
    return f"failed: {record.get('error')}" if status == "failed" else status
