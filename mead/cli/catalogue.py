"""The command `models`: what can be made, and with which parameters."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from mead.cli.parser import json_option, print_json
from mead.http.models import models_of
from mead.http.schemas import ModelDescription
from mead.settings import Settings
from mead.terminal import say

WIDTH = 100


def models_command(name: str) -> click.Command:
    """`mead models`."""

    @click.command(name)
    @click.option("--weights", help="Set of weights; by default the setting WEIGHTS.")
    @json_option
    def models(weights: str | None, as_json: bool) -> None:
        """Print what can be made: models, their parameters, what the weights draw; as GET /models."""
        settings = Settings()
        if weights is not None:
            settings = settings.model_copy(update={"weights": weights})
        found = models_of(settings, files_required=False)
        if as_json:
            print_json(found.content())
            return
        say(f"Weights {found.weights}: {found.description}")
        if found.draws:
            say(textwrap.fill(found.draws, WIDTH))
        for model in found.models:
            _print_model(model)

    return models


def _print_model(model: ModelDescription) -> None:
    say(f"\n{model.command}: {model.summary}")
    for prompt in model.examples:
        say(f'  as in "{prompt}"')
    for name, schema in model.parameters.items():
        say(f"  {name}: {', '.join(_facts(schema, name in model.required))}")
        say(textwrap.fill(schema["description"], WIDTH, initial_indent="      ", subsequent_indent="      "))


def _facts(schema: dict[str, Any], required: bool) -> list[str]:
    """What a parameter takes, in a few words each."""
    facts = ["required"] if required else []
    if schema.get("format") == "binary":
        facts.append("a picture")
    if "enum" in schema:
        facts.append(" or ".join(map(str, schema["enum"])))
    if "minimum" in schema:
        facts.append(f"{schema['minimum']} to {schema['maximum']}")
    if "maxLength" in schema:
        facts.append(f"up to {schema['maxLength']} characters")
    if "default" in schema:
        facts.append(f"default {schema['default']}")
    return facts
