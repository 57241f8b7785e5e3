"""The commands that ask a service for its jobs: status, wait, cancel, retry, keep, jobs and queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from mead.cli.asking import asking
from mead.cli.model_commands import lapse_paths, out_paths
from mead.cli.parser import CommandError, print_json, watched
from mead.cli.progress_bar import ProgressBar
from mead.client import Client, Job, Picture, RefusedError
from mead.files import write_whole
from mead.output import try_output
from mead.terminal import format_size, say

ids_argument = click.argument("ids", nargs=-1, required=True, metavar="ID...")


def status_command(name: str) -> click.Command:
    """`mead status ID...`."""

    @click.command(name)
    @ids_argument
    @asking
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
    @asking
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
        try_output(paths[0], "out")
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
    @asking
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
    @asking
    def retry(client: Client, ids: Sequence[str], as_json: bool) -> None:
        """Run failed jobs again, with the same ids. Jobs whose parameters were at fault cannot run again."""
        _each(ids, as_json, "queued", lambda job_id: client.job(job_id).retry())

    return retry


def keep_command(name: str) -> click.Command:
    """`mead keep ID...`."""

    @click.command(name)
    @click.option("--undo", is_flag=True, help="Let them go after the retention time, counted from now.")
    @ids_argument
    @asking
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
    @click.option("--kept", is_flag=True, help="Only jobs that are kept beyond the retention time.")
    @click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The most jobs.")
    @asking
    def jobs(client: Client, as_json: bool, **which: Any) -> None:
        """List this key's jobs, the newest first."""
        records = list(client.jobs(**which))
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
    @asking
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
