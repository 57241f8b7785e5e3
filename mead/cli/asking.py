"""What the commands that ask a service share: where it is, the key, exit codes for its errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from mead.cli.parser import FAILED, NO_ANSWER, WRONG_USAGE, CommandError, json_option
from mead.client import Client, MeadError, UnreachableError
from mead.client.address import DEFAULT_URL

PATIENCE = 5  # seconds for which a service that does not answer is asked again

url_option = click.option("--url", help=f"The service's address; by default MEAD_URL, else {DEFAULT_URL}.")
key_option = click.option("--key", help="The API key; by default MEAD_API_KEY.")


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --url, --key and --json, and a client in place of the first two."""

    @functools.wraps(command)
    def asks(url: str | None, key: str | None, **options: Any) -> None:
        try:
            client = Client(url, key, patience=PATIENCE)
        except ValueError as error:
            raise CommandError(str(error), WRONG_USAGE) from error
        try:
            with client:
                command(client, **options)
        except MeadError as error:
            raise CommandError(str(error), _code_of(error)) from error

    return url_option(key_option(json_option(asks)))


def _code_of(error: MeadError) -> int:
    """The exit code for an error of the service."""
    if isinstance(error, UnreachableError) or error.status in (429, 503):
        return NO_ANSWER
    return WRONG_USAGE if error.status in (400, 413, 415, 422) else FAILED
